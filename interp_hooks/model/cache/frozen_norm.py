"""How a part of the residual stream is read: through norms with the scale that they had in the run, which are linear.

    FrozenNorm     x -> (x - mean x) / scale * w        without the mean for RMS, without w where it is folded
    Reading        several such norms in turn, then a projection onto directions p, if there are any

Neuron n adds a_n W_out[n] to the stream. After a norm this is a_n / scale * (W_out[n] - mean) * w, and projected onto p
it is a_n / scale * W_out[n] . (p w - mean(p w)): only a number for each neuron depends on the position, not a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CENTRED = ("LN", "LNPre")  # the kinds of norm that subtract the mean


def centred(x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """`x` minus its mean over the last axis."""
    return x - x.mean(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenNorm:
    """A norm with the scales that it had at some places of a run; `bias` is what it adds to the sum of all parts."""

    scale: Float[Tensor, "*place 1"]
    centres: bool
    gain: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None

    @classmethod
    def of(cls, norm: Any, scale: Float[Tensor, "*place 1"]) -> FrozenNorm:
        """A norm of the model with given scales."""
        gain, bias = (None if weight is None else weight.detach().to(scale.device) for weight in (norm.gain, norm.b))
        return cls(scale=scale, centres=norm.kind in CENTRED, gain=gain, bias=bias)

    def __call__(self, parts: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Parts of the norm's input, [..., *place, d_model] or alike at all places, after the norm without its bias."""
        return (self.unscaled(parts) / self.scale).to(parts.dtype)

    def unscaled(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Rows centred and multiplied by the gain, but not divided by the scale."""
        rows = rows.to(torch.promote_types(rows.dtype, self.scale.dtype))
        rows = centred(rows) if self.centres else rows
        return rows if self.gain is None else rows * self.gain

    def pulled_back(self, onto: Float[Tensor, "*out d_model"]) -> Float[Tensor, "*out d_model"]:
        """Directions whose products with rows are the products of `onto` with `unscaled(rows)`."""
        onto = onto.to(torch.promote_types(onto.dtype, self.scale.dtype))
        onto = onto if self.gain is None else onto * self.gain
        return centred(onto) if self.centres else onto


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How a reader sees a vector in the stream: through norms in turn, then projected onto directions, if any."""

    norms: tuple[FrozenNorm, ...] = ()
    onto: Float[Tensor, "d_model *out"] | None = None

    def after(self, norms: tuple[FrozenNorm, ...]) -> Reading:
        """This reading of something that passes other norms first."""
        return replace(self, norms=norms + self.norms)

    @property
    def bias(self) -> Float[Tensor, "*out"] | None:
        """The bias of the last norm, as it is read: what is added to the sum of all parts."""
        bias = self.norms[-1].bias if self.norms else None
        return bias if bias is None or self.onto is None else bias @ self.onto.to(bias)

    def of(self, parts: Float[Tensor, "... d_model"]) -> Float[Tensor, "..."]:
        """Parts of the stream as they are read: [..., d_model], or with directions [..., out]."""
        for norm in self.norms:
            parts = norm(parts)
        return parts if self.onto is None else parts @ self.onto.to(parts)

    def of_neurons(
        self, post: Float[Tensor, "*place neuron"], W_out: Float[Tensor, "neuron d_model"]
    ) -> Float[Tensor, "neuron ..."]:
        """Each neuron's vector `post[..., n, None] * W_out[n]` as it is read; with directions no vector is made."""
        dtype, written = post.dtype, W_out
        for norm in self.norms:
            post = post / norm.scale
            if self.onto is None:
                written = norm.unscaled(written)
        if self.onto is None:
            return (post[..., None] * written).movedim(-2, 0).to(dtype)
        onto = self.onto.to(W_out).movedim(0, -1)
        for norm in reversed(self.norms):
            onto = norm.pulled_back(onto)
        projected = W_out.to(onto.dtype) @ onto.movedim(-1, 0)
        if onto.ndim == 1:
            return (post * projected).movedim(-1, 0).to(dtype)
        return (post[..., None] * projected).movedim(-2, 0).to(dtype)
