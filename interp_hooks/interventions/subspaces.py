"""Parts of an activation: the component along some directions, and the rest; and what takes a part out of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told
from interp_hooks.interventions.sites import Here, Source

DEPENDENT = 1e-6  # the sine of the angle to the span of the others below which a direction counts as within it


def orthonormal(directions: Float[Tensor, "*n width"]) -> Float[Tensor, "n width"]:
    """An orthonormal basis, in float64, of what the directions span: those of [n, width], or a single one [width].

    Raises:
        BadInput: no direction, one that is zero or not finite, or directions that depend on each other.
    """
    if not isinstance(directions, Tensor) or directions.ndim not in (1, 2) or directions.is_meta:
        raise BadInput(f"directions must be a tensor [n, width] or [width], got {told(directions)}")
    rows = directions.detach().double().reshape(-1, directions.shape[-1])
    if not len(rows) or len(rows) > rows.shape[1] or not bool(rows.isfinite().all()):
        raise BadInput(f"expected 1 to {rows.shape[1]} finite directions [n, width], got {list(directions.shape)}")
    across, triangle = torch.linalg.qr((rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)).T)
    dependent = (triangle.diagonal().abs() < DEPENDENT).nonzero()
    if len(dependent):
        raise BadInput(f"direction {int(dependent[0])} is zero, or a combination of the ones before it")
    return across.T


def swapped(value: Tensor, other: Tensor, basis: Float[Tensor, "n width"]) -> Tensor:
    """`value` with the component of `other` along an orthonormal basis in place of its own."""
    return value + (other - value) @ basis.T @ basis


class Pointwise(Source):
    """A source that makes of each vector along the last axis another one, whatever is at other places.

    Patching, ablation and circuits take it as a source, `steer` in place of a vector.
    """

    @abstractmethod
    def width_at(self, hook: str) -> int:
        """How many numbers a vector at a hook must have.

        Raises:
            BadInput: there is nothing to put at that hook.
        """

    @abstractmethod
    def made_of(self, value: Float[Tensor, "*rows width"], hook: str) -> Float[Tensor, "*rows width"]:
        """What to put in place of vectors at a hook."""

    def put(self, here: Here) -> Tensor:
        point, width = here.point, self.width_at(here.point.name)
        if point.axes[-1] in here.site.select or here.value.shape[-1] != width:
            raise BadInput(
                f"this source changes vectors of {width} numbers, and needs all of {point.axes[-1]} at {point.name}; "
                f"the selected part is {list(here.value.shape)}"
            )
        return self.made_of(here.value, point.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Eraser(Pointwise):
    """x - writes^T reads (x - mean): takes out of a vector what some directions tell, and leaves the rest as it is.

    `reads` and `writes` are [rank, width]; where both are one orthonormal basis this is the orthogonal projection onto
    what is across it. `studies.leace` makes erasers.

    Raises:
        BadInput: other shapes, or numbers that are nan or infinite.

    >>> from interp_hooks.interventions import Eraser
    >>> eraser = Eraser(mean=torch.zeros(128), reads=torch.eye(128)[:1], writes=torch.eye(128)[:1])
    >>> evaluate(model, [Run(model.to_tokens(clean), [Intervention(at("resid_pre", 1), eraser)])], metric).shape
    torch.Size([1, 4])
    """

    mean: Float[Tensor, " width"]
    reads: Float[Tensor, "rank width"]
    writes: Float[Tensor, "rank width"]

    def __post_init__(self) -> None:
        mean, pair = self.mean, (self.reads, self.writes)
        made = all(isinstance(one, Tensor) and one.is_floating_point() and not one.is_meta for one in (mean, *pair))
        if not made or mean.ndim != 1 or any(one.shape != (len(self.reads), len(mean)) for one in pair):
            came = ", ".join(map(told, (mean, *pair)))
            raise BadInput(f"an eraser has mean [width], and reads and writes [rank, width], got {came}")
        if not all(bool(one.isfinite().all()) for one in (mean, *pair)):
            raise BadInput("the mean, reads and writes of an eraser must be finite")

    @property
    def rank(self) -> int:
        """How many dimensions the change has."""
        return len(self.reads)

    def width_at(self, hook: str) -> int:
        return len(self.mean)

    def made_of(self, value: Float[Tensor, "*rows width"], hook: str = "") -> Float[Tensor, "*rows width"]:
        return self(value)

    def __call__(self, value: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The vectors without it, computed in at least float32."""
        precise = value.to(torch.promote_types(value.dtype, torch.float32))
        mean, reads, writes = (one.to(precise) for one in (self.mean, self.reads, self.writes))
        return (precise - (precise - mean) @ reads.T @ writes).to(value.dtype)
