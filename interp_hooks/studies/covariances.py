"""Moments of activations x together with labels z, from which ridge probes and erasers follow in closed form.

    mean, covariance        of x
    label_mean, ...         of z: one number or more for each example; for classes, one 0 or 1 for each class
    cross                   the covariance of the two, [width, label]

In memory they are those of some examples (`JointMoments.of`), of a corpus those of a scan (`JointMoments.of_scan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, is_integral, told_shape


@dataclass(frozen=True, kw_only=True, eq=False)
class JointMoments:
    """How many examples there are, and the means and covariances (of the population) of x and z, in float64."""

    count: int
    mean: Float[Tensor, " width"]
    covariance: Float[Tensor, "width width"]
    label_mean: Float[Tensor, " label"]
    label_covariance: Float[Tensor, "label label"]
    cross: Float[Tensor, "width label"]

    @classmethod
    @checked
    def of(
        cls, x: Float[Tensor, "example width"], z: Float[Tensor, "example label"] | Int[Tensor, " example"]
    ) -> JointMoments:
        """Those of some examples; `z` are class numbers [example], or numbers [example, label].

        Raises:
            BadInput: other shapes, no example, or numbers that are not finite.

        >>> from interp_hooks.studies import JointMoments
        >>> JointMoments.of(torch.randn(9, 3), torch.tensor([0, 1, 2] * 3)).cross.shape
        torch.Size([3, 3])
        """
        z = one_hot(z) if is_integral(z) else z
        if x.ndim != 2 or z.ndim != 2 or len(x) != len(z) or not len(x):
            raise BadInput(f"expected x [example, width] and a label for each, got {told_shape(x)}, {told_shape(z)}")
        x, z = x.detach().double(), z.detach().to(x.device).double()
        if not bool(x.isfinite().all() & z.isfinite().all()):
            raise BadInput("activations and labels must be finite; look for infinite or nan values")
        mean, label_mean = x.mean(0), z.mean(0)
        x, z = x - mean, z - label_mean
        return cls(
            count=len(x),
            mean=mean,
            covariance=x.T @ x / len(x),
            label_mean=label_mean,
            label_covariance=z.T @ z / len(x),
            cross=x.T @ z / len(x),
        )

    @classmethod
    @checked
    def of_scan(cls, found: Mapping[str, Tensor], parts: Sequence[int] | None = None) -> JointMoments:
        """Those of a layer of `corpus.LabelledMoments`, over all parts of the corpus or some of them.

        Raises:
            BadInput: the result of another reducer, no such part, or no labelled token in these parts.

        >>> from interp_hooks.corpus import LabelledMoments, by_document, coordinates, scan
        >>> from interp_hooks.studies import JointMoments
        >>> reducer = LabelledMoments(coordinates("resid_post", [1]), by_document([0, 1, 0, 1]))
        >>> found = scan(model, clean, {"moments": reducer}, progress=False)
        >>> JointMoments.of_scan(found["moments"][1]).cross.shape
        torch.Size([128, 2])
        """
        if set(found) != {"count", "sums", "products"}:
            raise BadInput(f"expected what LabelledMoments gives for a layer, got {', '.join(map(str, found))}")
        chosen = list(range(len(found["count"])) if parts is None else parts)
        if not chosen or not all(0 <= part < len(found["count"]) for part in chosen):
            raise BadInput(f"parts must be some of 0..{len(found['count']) - 1}, got {chosen}")
        counts = found["count"][chosen].sum(0).double()
        sums, products = (found[name][chosen].sum(0) for name in ("sums", "products"))
        n = float(counts.sum())
        if not n:
            raise BadInput("no token of these parts has a label")
        mean, shares = sums.sum(0) / n, counts / n
        return cls(
            count=int(n),
            mean=mean,
            covariance=products / n - mean[:, None] * mean,
            label_mean=shares,
            label_covariance=shares.diag() - shares[:, None] * shares,
            cross=(sums / n - shares[:, None] * mean).T,
        )

    @property
    def floor(self) -> float:
        """The least variance along a direction that is told apart from rounding in float64."""
        size = float((self.covariance.diagonal() + self.mean.square()).sum())
        return max(torch.finfo(torch.float64).eps * len(self.mean) * size, torch.finfo(torch.float64).tiny)


def one_hot(classes: Int[Tensor, " example"]) -> Float[Tensor, "example class"]:
    """A 1 for the class of each example, in float64.

    Raises:
        BadInput: no examples [example], or a negative class.
    """
    if classes.ndim != 1 or not len(classes) or int(classes.min()) < 0:
        raise BadInput(f"labels must be class numbers [example] from 0 on, got {told_shape(classes)}")
    return F.one_hot(classes.long()).double()
