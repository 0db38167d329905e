"""The rotary tables that TransformerLens' attention keeps, and the two rules by which the first Qwen reads long texts.

    attn.rotary_cos, attn.rotary_sin       [position, rotary_dim], grown as positions are asked for
    attn.apply_rotary(q)                   queries or keys, turned

Tables are made when they are asked for: a pass takes its angles from `interp_hooks.model.components.positions`. The
first Qwen widens the base of its angles (`use_dynamic_ntk_rope`) and scales its queries (`use_logn_attn`) beyond the
length that it was trained on, and outside of training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.utilities import get_offset_position_ids
from interp_hooks.errors import BadInput
from interp_hooks.model import config as core
from interp_hooks.model.components.positions import RotaryPositions, Rotation, by_dimension, in_pairs, rotate


def ntk_alpha(length: int, trained: int) -> float:
    """How much wider the base is for a text of `length` tokens: 1 up to the training length, then 3, 7, 15, ..."""
    return 1.0 if length <= trained else float(2 ** math.ceil(math.log2(length / trained) + 1) - 1)


class QwenPositions(RotaryPositions):
    """Rotations by the rules of the first Qwen, as far as the config asks for them."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.widens, self.scales, self.trained = cfg.use_dynamic_ntk_rope, cfg.use_logn_attn, trained_on(cfg)

    def rotation(self, rope: Any, positions: Int[Tensor, "rows pos"], dtype: torch.dtype) -> Rotation:
        """The angles at some positions, and the factor of queries."""
        if self.training:
            return super().rotation(rope, positions, dtype)
        if self.widens:
            alpha = ntk_alpha(int(positions.max()) + 1, self.trained)
            rope = {**rope, "rope_theta": rope["rope_theta"] * alpha ** (self.dim / (self.dim - 2))}
        found = super().rotation(rope, positions, dtype)
        if not self.scales:
            return found
        factor = (positions + 1).double().log() / math.log(self.trained)
        return found._replace(query_scale=factor.clamp(min=1).to(dtype)[..., None, None])

    def turns_anew(self, read: Int[Tensor, " #rows"], total: Int[Tensor, " #rows"]) -> bool:
        """Whether the base changes between `read` and `total` tokens."""
        alphas = [ntk_alpha(int(lengths.max()), self.trained) for lengths in (read, total)]
        return super().turns_anew(read, total) or (self.widens and not self.training and alphas[0] != alphas[1])


def trained_on(cfg: HookedTransformerConfig) -> int:
    """The number of tokens of the texts in training."""
    return cfg.train_seq_length or cfg.n_ctx


def as_in_qwen(cfg: HookedTransformerConfig) -> bool:
    """Whether a config asks for one of the first Qwen's rules."""
    return cfg.use_dynamic_ntk_rope or cfg.use_logn_attn


def _refuse_other(table: Tensor, own: Tensor) -> None:
    if not torch.equal(table.to(own), own):
        raise BadInput(
            "rotary angles are told by the config (rotary_base, rotary_scaling, rotary_layers), not by tables"
        )


