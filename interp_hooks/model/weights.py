"""All layers' weights in one tensor each, as formulas want them: `model.W_Q[layer, head]` is [d_model, d_head].

Every access copies the layers' weights into a new tensor; before a loop, read it once. Keys and values that several
query heads share are repeated, so that `model.W_K[layer, head]` is what that query head attends with.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked_methods
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.factored import FactoredMatrix, composition_scores
from interp_hooks.model.network import Network

Composition = Literal["Q", "K", "V"]


@checked_methods
class StackedWeights(Network):
    """The weights of a model by the names that formulas give them. Without state: all of them are the parts' own."""

    def _stack(self, name: str) -> Tensor:
        """One weight of all layers.

        Raises:
            BadInput: a weight of attention, in a model some of whose layers mix tokens by something else; one whose
                size differs from layer to layer.
        """
        if name.startswith("attn.") and self.cfg.mixers is not None:
            attend = [layer for layer, kind in enumerate(self.cfg.mixer_kinds) if kind == "attention"]
            which = f"only layers {attend} of this model have" if attend else "no layer of this model has"
            raise BadInput(
                f"{which} plain attention, so that {name} of all layers cannot be stacked: read "
                f"model.blocks[layer].{name} where there is one"
            )
        without = [
            layer for layer in range(self.cfg.n_layers) if not self.cfg.attn_only and not self.cfg.has_mlp(layer)
        ]
        if name.startswith("mlp.") and without:
            raise BadInput(f"layers {without} have no MLP, so that {name} of all layers cannot be stacked")
        return self._stacked(name, [self.whole(attrgetter(name)(block)) for block in self.blocks])

    def _stacked(self, name: str, weights: Sequence[Tensor]) -> Tensor:
        shapes = [tuple(weight.shape) for weight in weights]
        if len({*shapes}) > 1:
            sizes = "; ".join(f"layer {layer}: {list(shape)}" for layer, shape in enumerate(shapes))
            raise BadInput(
                f"{name} of all layers cannot be stacked, since they differ in size ({sizes}): read "
                f"model.blocks[layer].{name}"
            )
        return torch.stack(list(weights))

    def _stack_per_query_head(self, name: str) -> Tensor:
        return self._stack(name).repeat_interleave(self.cfg.n_heads // self.cfg.kv_heads_at(0), dim=1)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Raises AttributeError for models without learned positions."""
        return self.pos_embed.W_pos

    @property
    def W_E_pos(self) -> Float[Tensor, "d_vocab_and_n_ctx d_model"]:
        """Token embeddings, and below them position embeddings. Raises AttributeError as `W_pos` does."""
        return torch.cat((self.W_E, self.W_pos))

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

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of every head, [n_layers, n_heads, d_model, d_model], query times key.

        With rotary positions it is the product for a query and a key at the same position, since both are turned by
        their distance. Raises AttributeError for latent attention, which has no such product.
        """
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [n_layers, n_heads, d_model, d_model]. Raises AttributeError as `QK`."""
        W_V = self.W_V if self.cfg.value_scale == 1 else self.W_V * self.cfg.value_scale
        return FactoredMatrix(W_V, self.W_O)

    @no_gradients
    def all_composition_scores(self, mode: Composition) -> Float[Tensor, "n_layers n_heads n_layers n_heads"]:
        """How much of what each head writes is read by each head of later layers for its queries, keys or values.

        [writer's layer, writer's head, reader's layer, reader's head], zero unless the reader is in a later layer. See
        `composition_scores` for the measure; fold norms before, since their gains count.

        Raises:
            BadInput: a mode other than "Q", "K" and "V".
        """
        if mode not in get_args(Composition):
            raise BadInput(f"mode must be 'Q', 'K' or 'V', got {mode!r}")
        writers = self.OV
        readers = writers if mode == "V" else self.QK if mode == "Q" else self.QK.T
        layers, heads = writers.shape[:2]
        by_layer = [readers[layer] for layer in range(layers)]
        precise = torch.promote_types(writers.A.dtype, torch.float32)
        scores = torch.zeros(layers, heads, layers, heads, dtype=precise, device=writers.A.device)
        for layer in range(layers):
            writer = writers[layer]
            for later in range(layer + 1, layers):
                scores[layer, :, later] = composition_scores(writer, by_layer[later])
        return scores

    def all_head_labels(self) -> list[str]:
        """The names of all heads, layer by layer: "L0H0", "L0H1", ..."""
        heads = [self.cfg.writes_at(layer)[0] for layer in range(self.cfg.n_layers)]
        return [f"L{layer}H{head}" for layer, count in enumerate(heads) for head in range(count)]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """The sum of b_O and b_out of all layers before `layer` (0..n_layers), which the stream holds for any tokens.

        `mlp_input` adds b_O of `layer` itself, if its MLP reads what its attention wrote. Value biases reach the stream
        too, through W_O; `fold_value_biases` moves them into b_O.

        Raises:
            BadInput: a layer out of range, or biases that are not a constant part of the stream because a norm or a
                router's weights come after them.
        """
        if not 0 <= layer <= self.cfg.n_layers - mlp_input:
            raise BadInput(f"layer must be 0..{self.cfg.n_layers - mlp_input} with mlp_input={mlp_input}, got {layer}")
        if mlp_input and self.cfg.attn_only:
            raise BadInput("mlp_input=True needs a layer with an MLP, and this model has attention only")
        if self.cfg.writes_normalized or self.cfg.norm_placement == "post":
            raise BadInput("what a sublayer writes is normalized in this model, so that its biases add no constant")
        with_mlps = include_mlp_biases and not self.cfg.attn_only
        total = torch.zeros_like(self.blocks[0].attn.b_O)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O * block.residual_scale
            if with_mlps and isinstance(block.mlp, MoE):
                raise BadInput("the router decides how much of its experts' biases is added: include_mlp_biases=False")
            if with_mlps:
                total = total + block.mlp.get_parameter("b_out") * block.residual_scale
        if mlp_input and not self.cfg.parallel_attn_mlp:
            total = total + self.blocks[layer].attn.b_O * self.blocks[layer].residual_scale
        return total

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "*rest d_model"]:
        """The directions onto which the normalized final stream projects as these tokens' logits (without b_U).

        `tokens` are an id, a string that is one token, or a tensor or list of several. For one token, also as a tensor
        of one element, the shape is [d_model]. Directions are columns of W_U, so fold the norm's gain into it before.

        Raises:
            TokenError: a string that is not one token.
            BadInput: an id outside the output vocabulary.
        """
        ids = self.token_ids(tokens)
        return self.W_U.T[ids.squeeze() if ids.numel() == 1 else ids] * self.cfg.logits_scale

    @property
    def n_params_total(self) -> int:
        """The number of all parameters, including biases that the checkpoint lacks and that are zero.

        `cfg.n_params` counts the weights of attention and MLPs only.
        """
        return sum(weight.numel() for weight in self.parameters())
