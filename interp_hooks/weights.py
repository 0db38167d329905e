"""All layers' weights in one tensor each, as formulas want them: `model.W_Q[layer, head]` is [d_model, d_head].

Every access stacks, which copies; in a loop, read it once. Keys and values that several query heads share are repeated,
so that `model.W_K[layer, head]` is what that query head attends with.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.components.block import TransformerBlock
from interp_hooks.components.embed import Embed, Unembed
from interp_hooks.components.positions import LearnedPositions
from interp_hooks.config import HookedTransformerConfig


class StackedWeights:
    """The weight properties of a model that has `cfg`, `blocks`, `embed`, `unembed` and maybe `pos_embed`."""

    cfg: HookedTransformerConfig
    embed: Embed
    pos_embed: LearnedPositions
    blocks: Sequence[TransformerBlock]
    unembed: Unembed

    def _stack(self, name: str) -> Tensor:
        return torch.stack([block.get_parameter(name) for block in self.blocks])

    def _stack_per_query_head(self, name: str) -> Tensor:
        return self._stack(name).repeat_interleave(self.cfg.n_heads // self.cfg.n_key_value_heads, dim=1)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Raises AttributeError for models without learned positions."""
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]:
        return self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        return self._stack("attn.W_Q")

    @property
    def W_K(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        return self._stack_per_query_head("attn.W_K")

    @property
    def W_V(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        return self._stack_per_query_head("attn.W_V")

    @property
    def W_O(self) -> Float[Tensor, "n_layers n_heads d_head d_model"]:
        return self._stack("attn.W_O")

    @property
    def b_Q(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        return self._stack("attn.b_Q")

    @property
    def b_K(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        return self._stack_per_query_head("attn.b_K")

    @property
    def b_V(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        return self._stack_per_query_head("attn.b_V")

    @property
    def b_O(self) -> Float[Tensor, "n_layers d_model"]:
        return self._stack("attn.b_O")

    @property
    def W_in(self) -> Float[Tensor, "n_layers d_model d_mlp"]:
        return self._stack("mlp.W_in")

    @property
    def W_gate(self) -> Float[Tensor, "n_layers d_model d_mlp"]:
        """Raises AttributeError for models whose MLP is not gated."""
        return self._stack("mlp.W_gate")

    @property
    def W_out(self) -> Float[Tensor, "n_layers d_mlp d_model"]:
        return self._stack("mlp.W_out")

    @property
    def b_in(self) -> Float[Tensor, "n_layers d_mlp"]:
        return self._stack("mlp.b_in")

    @property
    def b_out(self) -> Float[Tensor, "n_layers d_model"]:
        return self._stack("mlp.b_out")
