"""The singular vectors of a weight, read as words: unembedded, each gives a logit for every token.

OV      what a head writes, W_V W_O             w_out   what the neurons of a layer write
w_in    what the neurons of a layer read        (Millidge and Black 2022, "The singular value decompositions of
                                                transformer weight matrices are highly interpretable")
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.hooks.modes import study
from interp_hooks.model.components.mlp import MLP, GatedMLP
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import DirectionTokens, tokens_of

VectorType = Literal["OV", "w_in", "w_out"]


class SVDInterpreter:
    """Unembeds the singular vectors of a model's weights, which should have the gains of norms folded into them."""

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model

    @property
    def cfg(self) -> HookedTransformerConfig:
        return self.model.cfg

    @study
    def get_singular_vectors(
        self, vector_type: VectorType, layer_index: int, num_vectors: int = 10, head_index: int | None = None
    ) -> Float[Tensor, "d_vocab 1 num_vectors"]:
        """The logits of the singular vectors that lie in the stream, largest singular value first.

        The sign of a vector is arbitrary: its lowest tokens say as much as its highest. `w_in` (in a gated MLP: its
        linear part) is multiplied by the gain of the norm before it, if that is not folded. `head_index` is for "OV".

        Raises:
            BadInput: there is no such layer, head or number of vectors, or the MLP is not a single matrix.
        """
        vectors = self._vectors(vector_type, layer_index, num_vectors, head_index)
        unembedding = self.model.W_U.to(vectors.dtype).T * self.cfg.logits_scale
        return (unembedding @ vectors)[:, None]

    @study
    def tokens(
        self,
        vector_type: VectorType,
        layer_index: int,
        num_vectors: int = 10,
        head_index: int | None = None,
        *,
        k: Count = 10,
    ) -> DirectionTokens:
        """The tokens at both ends of the same singular vectors, as `tokens_of` reads a direction.

        Unlike `get_singular_vectors` it takes the final norm into account, folded or not.

        Raises:
            BadInput: as there, or a `k` out of range.
        """
        return tokens_of(self.model, self._vectors(vector_type, layer_index, num_vectors, head_index).mT, k=k)

    def _vectors(
        self, vector_type: str, layer_index: int, num_vectors: int, head_index: int | None
    ) -> Float[Tensor, "d_model num_vectors"]:
        """The first singular vectors that lie in the stream."""
        self._check("layer_index", layer_index, self.cfg.n_layers)
        if vector_type == "OV":
            if head_index is None:
                raise BadInput("vector_type='OV' needs a head_index")
            self._check("head_index", head_index, self.cfg.n_heads)
            vectors = self.model.OV[layer_index, head_index].V
        elif head_index is not None:
            raise BadInput(f"vector_type={vector_type!r} is of a whole layer, and has no head_index")
        else:
            weight = WRITES_OR_READS[vector_type](self.model, layer_index)
            precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
            vectors = torch.linalg.svd(precise, full_matrices=False).Vh.mT
        if not 1 <= num_vectors <= vectors.shape[1]:
            raise BadInput(f"num_vectors must be 1..{vectors.shape[1]} for {vector_type}, got {num_vectors}")
        return vectors[:, :num_vectors]

    def _check(self, name: str, value: int, count: int) -> None:
        if not 0 <= value < count:
            raise BadInput(f"{name} must be 0..{count - 1}, got {value}")


def _mlp(model: HookedTransformer, layer: int) -> MLP | GatedMLP:
    mlp = None if model.cfg.attn_only else model.blocks[layer].mlp
    if not isinstance(mlp, MLP | GatedMLP):
        raise BadInput(f"layer {layer} has no MLP with one W_in and one W_out")
    return mlp


def _reads(model: HookedTransformer, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    W_in, gain = model.whole(_mlp(model, layer).W_in), model.norm_reading(layer, mlp=True).gain
    return W_in.T if gain is None else W_in.T * gain


def _writes(model: HookedTransformer, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    return model.whole(_mlp(model, layer).W_out)


WRITES_OR_READS: dict[str, Callable[[HookedTransformer, int], Tensor]] = {"w_in": _reads, "w_out": _writes}
