"""Cross-layer transcoders (Ameisen et al. 2025): features of a layer's input that write to that layer and later ones.

    features[l] = activation_l(x[l] W_enc[l] + b_enc[l])
    y[m] = sum over l <= m of features[l] W_dec[l][:, m - l] + b_dec[m] (+ x[m] W_skip[m])

A set of per-layer transcoders is one whose features write to their own layer alone. Weights may be mapped from files:
then only the rows that are asked for are read, and features that are 0 everywhere cost no reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation
from interp_hooks.dictionaries.base import Dictionary, full_names, refuse_unlike
from interp_hooks.dictionaries.single import Transcoder
from interp_hooks.dictionaries.splicing import Part
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told, told_shape


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CrossLayerTranscoder(Dictionary):
    """A transcoder for every layer, whose features may write to later layers too.

    All are tuples with an entry for each layer; `W_dec[l]` [feature, output, d_out] are the decoders of features of
    layer l to the layers l, l + 1, ... Weights keep the dtype that they have; what is computed with rows of them has
    that of `b_dec`.

    Raises:
        BadInput: weights that do not fit together, or biases that are not finite. (Matrices may be large and on disk,
            so theirs are not looked at.)
    """

    layers_in: tuple[str, ...]
    layers_out: tuple[str, ...]
    W_enc: tuple[Float[Tensor, "d_in feature"], ...]
    b_enc: tuple[Float[Tensor, " feature"], ...]
    W_dec: tuple[Float[Tensor, "feature _output d_out"], ...]
    b_dec: tuple[Float[Tensor, " d_out"], ...]
    activations: tuple[Activation, ...]
    W_skip: tuple[Float[Tensor, "d_in d_out"] | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers_in", "layers_out"):
            object.__setattr__(self, name, full_names(name, getattr(self, name)))
        if not self.W_skip:
            object.__setattr__(self, "W_skip", (None,) * len(self.layers_in))
        for name in ("layers_out", "W_enc", "b_enc", "W_dec", "b_dec", "activations", "W_skip"):
            given = getattr(self, name)
            if not self.layers_in or not isinstance(given, Sequence | Tensor) or len(given) != self.n_layers:
                raise BadInput(f"{name} must have an entry for each of {self.n_layers} layers, got {told(given)}")
        for layer in range(self.n_layers):
            outputs = self.W_dec[layer].shape[1] if self.W_dec[layer].ndim == 3 else 0
            if not 1 <= outputs <= self.n_layers - layer:
                raise BadInput(
                    f"W_dec of layer {layer} must be [feature, output, d_out] with 1..{self.n_layers - layer} outputs, "
                    f"got {told_shape(self.W_dec[layer])}"
                )
            enc, dec = (self.d_in, self.n_features), (self.n_features, outputs, self.d_out)
            skip, biases = (self.d_in, self.d_out), (self.n_features,)
            matrices = {"W_enc": (self.W_enc[layer], enc), "W_dec": (self.W_dec[layer], dec)}
            matrices |= {"W_skip": (self.W_skip[layer], skip)}
            vectors = {"b_enc": (self.b_enc[layer], biases), "b_dec": (self.b_dec[layer], (self.d_out,))}
            refuse_unlike({f"{name} of layer {layer}": one for name, one in matrices.items()}, finite=False)
            refuse_unlike({f"{name} of layer {layer}": one for name, one in vectors.items()})
            self.activations[layer].check(self.n_features)

    @classmethod
    def of(cls, transcoders: Sequence[Transcoder]) -> CrossLayerTranscoder:
        """Per-layer transcoders, in the order of their layers, as one dictionary.

        Raises:
            BadInput: none, one that subtracts something from its input, or of another size than the first.
        """
        if not transcoders or any(one.b_in is not None for one in transcoders):
            raise BadInput("expected transcoders, none of which has a b_in: fold it into b_enc")
        return cls(
            layers_in=tuple(one.hook_in for one in transcoders),
            layers_out=tuple(one.hook_out for one in transcoders),
            W_enc=tuple(one.W_enc for one in transcoders),
            b_enc=tuple(one.b_enc for one in transcoders),
            W_dec=tuple(one.W_dec[:, None] for one in transcoders),
            b_dec=tuple(one.b_dec for one in transcoders),
            activations=tuple(one.activation for one in transcoders),
            W_skip=tuple(one.W_skip for one in transcoders),
            facts=transcoders[0].facts,
        )

    @property
    def n_layers(self) -> int:
        return len(self.layers_in)

    @property
    def hooks_in(self) -> tuple[str, ...]:
        return self.layers_in

    @property
    def hooks_out(self) -> tuple[str, ...]:
        return self.layers_out

    @property
    def n_features(self) -> int:
        return self.W_enc[0].shape[1]

    @property
    def d_in(self) -> int:
        return self.W_enc[0].shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec[0].shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return self.b_dec[0].dtype

    def outputs(self, layer: int) -> range:
        """The layers that the features of a layer write to, as places in `hooks_out`."""
        return range(layer, layer + self.W_dec[layer].shape[1])

    # ------------------------------------------------------------------------------------------------- all layers

    def pre_activations(self, x: Float[Tensor, "*tokens layer d_in"]) -> Float[Tensor, "*tokens layer feature"]:
        self._refuse_layers(x)
        return torch.stack([self.pre_of(layer, one) for layer, one in enumerate(x.unbind(-2))], -2)

    def encode(self, x: Float[Tensor, "*tokens layer d_in"]) -> Float[Tensor, "*tokens layer feature"]:
        self._refuse_layers(x)
        return torch.stack([self.encode_layer(layer, one) for layer, one in enumerate(x.unbind(-2))], -2)

    def decode(
        self,
        features: Float[Tensor, "*tokens layer feature"],
        x: Float[Tensor, "*tokens layer d_in"] | None = None,
    ) -> Float[Tensor, "*tokens layer d_out"]:
        each = features.unbind(-2)
        if x is None:
            return torch.stack([self.decode_layer(layer, each[: layer + 1]) for layer in range(self.n_layers)], -2)
        read = x.unbind(-2)
        return torch.stack(
            [self.decode_layer(layer, each[: layer + 1], read[layer]) for layer in range(self.n_layers)], -2
        )

    # ---------------------------------------------------------------------------------------------- a single layer

    def pre_of(self, layer: int, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens feature"]:
        """The pre-activations of a layer's features."""
        return x.to(self.dtype) @ self.W_enc[layer].to(self.dtype) + self.b_enc[layer].to(self.dtype)

    def encode_layer(self, layer: int, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens feature"]:
        """A layer's features, from that layer's input."""
        return self.activations[layer](self.pre_of(layer, x))

    def decode_layer(
        self,
        layer: int,
        features: Sequence[Float[Tensor, "*tokens feature"]],
        x: Float[Tensor, "*tokens d_in"] | None = None,
    ) -> Float[Tensor, "*tokens d_out"]:
        """A layer's output, from the features of all layers up to it, and its input `x` if it has a skip.

        Raises:
            BadInput: it has a skip, and there is no `x`.
        """
        said = self.b_dec[layer].expand(*features[0].shape[:-1], -1)
        for source, found in enumerate(features):
            if layer in self.outputs(source):
                active = _active(found)
                rows = self.W_dec[source][active, layer - source].to(self.dtype)
                said = said + found[..., active] @ rows
        if (skip := self.W_skip[layer]) is None:
            return said
        if x is None:
            raise BadInput(f"layer {layer} has a skip: decoding needs what the features were read from")
        return said + x.to(said.dtype) @ skip.to(said.dtype)

    def parts(self) -> list[Part]:
        return [self._part(layer) for layer in range(self.n_layers)]

    def _part(self, layer: int) -> Part:
        skip = self.W_skip[layer]
        weights = {name: weight for name, weight in self.tensors().items() if str(layer) in name.split(".")}
        return Part(
            hook_in=self.layers_in[layer],
            hook_out=self.layers_out[layer],
            head=None,
            n_features=self.n_features,
            weights=weights,
            pre=lambda x: self.pre_of(layer, x),
            activate=self.activations[layer],
            decode=lambda features, x: self.decode_layer(layer, features, x),
            skip=None if skip is None else lambda x: x.to(self.dtype) @ skip.to(self.dtype),
            rows=lambda: self.W_dec[layer][:, 0].to(self.dtype),
        )

    @checked
    def encoder_rows(self, layer: int, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """What some features of a layer look for, a row each; only these are read."""
        return self.W_enc[layer].T[torch.as_tensor(features)].to(self.dtype)

    @checked
    def decoder_rows(self, layer: int, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n output d_out"]:
        """What some features of a layer write to each of its `outputs`; only these are read."""
        return self.W_dec[layer][torch.as_tensor(features)].to(self.dtype)

    def _refuse_layers(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[-2:] != (self.n_layers, self.d_in):
            raise BadInput(f"expected activations [..., layer={self.n_layers}, d_in={self.d_in}], got {told_shape(x)}")


def _active(features: Float[Tensor, "*tokens feature"]) -> Int[Tensor, " n"]:
    """Which features are not 0 everywhere; all of them where something may be differentiated with respect to them."""
    if features.requires_grad:
        return torch.arange(features.shape[-1], device=features.device)
    return features.flatten(0, -2).ne(0).any(0).nonzero()[:, 0]
