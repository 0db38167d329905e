"""Multi-head attention, with grouped keys and values, in one fused kernel unless somebody looks inside.

    q, k, v --rotate--> scores = q k / attn_scale, masked --softmax--> pattern --> z = pattern v --> out = z W_O + b_O

Scores and patterns (the only tensors of size pos x pos) are made only while hooked; so are per-head results.
"""

from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp_hooks.components.positions import Rotation, rotate
from interp_hooks.components.weights import (
    READER_PER_HEAD,
    WRITER_PER_HEAD,
    parameter,
    read_per_head,
    write_per_head,
)
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.hooks import HookPoint


class KeyValuePrefix(NamedTuple):
    """Keys (rotated) and values of earlier tokens in one layer, which the queries of this pass see too."""

    keys: Float[Tensor, "batch past head d_head"]
    values: Float[Tensor, "batch past head d_head"]


class Visibility:
    """Which keys each query sees. The dense mask is made at most once a pass, and only if a kernel needs it.

    The queries are the last `queries` of `keys` tokens; `real` tells which tokens are no padding. A padding query sees
    itself, so that every row of every pattern sums to one.
    """

    def __init__(
        self, queries: int, keys: int, causal: bool, real: Bool[Tensor, "batch key"] | None, device: torch.device
    ) -> None:
        self.queries, self.keys, self.causal, self.real, self.device = queries, keys, causal, real, device

    @property
    def needs_mask(self) -> bool:
        """Whether a kernel that knows "causal" and "everything" needs the dense mask."""
        return self.real is not None or (self.causal and self.queries != self.keys)

    @cached_property
    def dense(self) -> Bool[Tensor, "rows 1 query key"]:
        """True where a query may look."""
        every = torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.device)
        past = self.keys - self.queries
        seen = (every.tril(past) if self.causal else every)[None, None]
        if self.real is None:
            return seen
        itself = every.tril(past) & every.triu(past)
        return seen & self.real[:, None, None, :] | itself


class Attention(nn.Module):
    """The attention layer of one block; `layer` matters only for a scale that depends on it."""

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        heads, groups, d_model, d_head = cfg.n_heads, cfg.n_key_value_heads, cfg.d_model, cfg.d_head
        self.queries_per_key = heads // groups
        self.scale = cfg.attn_scale_at(layer)
        self.rotary_adjacent_pairs = cfg.rotary_adjacent_pairs
        self.W_Q = parameter(heads, d_model, d_head, lies=READER_PER_HEAD)
        self.W_K = parameter(groups, d_model, d_head, lies=READER_PER_HEAD)
        self.W_V = parameter(groups, d_model, d_head, lies=READER_PER_HEAD)
        self.W_O = parameter(heads, d_head, d_model, lies=WRITER_PER_HEAD)
        self.b_Q, self.b_K, self.b_V = parameter(heads, d_head), parameter(groups, d_head), parameter(groups, d_head)
        self.b_O = parameter(d_model)
        self.hook_q = HookPoint("batch pos head d_head", head=heads, d_head=d_head)
        self.hook_k = HookPoint("batch pos head d_head", head=groups, d_head=d_head)
        self.hook_v = HookPoint("batch pos head d_head", head=groups, d_head=d_head)
        if cfg.positional_embedding_type == "rotary":
            self.hook_rot_q = HookPoint("batch pos head d_head", head=heads, d_head=d_head)
            self.hook_rot_k = HookPoint("batch pos head d_head", head=groups, d_head=d_head)
        self.hook_attn_scores = HookPoint("batch head query key", head=heads)
        self.hook_pattern = HookPoint("batch head query key", head=heads)
        self.hook_z = HookPoint("batch pos head d_head", head=heads, d_head=d_head)
        self.hook_result = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)

    def forward(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],
        rotation: Rotation | None,
        visibility: Visibility,
        prefix: KeyValuePrefix | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """`inputs` are what queries, keys and values read, normalized: one stream each, or one per head."""
        q = self.hook_q(read_per_head(inputs[0], self.W_Q, self.b_Q))
        k = self.hook_k(read_per_head(inputs[1], self.W_K, self.b_K))
        v = self.hook_v(read_per_head(inputs[2], self.W_V, self.b_V))
        if rotation is not None:
            q = self.hook_rot_q(rotate(q, rotation, self.rotary_adjacent_pairs))
            k = self.hook_rot_k(rotate(k, rotation, self.rotary_adjacent_pairs))
        if prefix is not None:
            k, v = torch.cat((prefix.keys, k), dim=1), torch.cat((prefix.values, v), dim=1)
        explicit = self.hook_attn_scores.hooked or self.hook_pattern.hooked
        z = self.hook_z((self._explicit if explicit else self._fused)(q, k, v, visibility))
        if self.hook_result.hooked:
            result = self.hook_result(torch.einsum("bphk,hkd->bphd", z, self.W_O))
            return result.sum(2) + self.b_O
        return write_per_head(z, self.W_O, self.b_O)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Float[Tensor, "batch pos head d_head"]:
        masked = visibility.needs_mask
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visibility.dense if masked else None,
            is_causal=visibility.causal and not masked,
            scale=1 / self.scale,
            enable_gqa=self.queries_per_key > 1,
        )
        return z.transpose(1, 2)

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility
    ) -> Float[Tensor, "batch pos head d_head"]:
        k = k.repeat_interleave(self.queries_per_key, dim=2)
        v = v.repeat_interleave(self.queries_per_key, dim=2)
        scores = torch.einsum("bqhk,bphk->bhqp", q, k) / self.scale
        scores = self.hook_attn_scores(scores.masked_fill(~visibility.dense, -torch.inf))
        precise = torch.promote_types(scores.dtype, torch.float32)
        pattern = self.hook_pattern(scores.softmax(-1, dtype=precise).to(v.dtype))
        return torch.einsum("bhqp,bphk->bqhk", pattern, v)
