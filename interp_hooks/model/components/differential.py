"""Differential attention (Ye et al. 2024, arxiv.org/abs/2410.05258): every head subtracts one pattern from another.

    q, k       [first | second], each half as wide as the head        hook_q, hook_k; both halves rotate alike
    softmaxes  of first and of second queries and keys                hook_term_scores, hook_term_pattern
    pattern    = first softmax - lambda * second softmax              hook_lambda, hook_pattern
    mixed      = pattern v                                            hook_mixed
    z          = norm(mixed) * (1 - lambda_init)                      hook_z
    lambda     = exp(q1 . k1) - exp(q2 . k2) + lambda_init            of lambda_q1, ...: one number for a layer
    lambda_init = 0.8 - 0.6 exp(-0.3 layer)

Rows of the pattern sum to 1 - lambda, and its entries may be negative. As in other attention, softmaxes and patterns
are made only while hooked; otherwise one fused kernel mixes by all first and all second queries.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Attention, Inputs, Lent, Visibility
from interp_hooks.model.components.mixer import Promise
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.components.weights import parameter
from interp_hooks.model.config import HookedTransformerConfig


class DifferentialAttention(Attention):
    """Attention whose heads have two queries and two keys, and the difference of two softmaxes for a pattern."""

    kind = "differential attention"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.lambda_q1, self.lambda_k1 = parameter(self.d_head // 2), parameter(self.d_head // 2)
        self.lambda_q2, self.lambda_k2 = parameter(self.d_head // 2), parameter(self.d_head // 2)
        self.norm = Norm("RMSPre", (self.d_value,), cfg.eps, axes="batch pos head d_head", head=self.heads)
        del self.hook_attn_scores
        self.hook_term_scores = HookPoint("batch term head query key", term=2, head=self.heads)
        self.hook_term_pattern = HookPoint("batch term head query key", term=2, head=self.heads)
        self.hook_lambda = HookPoint("batch head query", head=self.heads)
        self.hook_mixed = HookPoint("batch pos head d_head", d_head=self.d_value, head=self.heads)

    def queries_keys_values(
        self, inputs: Inputs, rotation: Rotation | None, lent: Lent | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All first and then all second queries, and so the keys, [batch, pos, 2 * head, d_head / 2]; and values."""
        q, k, v = super().queries_keys_values(inputs, rotation, lent)
        q, k = (x.unflatten(-1, (2, -1)).transpose(2, 3).flatten(2, 3) for x in (q, k))
        return q, k, v

    def _turned(self, x: Tensor, rotation: Rotation) -> Tensor:
        halves = x.unflatten(-1, (2, -1)).flatten(2, 3)
        return rotate(halves, rotation).view_as(x)

    def _lambda(self, dtype: torch.dtype) -> Tensor:
        precise = torch.promote_types(dtype, torch.float32)
        pairs = ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        first, second = ((q * k).to(precise).sum().exp() for q, k in pairs)
        return (first - second + self.lambda_init).to(dtype)

    @property
    def _inside(self) -> list[HookPoint]:
        return [self.hook_term_scores, self.hook_term_pattern, self.hook_lambda, self.hook_pattern]

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Float[Tensor, "batch pos head d_head"]:
        first, second = super()._fused(q, k, torch.cat((v, v), dim=2), visibility).chunk(2, dim=2)
        return first - self._lambda(q.dtype) * second

    def _pattern(self, q: Tensor, k: Tensor, visibility: Visibility) -> Float[Tensor, "batch head query key"]:
        scores = self.hook_term_scores(self._scores(q, k, visibility).unflatten(1, (2, -1)))
        softmaxes = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
        first, second = self.hook_term_pattern(softmaxes.to(q.dtype)).unbind(1)
        weight = self.hook_lambda(self._lambda(q.dtype).expand(first.shape[:3]))
        return self.hook_pattern(first - weight[..., None] * second)

    def _gated(self, z: Tensor, x: Tensor, visibility: Visibility) -> Tensor:
        return super()._gated(self._normalized(self.hook_mixed(z)), x, visibility)

    def _normalized(self, mixed: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        return self.norm(mixed) * (1 - self.lambda_init)

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """What patterns, values and z are, and that heads add up."""
        softmaxes, pattern, mixed = (here[f"hook_{name}"].double() for name in ("term_pattern", "pattern", "mixed"))
        total = softmaxes.sum(-1)
        yield Promise("rows of softmaxes == 1", total, torch.ones_like(total))
        subtracted = softmaxes[:, 0] - here["hook_lambda"].double()[..., None] * softmaxes[:, 1]
        yield Promise("pattern == first - lambda * second softmax", subtracted, pattern)
        values = here["hook_v"].repeat_interleave(self.queries_per_key, dim=2).double()
        yield Promise("mixed == pattern @ v", torch.einsum("bhqk,bkhd->bqhd", pattern, values), mixed)
        passed = mixed / here["norm.hook_scale"].double() * (1 - self.lambda_init)
        if self.gated:
            passed = passed * here["hook_gate"].double()
        yield Promise("z is mixed, normalized and scaled", passed, here["hook_z"])
        yield self._promise_of_writing(here)
