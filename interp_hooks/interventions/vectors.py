"""Places that have one vector for each position of each prompt: the stream, what an MLP writes, the `z` of one head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.interventions.sites import Site
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True)
class VectorPlace:
    """A site that has one vector for each position."""

    point: HookPoint
    site: Site

    @property
    def axis(self) -> str:
        """What the numbers of a vector are: "d_model", "d_head", ..."""
        return self.point.axes[-1]

    @property
    def width(self) -> int:
        return self.point.sizes[self.axis]

    def index(self, value: Tensor) -> tuple[Any, ...]:
        """Where in the hook's activation the vectors [batch, pos, width] are."""
        return self.site.index(self.point, value)


def vector_place(model: HookedTransformer, hook: str | Site) -> VectorPlace:
    """The place of that name, once the axes between position and width are selected.

    Raises:
        UnknownHook: no such hook.
        BadInput: a hook, or a selection, other than [batch, pos, width].
    """
    site = hook if isinstance(hook, Site) else Site(hook=hook)
    (point,) = model.points(site.hook)
    axes = ", ".join(point.axes)
    if len(point.axes) < 3 or point.axes[1] != "pos":
        raise BadInput(f"a vector for each position needs a hook [batch, pos, ..., width]; {point.name} has {axes}")
    between = point.axes[2:-1]
    if set(site.select) != set(between) or not all(isinstance(index, int) for index in site.select.values()):
        needed = f"select one index of {' and of '.join(between)}, and nothing else" if between else "select nothing"
        raise BadInput(f"{point.name} has {axes}; for a vector at each position {needed}, got {dict(site.select)}")
    place = VectorPlace(point=point, site=site)
    place.index(torch.empty([1, 1, *(point.sizes[axis] for axis in point.axes[2:])], device="meta"))  # or it raises
    return place


def recorded_vectors(
    model: HookedTransformer, run: Run, places: Sequence[VectorPlace]
) -> list[Float[Tensor, "batch pos width"]]:
    """The vectors that a run has at some places."""
    stored = record(model, run, [place.point.name for place in places])
    values = [stored[place.point.name] for place in places]
    return [value[place.index(value)] for place, value in zip(places, values, strict=True)]
