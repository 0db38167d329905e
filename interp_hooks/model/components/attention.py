"""Multi-head attention, with grouped keys and values, in one fused kernel unless somebody changes what is inside.

    q, k, v --norm, rotate--> scores = q k / attn_scale --cap, alibi, mask, softmax--> pattern --> z = pattern v
    z = pattern v * sigmoid(x W_G + b_G)       where heads have gates (`gated_attn`)
    out = z W_O + b_O

Scores and patterns (the only tensors of size pos x pos) are made only while hooked, under transforms of torch.func, or
for a soft cap, which no fused kernel can do; per-head results are made only while hooked. For who only looks they are
made beside the kernel, from which z comes as ever: looking changes no bit of what follows. A sink (`hook_sink`: its
score) takes a share of every softmax and adds nothing, so that rows of the pattern sum to less than one. The final
classes differ in where q, k and v come from: `Attention` projects the stream (in `shared_keys.py` with one matrix for k
and v, or for q alone), `LatentAttention` (in `latent.py`) a low-rank summary of it; in `indexed.py` queries see only
some keys.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.autograd import refuse_second_derivatives, transformed
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.mixer import Mixer, Promise, Reader
from interp_hooks.model.components.norm import NoNorm, Norm, head_norm, value_norm
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.components.weights import (
    READER_PER_HEAD,
    parameter,
    read_per_head,
)
from interp_hooks.model.config import HookedTransformerConfig

Lent = dict[int, tuple[Tensor, ...]]
"""Keys and values of the tokens of a pass, or the choice of keys, by the layer that made them, for later layers."""
Inputs = tuple[Tensor, Tensor, Tensor]
"""What queries, keys and values read, normalized: one stream each, or one per head."""


class Visibility:
    """Which keys each query sees. Dense masks are made at most once a pass, and only if a kernel needs them.

    The queries are the last `queries` of `keys` tokens, or only those at `rows` [batch, n]; `real` is False for
    padding, `positions` are the tokens' positions. A padding query sees itself, so that every row of every pattern
    sums to one. With `documents` a token sees only those of its own document.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        causal: bool,
        real: Bool[Tensor, "batch key"] | None,
        positions: Int[Tensor, "rows key"],
        rows: Int[Tensor, "batch n"] | None = None,
        documents: Int[Tensor, "batch key"] | None = None,
    ) -> None:
        self.queries, self.keys, self.causal, self.real, self.positions = queries, keys, causal, real, positions
        self.rows, self.documents = rows, documents
        self._windowed: dict[int, Bool[Tensor, "rows 1 query key"]] = {}

    @cached_property
    def own(self) -> Bool[Tensor, "batch pos"] | None:
        """Which of the tokens of the pass are real; None if all are.

        Raises:
            BadInput: padding between real tokens, or several documents in a row.
        """
        if self.documents is not None:
            raise BadInput(
                "a recurrence reads on from one document into the next: give each document a row of its own in models "
                "with such layers"
            )
        if self.real is None:
            return None
        ended = (~self.real & (self.real.cumsum(1) > 0)).cumsum(1) > 0
        if bool((ended & self.real).any()):
            raise BadInput(
                "padding stands between the real tokens of a row, which a recurrence or a convolution cannot skip: "
                "pad on the left, or on the right in a pass that nothing follows"
            )
        return self.real[:, -self.queries :]

    @cached_property
    def first(self) -> Bool[Tensor, "rows pos"]:
        """Which of the tokens of the pass are at position 0; padding before a text is too."""
        return self.positions[:, -self.queries :] == 0

    def to(self, device: torch.device) -> "Visibility":
        """This visibility on another device."""
        if self.positions.device == device:
            return self
        real, rows, documents = (x if x is None else x.to(device) for x in (self.real, self.rows, self.documents))
        return Visibility(self.queries, self.keys, self.causal, real, self.positions.to(device), rows, documents)

    def only(self, rows: Int[Tensor, "batch n"]) -> "Visibility":
        """The visibility of only some of the queries."""
        rows = rows.to(self.positions.device)
        return Visibility(self.queries, self.keys, self.causal, self.real, self.positions, rows, self.documents)

    def chosen(self, value: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch query ..."]:
        """The values at the queries, of those at all positions of the pass."""
        if self.rows is None:
            return value
        rows = self.rows.reshape(*self.rows.shape, *[1] * (value.ndim - 2))
        return value.gather(1, rows.expand(-1, -1, *value.shape[2:]))

    def needs_mask(self, window: int | None) -> bool:
        """Whether a kernel needs the dense mask, since "causal" or "everything" does not describe what is seen."""
        cuts = window is not None and window < self.keys
        everything = self.queries == self.keys and self.rows is None
        hides = self.real is not None or self.documents is not None
        return cuts or hides or (self.causal and not everything)

    def mask(self, window: int | None) -> Bool[Tensor, "rows 1 query key"]:
        """True where a query may look; through a window it sees the last `window` tokens, itself included.

        Where tokens see those that follow, it sees as many of them.
        """
        if window is None or window >= self.keys:
            return self.dense
        if window not in self._windowed:
            past = self.keys - self.queries
            near = self._every.triu(past - window + 1)
            if not self.causal:
                near = near & self._every.tril(past + window - 1)
            self._windowed[window] = self.dense & self._rows_of(near)
        return self._windowed[window]

    def _rows_of(self, square: Tensor) -> Tensor:
        """The rows of [query, key] or [rows, 1, query, key] that belong to the chosen queries."""
        if self.rows is None:
            return square
        square = square.expand(len(self.rows), 1, -1, -1)
        return square.gather(2, self.rows[:, None, :, None].expand(-1, -1, -1, self.keys))

    @cached_property
    def _every(self) -> Bool[Tensor, "query key"]:
        return torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.positions.device)

    @cached_property
    def dense(self) -> Bool[Tensor, "rows 1 query key"]:
        """True where a query without a window may look."""
        every, past = self._every, self.keys - self.queries
        seen = (every.tril(past) if self.causal else every)[None, None]
        if self.real is not None:
            itself = every.tril(past) & every.triu(past)
            seen = seen & self.real[:, None, None, :] | itself
        if self.documents is not None:
            seen = seen & (self.documents[:, None, -self.queries :, None] == self.documents[:, None, None, :])
        return self._rows_of(seen)

    @cached_property
    def distance(self) -> Int[Tensor, "rows 1 query key"]:
        """The number of positions from each key to each query."""
        return self._rows_of((self.positions[:, -self.queries :, None] - self.positions[:, None, :])[:, None])


