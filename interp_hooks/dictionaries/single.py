"""Dictionaries that read one hook and reconstruct one: sparse autoencoders and transcoders.

    pre = (normalized(x) - b_in) W_enc + b_enc          features = activation(pre)
    y = features W_dec + b_dec (+ x W_skip)

Many SAEs subtract their decoder's bias from the input, b_in = b_dec; others subtract nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation, ReLU
from interp_hooks.dictionaries.base import Dictionary, full_name, refuse_unlike
from interp_hooks.dictionaries.splicing import Part
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, refuse_outside, told_shape

if TYPE_CHECKING:
    from typing_extensions import Self

Normalization = Literal["none", "layer_norm", "constant_norm"]
EPS = 1e-5  # that SAELens adds to a token's standard deviation, and leaves out when it undoes the normalization


class _Scale(NamedTuple):
    """What was subtracted from each token, and by what it was divided then, with `eps` on top."""

    mean: Float[Tensor, "*tokens 1"]
    size: Float[Tensor, "*tokens 1"]
    eps: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SingleSite(Dictionary):
    """A dictionary of one activation.

    `normalization` of a token before it is encoded is undone after decoding: "layer_norm" subtracts its mean and
    divides by its standard deviation, "constant_norm" gives it the norm sqrt(d_in).
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    activation: Activation = ReLU()  # noqa: RUF009 (a value that cannot change)
    b_in: Float[Tensor, " d_in"] | None = None
    normalization: Normalization = "none"

    def __post_init__(self) -> None:
        if self.normalization not in get_args(Normalization):
            raise BadInput(f"normalization must be one of {get_args(Normalization)}, got {self.normalization!r}")
        for name in ("W_enc", "W_dec"):
            weights = getattr(self, name)
            if not isinstance(weights, Tensor) or weights.ndim != 2:
                raise BadInput(f"{name} must be a matrix, got {told_shape(weights)}")
        refuse_unlike(
            {
                "W_enc": (self.W_enc, tuple(self.W_enc.shape)),
                "b_enc": (self.b_enc, (self.n_features,)),
                "W_dec": (self.W_dec, (self.n_features, self.d_out)),
                "b_dec": (self.b_dec, (self.d_out,)),
                "b_in": (self.b_in, (self.d_in,)),
            }
        )
        self.activation.check(self.n_features)

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    def pre_activations(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens feature"]:
        if x.shape[-1] != self.d_in:
            raise BadInput(f"this dictionary reads activations of width {self.d_in}, got {told_shape(x)}")
        scale = self._scale(x := x.to(self.W_enc.dtype))
        x = x if scale is None else (x - scale.mean) / (scale.size + scale.eps)
        return (x if self.b_in is None else x - self.b_in) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens feature"]:
        return self.activation(self.pre_activations(x))

    def decode(
        self, features: Float[Tensor, "*tokens feature"], x: Float[Tensor, "*tokens d_in"] | None = None
    ) -> Float[Tensor, "*tokens d_out"]:
        said = features @ self.W_dec + self.b_dec
        if self.normalization == "none":
            return said
        if x is None:
            raise BadInput(f"this dictionary undoes a {self.normalization} of its input: decode(features, x) needs x")
        scale = self._scale(x.to(said.dtype))
        assert scale is not None
        return said * scale.size + scale.mean

    def _scale(self, x: Float[Tensor, "*tokens d_in"]) -> _Scale | None:
        if self.normalization == "none":
            return None
        if self.normalization == "layer_norm":
            return _Scale(x.mean(-1, keepdim=True), x.std(-1, keepdim=True), EPS)
        return _Scale(torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5, 0.0)

    def parts(self) -> list[Part]:
        return [
            Part(
                hook_in=self.hooks_in[0],
                hook_out=self.hooks_out[0],
                head=self.head,
                n_features=self.n_features,
                weights=self.tensors(),
                pre=self.pre_activations,
                activate=self.activation,
                decode=lambda features, x: self.decode(features[0], x),
                skip=self._skip(),
                rows=lambda: self.W_dec,
                rescales=self.normalization != "none",
            )
        ]

    def _skip(self) -> Callable[[Tensor], Tensor] | None:
        return None

    # ---------------------------------------------------------------------------------------------- single features

    @checked
    def encoder_rows(self, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """What some features look for, a row each."""
        return self.W_enc[:, torch.as_tensor(features)].T

    @checked
    def decoder_rows(self, features: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        """What some features write for each unit of theirs, a row each."""
        return self.W_dec[torch.as_tensor(features)]

    @checked
    def prefix(self, n: int) -> Self:
        """The dictionary of the first n features: of a Matryoshka dictionary, one that was trained to stand alone.

        Raises:
            BadInput: fewer than one feature, or more than there are.
        """
        refuse_outside("n", n, 1, self.n_features, "the number of features")
        return replace(
            self,
            W_enc=self.W_enc[:, :n],
            b_enc=self.b_enc[:n],
            W_dec=self.W_dec[:n],
            activation=self.activation.first(n),
        )

    # ------------------------------------------------------------------------------------------------------ folding

    @property
    def decoder_norms(self) -> Float[Tensor, " feature"]:
        """How long each feature's row of the decoder is."""
        return self.W_dec.norm(dim=-1)

    def folded_norms(self) -> Self:
        """The same function with decoder rows of norm 1: features, biases and thresholds are scaled instead.

        Rows that are 0 stay as they are.
        """
        norms = torch.where(self.decoder_norms > 0, self.decoder_norms, 1.0)
        return replace(
            self,
            W_enc=self.W_enc * norms,
            b_enc=self.b_enc * norms,
            W_dec=self.W_dec / norms[:, None],
            activation=self.activation.scaled(norms),
        )

    @checked
    def folded_scale(self, scale: float, scale_out: float | None = None) -> Self:
        """The dictionary of activations as they are, from one of activations that were multiplied by `scale`.

        `scale_out` is the factor of what it reconstructs, by default the same. Features stay what they are.

        Raises:
            BadInput: a scale that is not above 0, or a dictionary that normalizes every token.
        """
        out = scale if scale_out is None else scale_out
        if not (0 < scale < float("inf") and 0 < out < float("inf")):
            raise BadInput(f"scales must be above 0 and finite, got {scale} and {out}")
        if self.normalization != "none":
            raise BadInput(f"a scale of the input changes nothing where every token gets a {self.normalization}")
        return replace(
            self,
            W_enc=self.W_enc * scale,
            b_in=None if self.b_in is None else self.b_in / scale,
            W_dec=self.W_dec / out,
            b_dec=self.b_dec / out,
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SAE(SingleSite):
    """A sparse autoencoder: features of the activation at `hook`, from which it is reconstructed.

    Of an activation with several axes, such as "blocks.0.attn.hook_z", the heads stand one after the other, or the
    dictionary is that of one head, `of_head`.

    Raises:
        BadInput: weights that do not fit together, or are not finite.

    >>> from interp_hooks.dictionaries import SAE
    >>> sae = SAE(hook="mlp_out1", W_enc=torch.eye(128), b_enc=torch.zeros(128), W_dec=torch.eye(128),
    ...           b_dec=torch.zeros(128))
    >>> sae.encode(torch.ones(2, 5, 128)).shape
    torch.Size([2, 5, 128])
    """

    hook: str
    of_head: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hook", full_name(self.hook))
        super().__post_init__()
        if self.d_in != self.d_out:
            raise BadInput(f"an SAE reconstructs what it reads, of width {self.d_in}; its W_dec has {self.d_out}")

    @property
    def hooks_in(self) -> tuple[str, ...]:
        return (self.hook,)

    @property
    def hooks_out(self) -> tuple[str, ...]:
        return (self.hook,)

    @property
    def head(self) -> int | None:
        return self.of_head


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Transcoder(SingleSite):
    """Features of the activation at `hook_in` from which that at `hook_out` is predicted: a sparse, wide MLP.

    `W_skip`, if there is one, maps the input to the output past the features (Paulo et al. 2025, arXiv 2501.18823).

    Raises:
        BadInput: weights that do not fit together, or are not finite.
    """

    hook_in: str
    hook_out: str
    W_skip: Float[Tensor, "d_in d_out"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hook_in", full_name(self.hook_in))
        object.__setattr__(self, "hook_out", full_name(self.hook_out))
        super().__post_init__()
        refuse_unlike({"W_skip": (self.W_skip, (self.d_in, self.d_out))})
        if self.normalization != "none":
            raise BadInput("a transcoder has nothing to undo a normalization of its input with; fold it into the hook")

    @property
    def hooks_in(self) -> tuple[str, ...]:
        return (self.hook_in,)

    @property
    def hooks_out(self) -> tuple[str, ...]:
        return (self.hook_out,)

    def decode(
        self, features: Float[Tensor, "*tokens feature"], x: Float[Tensor, "*tokens d_in"] | None = None
    ) -> Float[Tensor, "*tokens d_out"]:
        said = super().decode(features)
        if self.W_skip is None:
            return said
        if x is None:
            raise BadInput("this transcoder has a skip: decode(features, x) needs x, what the features were read from")
        return said + x.to(said.dtype) @ self.W_skip

    def _skip(self) -> Callable[[Tensor], Tensor] | None:
        skip = self.W_skip
        return None if skip is None else lambda x: x.to(skip.dtype) @ skip

    @checked
    def folded_scale(self, scale: float, scale_out: float | None = None) -> Self:
        skip, out = self.W_skip, scale if scale_out is None else scale_out
        folded = super().folded_scale(scale, out)
        return replace(folded, W_skip=None if skip is None else skip * (scale / out))
