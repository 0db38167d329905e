"""A mixture of attention heads (Zhang et al. 2022, arxiv.org/abs/2210.05144): a router chooses heads for every token.

    router logits     = x W_router + b_router                        hook_router_logits
    weights           = softmax over the best experts, 0 elsewhere   hook_expert_weights
    z[head]           = (pattern @ v)[head] * weights[expert of the head]

An expert is one head for each group of heads that share keys and values, so that the heads of a group are one of each
expert, in their order. All heads look and mix, whoever is chosen, and have hooks as in every attention; those of
experts that a token does not pass have weight zero, and write nothing.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Attention, Visibility
from interp_hooks.model.components.mixer import Promise, Reader
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig


class MixtureOfHeads(Attention):
    """Attention of which every token takes the heads that a router chooses for it, each with a weight."""

    kind = "a mixture of attention heads"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        assert cfg.mixers is not None
        self.experts, self.experts_per_token = self.queries_per_key, cfg.mixers.experts_per_token
        self.W_router = parameter(cfg.d_model, self.experts, lies=TRANSPOSED)
        self.b_router = parameter(self.experts)
        self.hook_router_logits = HookPoint("batch pos expert", expert=self.experts)
        self.hook_expert_weights = HookPoint("batch pos expert", expert=self.experts)

    def readers(self) -> list[Reader]:
        """The weights of attention and of the router."""
        return [*super().readers(), (self.W_router, self.b_router, 0)]

    def _gated(self, z: Tensor, x: Tensor, visibility: Visibility) -> Tensor:
        logits = self.hook_router_logits(linear(visibility.chosen(x), self.W_router, self.b_router))
        weights = self.hook_expert_weights(self._weights(logits))
        return super()._gated(z, x, visibility) * self._of_heads(weights)

    def _weights(self, logits: Float[Tensor, "batch query expert"]) -> Float[Tensor, "batch query expert"]:
        """The softmax over the best experts of each token, 0 for the others."""
        best, chosen = logits.to(torch.promote_types(logits.dtype, torch.float32)).topk(self.experts_per_token)
        return torch.zeros_like(logits).scatter(-1, chosen, best.softmax(-1).to(logits.dtype))

    def _of_heads(self, weights: Float[Tensor, "batch query expert"]) -> Float[Tensor, "batch query head 1"]:
        return weights.repeat(1, 1, self.groups)[..., None]

    def _let_through(self, mixed: Tensor, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        passed = mixed * self._of_heads(here["hook_expert_weights"].double())
        if self.gated:
            passed = passed * here["hook_gate"].double()
        yield Promise("z == pattern @ v * expert weight", passed, here["hook_z"])