class AttentionCore(Mixer):
    """What every attention layer does with queries, keys and values. Abstract."""

    kind = "attention"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.lends, self.source = layer, cfg.lends_keys(layer), cfg.source_of_keys(layer)
        heads, groups = self.heads, self.groups = cfg.n_heads, cfg.kv_heads_at(layer)
        d_head, d_value = self.d_head, self.d_value = cfg.d_head_at(layer), cfg.d_value_at(layer)
        self.queries_per_key = heads // groups
        self.scale, self.soft_cap = cfg.attn_scale_at(layer), cfg.attn_scores_soft_cap
        self.window = cfg.window_at(layer)
        self.slopes = cfg.alibi_slopes
        self._write_with(cfg, heads, d_value)
        self.hook_q = HookPoint("batch pos head d_head", head=heads, d_head=d_head)
        self.hook_k = HookPoint("batch pos head d_head", head=groups, d_head=d_head)
        self.hook_v = HookPoint("batch pos head d_head", head=groups, d_head=d_value)
        if cfg.rotary_at(layer) is not None:
            self.hook_rot_q = HookPoint("batch pos head d_head", head=heads, d_head=d_head)
            self.hook_rot_k = HookPoint("batch pos head d_head", head=groups, d_head=d_head)
        self.hook_attn_scores = HookPoint("batch head query key", head=heads)
        self.hook_pattern = HookPoint("batch head query key", head=heads)
        self.sinks = parameter(heads) if cfg.sinks_at(layer) else None
        if self.sinks is not None:
            self.hook_sink = HookPoint("batch head query", head=heads)
        self._show_writing()

    @abstractmethod
    def queries_keys_values(
        self, inputs: Inputs, rotation: Rotation | None, lent: Lent | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, pos, head, d_head], ready for scores and the mixing of values."""

    def forward(
        self,
        inputs: Inputs,
        rotation: Rotation | None,
        visibility: Visibility,
        earlier: Earlier | None = None,
        lent: Lent | None = None,
    ) -> Float[Tensor, "batch query head d_value"]:
        """What each head mixes from the values; with `earlier`, queries see keys and values of earlier tokens too.

        `lent` holds what layers that came before lend, and takes what this one does.
        """
        inputs = self._entering(inputs)
        q, k, v = self.queries_keys_values(inputs, rotation, lent)
        if self.lends and lent is not None:
            lent[self.layer] = k, v
        return self.attend(q, k, v, inputs[0], visibility, earlier)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, visibility: Visibility, earlier: Earlier | None
    ) -> Float[Tensor, "batch query head d_value"]:
        """`forward`, given queries, keys and values, and what queries are read from."""
        q = visibility.chosen(q)
        if earlier is not None:
            k, v = earlier(k, v)
        looked_at = [point for point in self._inside if point.hooked]
        if self.soft_cap > 0 or transformed() or any(point.edited for point in looked_at):
            z = self._explicit(q, k, v, visibility)
        else:
            if looked_at:
                self._pattern(q.detach(), k.detach(), visibility)
            z = self._fused(q, k, v, visibility)
        return self._gated(z, x, visibility)

    def _entering(self, inputs: Inputs) -> Inputs:
        """What is read, as this process's heads read it: a stream of all heads, or those of its own."""
        if self.ranks is None:
            return inputs
        ranks = self.ranks
        q, k, v = ((ranks.read(x) if x.ndim == 3 else ranks.part(x, 2)) for x in inputs)
        return q, k, v

    def _gated(self, z: Tensor, x: Tensor, visibility: Visibility) -> Tensor:
        """z, times what the gates of heads let pass."""
        return z

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That z is what patterns and values say, that patterns sum to one, and that heads add up."""
        pattern = here["hook_pattern"].double()
        values = here["hook_v"].repeat_interleave(self.queries_per_key, dim=2).double()
        yield from self._let_through(torch.einsum("bhqk,bkhd->bqhd", pattern, values), here)
        total = pattern.sum(-1)
        if self.sinks is None:
            yield Promise("rows of pattern == 1", total, torch.ones_like(total))
        else:
            scores = here["hook_attn_scores"].double()
            log_sum = torch.logaddexp(scores.logsumexp(-1), here["hook_sink"].double())
            total = total + (here["hook_sink"].double() - log_sum).exp()
            yield Promise("rows of pattern + sink == 1", total, torch.ones_like(total))
        yield self._promise_of_writing(here)

    def _let_through(self, mixed: Tensor, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """What z is, of what heads mix from values."""
        if "hook_gate" in here:
            yield Promise("z == pattern @ v * gate", mixed * here["hook_gate"].double(), here["hook_z"])
        else:
            yield Promise("z == pattern @ v", mixed, here["hook_z"])

    @property
    def _inside(self) -> list[HookPoint]:
        """The points that a fused kernel passes by."""
        points = [self.hook_attn_scores, self.hook_pattern]
        return points if self.sinks is None else [*points, self.hook_sink]

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Float[Tensor, "batch pos head d_head"]:
        biased = bool(self.slopes) or self.sinks is not None
        masked = biased or visibility.needs_mask(self.window)
        mask = visibility.mask(self.window) if masked else None
        if biased:
            assert mask is not None
            mask = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf) + self._alibi(visibility, q.dtype)
        if self.sinks is not None:  # one more key, which scores as much as the sink and has nothing to give
            assert mask is not None
            k, v = (torch.cat((x, x.new_zeros(x.shape[0], 1, *x.shape[2:])), dim=1) for x in (k, v))
            rows, _, queries, keys = mask.shape
            sink = self._own(self.sinks)[:, None, None].expand(rows, -1, queries, 1)
            mask = torch.cat((mask.expand(-1, sink.shape[1], -1, keys), sink), dim=-1)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=visibility.causal and not masked,
            scale=1 / self.scale,
            enable_gqa=self.queries_per_key > 1,
        )
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refuse_second_derivatives(z)
        return _with_nan(z.transpose(1, 2), q.detach())

    def _alibi(self, visibility: Visibility, dtype: torch.dtype) -> Tensor | float:
        """The bias on scores, which falls with the distance (Press et al. 2021, arxiv.org/abs/2108.12409)."""
        if not self.slopes:
            return 0.0
        slopes = torch.tensor(self.slopes, device=visibility.positions.device)
        slopes = slopes if self.ranks is None else self.ranks.part(slopes, 0)
        return (-slopes[:, None, None] * visibility.distance).to(dtype)

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility
    ) -> Float[Tensor, "batch pos head d_head"]:
        return (self._pattern(q, k, visibility) @ self._of_every_head(v)).transpose(1, 2)

    def _of_every_head(self, x: Float[Tensor, "batch pos group d_head"]) -> Float[Tensor, "batch head pos d_head"]:
        """Keys or values, as every head reads them."""
        x = x.transpose(1, 2)
        return x if self.queries_per_key == 1 else x.repeat_interleave(self.queries_per_key, dim=1)

    def _pattern(self, q: Tensor, k: Tensor, visibility: Visibility) -> Float[Tensor, "batch head query key"]:
        """How much of each key every query sees, by way of the hooks."""
        scores = self.hook_attn_scores(self._scores(q, k, visibility))
        precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.sinks is None:
            pattern = precise.softmax(-1)
        else:
            sink = self.hook_sink(self._own(self.sinks)[:, None].expand(*precise.shape[:3]))
            pattern = torch.cat((precise, sink[..., None].to(precise.dtype)), dim=-1).softmax(-1)[..., :-1]
        return self.hook_pattern(pattern.to(q.dtype))

    def _scores(self, q: Tensor, k: Tensor, visibility: Visibility) -> Float[Tensor, "batch head query key"]:
        """What the softmax is taken of: -inf where a query may not look."""
        scores = (q.transpose(1, 2) @ self._of_every_head(k).contiguous().mT).div_(self.scale)  # not copied transposed
        if self.soft_cap:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        if self.slopes:
            scores = scores + self._alibi(visibility, scores.dtype)
        return scores.masked_fill_(~visibility.mask(self.window), -torch.inf)


def _with_nan(
    z: Float[Tensor, "batch pos head d_value"], q: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch pos head d_value"]:
    """z, nan where a query has a number that is not finite, which torch's kernel for CPUs hides."""
    if q.device.type != "cpu" or (not torch.compiler.is_compiling() and math.isfinite(q.sum())):
        return z
    return z + q.amax(-1, keepdim=True) * 0