class RotaryTables:
    """Attention whose angles can be read from tables and applied by hand, and whose scores can be masked."""

    ROTARY_INITIAL_CACHE_SIZE = 2048

    alone: Any
    window: int | None
    training: bool

    def calculate_sin_cos_rotary(
        self, rotary_dim: int, n_ctx: int, base: float = 10000, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "n_ctx rotary_dim"], Float[Tensor, "n_ctx rotary_dim"]]:
        """Sine and cosine of the angle of every dimension of a head, at the first `n_ctx` positions."""
        cfg = self.alone.config.replace(rotary_dim=rotary_dim)
        rope = {**cfg.rotary_at(self.alone.layer), "rope_theta": base}
        found = RotaryPositions(cfg).rotation(rope, torch.arange(n_ctx)[None], dtype)
        _, sin = in_pairs(found.sin[0, :, 0], found.adjacent)  # of a pair, the second dimension takes it as it is
        return by_dimension(sin, sin, found.adjacent), found.cos[0, :, 0]

    @property
    def rotary_sin(self) -> Float[Tensor, "position rotary_dim"]:
        """Sines of the angles at the positions that have been asked for so far, at first at most 2048.

        Raises:
            BadInput: (as it is set) other numbers than there are; the config says them.
        """
        return self._tables()[0]

    @rotary_sin.setter
    def rotary_sin(self, table: Tensor) -> None:
        _refuse_other(table, self.rotary_sin)

    @property
    def rotary_cos(self) -> Float[Tensor, "position rotary_dim"]:
        """Cosines of the same."""
        return self._tables()[1]

    @rotary_cos.setter
    def rotary_cos(self, table: Tensor) -> None:
        _refuse_other(table, self.rotary_cos)

    def _tables(self) -> tuple[Tensor, Tensor]:
        cfg = self.alone.config
        if cfg.rotary_at(self.alone.layer) is None:
            raise AttributeError("rotary_sin, rotary_cos: attention without rotary positions has no tables of them")
        if "tables" not in vars(self):
            self._make_tables(min(cfg.n_ctx, self.ROTARY_INITIAL_CACHE_SIZE))
        return vars(self)["tables"]

    def _extend_rotary_embeddings(self, new_size: int) -> None:
        self._make_tables(new_size)

    def _make_tables(self, size: int, alpha: float = 1.0) -> None:
        cfg = self.alone.config
        base = cfg.rotary_at(self.alone.layer)["rope_theta"] * alpha ** (cfg.rotary_dim / max(cfg.rotary_dim - 2, 1))
        tables = self.calculate_sin_cos_rotary(cfg.rotary_dim, size, base, core.as_dtype(cfg.dtype))
        vars(self).update(tables=tables, alpha=alpha)

    def apply_rotary(
        self,
        x: Float[Tensor, "batch pos head d_head"],
        past_kv_pos_offset: int = 0,
        attention_mask: Int[Tensor, "batch all_pos"] | None = None,
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries or keys, turned by the angles of their positions, which follow `past_kv_pos_offset` earlier ones."""
        cfg, length = self.alone.config, past_kv_pos_offset + x.shape[1]
        if cfg.use_dynamic_ntk_rope and not self.training:
            self._rescale_rotary_for_ntk(length)
        if length > len(self.rotary_cos):
            self._extend_rotary_embeddings(min(cfg.n_ctx, max(length, 2 * len(self.rotary_cos))))
        ids = torch.arange(past_kv_pos_offset, length)[None]
        if attention_mask is not None:
            ids = get_offset_position_ids(past_kv_pos_offset, attention_mask)
        adjacent = cfg.rotary_adjacent_pairs
        tables = (table.to(x)[ids.to(x.device)][:, :, None] for table in self._tables())
        (_, sin), (_, cos) = (in_pairs(table, adjacent) for table in tables)
        return rotate(x, Rotation.of_pairs(cos, sin, adjacent))

    _ntk_alpha = staticmethod(ntk_alpha)

    def _rescale_rotary_for_ntk(self, key_length: int) -> None:
        """Let the tables be those of a text of some length."""
        alpha, rows = ntk_alpha(key_length, trained_on(self.alone.config)), len(self.rotary_cos)
        if alpha != vars(self)["alpha"] or key_length > rows:
            self._make_tables(max(key_length, rows), alpha)

    def _apply_logn_scaling(
        self, q: Float[Tensor, "batch pos head d_head"], kv_cache_pos_offset: int = 0
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries, times the factor of their positions."""
        at = torch.arange(kv_cache_pos_offset, kv_cache_pos_offset + q.shape[1], device=q.device)[None]
        cfg = self.alone.config
        scale = QwenPositions(cfg).eval().rotation(cfg.rotary_at(self.alone.layer), at, q.dtype).query_scale
        return q if scale is None else q * scale

    def apply_causal_mask(
        self,
        attn_scores: Float[Tensor, "batch head query key"],
        past_kv_pos_offset: int = 0,
        attention_mask: Int[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """Scores, -inf where a query sees no key: later ones, those outside of the window, and padding (mask 0).

        Raises:
            BadInput: there are more or fewer keys than `past_kv_pos_offset` and those of the queries.
        """
        queries, keys = attn_scores.shape[-2:]
        if queries + past_kv_pos_offset != keys:
            raise BadInput(f"{queries} queries after {past_kv_pos_offset} tokens see as many keys, got {keys}")
        seen = torch.ones(queries, keys, dtype=torch.bool, device=attn_scores.device).tril(past_kv_pos_offset)
        if self.window is not None:
            seen = seen.triu(past_kv_pos_offset - self.window + 1)
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, None].to(seen.device)
        return attn_scores.masked_fill(~seen, -torch.inf)