class Attention(AttentionCore):
    """Attention whose queries, keys and values are linear maps of the stream, one per head (or group of heads)."""

    values_are_keys = False

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        heads, groups, d_model, d_head, d_value = self.heads, self.groups, cfg.d_model, self.d_head, self.d_value
        makes_keys = self.source is None
        makes_values = makes_keys and not self.values_are_keys
        self.W_Q = parameter(heads, d_model, d_head, lies=READER_PER_HEAD)
        if makes_keys:
            self.W_K = parameter(groups, d_model, d_head, lies=READER_PER_HEAD)
        if makes_values:
            self.W_V = parameter(groups, d_model, d_value, lies=READER_PER_HEAD)
        self.b_Q = parameter(heads, d_head)
        if makes_keys:
            self.b_K = parameter(groups, d_head)
        if makes_values:
            self.b_V = parameter(groups, d_value)
        self.clip, self.value_scale = cfg.qkv_clip, cfg.value_scale
        self.q_norm = head_norm(cfg, heads, layer)
        if makes_keys:
            self.k_norm, self.v_norm = head_norm(cfg, groups, layer), value_norm(cfg, groups, layer)
        self.normalizes, self.norm_after_rotary = cfg.normalizes_qk(layer), cfg.qk_norm_after_rotary
        self.gated = cfg.gated_attn
        if cfg.gated_attn:
            self.W_G = parameter(heads, d_model, d_value, lies=READER_PER_HEAD)
            self.b_G = parameter(heads, d_value)
            self.hook_gate = HookPoint("batch pos head d_head", head=heads, d_head=d_value)

    def readers(self) -> list[Reader]:
        """The weights of queries, keys, values, and gates."""
        gate = [(self.W_G, self.b_G, 1)] if self.gated else []
        keys = [(self.W_K, self.b_K, 1)] if self.source is None else []
        values = [(self.W_V, self.b_V, 1)] if self.source is None and not self.values_are_keys else []
        return [(self.W_Q, self.b_Q, 1), *keys, *values, *gate]

    def _gated(self, z: Tensor, x: Tensor, visibility: Visibility) -> Tensor:
        if not self.gated:
            return z
        gate = read_per_head(visibility.chosen(x), self._own(self.W_G), self._own(self.b_G))
        return z * self.hook_gate(torch.sigmoid(gate))

    def queries_keys_values(
        self, inputs: Inputs, rotation: Rotation | None, lent: Lent | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, normalized and rotated, in the order that the config names."""
        q = read_per_head(inputs[0], self._own(self.W_Q), self._own(self.b_Q))
        k = read_per_head(inputs[1], self._own(self.W_K), self._own(self.b_K))
        v = read_per_head(inputs[2], self._own(self.W_V), self._own(self.b_V))
        v = v if self.value_scale == 1 else v * self.value_scale
        if not self.normalizes:
            q, k = self._clipped(q), self._clipped(k)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(self.v_norm(self._clipped(v)))
        if self.normalizes and not self.norm_after_rotary:
            q, k = self._clipped(self._normed(q, self.q_norm)), self._clipped(self._normed(k, self.k_norm))
        if rotation is not None:
            q = self._rotated_queries(q, rotation)
            k = self.hook_rot_k(self._turned(k, rotation))
        if self.norm_after_rotary:
            q, k = self._normed(q, self.q_norm), self._normed(k, self.k_norm)
        return q, k, v

    def _rotated_queries(self, q: Tensor, rotation: Rotation) -> Tensor:
        q = self._turned(q, rotation)
        return self.hook_rot_q(q if rotation.query_scale is None else q * rotation.query_scale)

    def _turned(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Queries or keys, rotated."""
        return rotate(x, rotation)

    def _normed(self, x: Tensor, norm: Norm | NoNorm) -> Tensor:
        """Queries or keys after their norm, which may be one over all heads, wherever these are."""
        if self.ranks is None or isinstance(norm, NoNorm) or len(norm.over) == 1:
            return norm(x)
        return self.ranks.part(norm(self.ranks.whole(x, 2)), 2)

    def _clipped(self, x: Tensor) -> Tensor:
        return x.clamp(-self.clip, self.clip) if self.clip else x
