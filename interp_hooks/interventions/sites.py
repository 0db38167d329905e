"""Where: a hook point, and which part of its activation.

at("z", 5, head=1, pos=-1)      at("blocks.3.hook_resid_pre")      at("q", 2, head=[0, 3], pos=one_for_each_prompt)
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.points import POSITIONS, HookPoint

Index = int | tuple[int, ...] | Tensor


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hook point, and which part of it: an index for some of its axes, by their names.

    An int picks one index for all prompts, a list several, a tensor [batch] one of each prompt's own. Lists of several
    axes pick all their combinations.

    Raises:
        BadInput: an index that is none of these.
    """

    hook: str
    select: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", {axis: _as_index(axis, wanted) for axis, wanted in self.select.items()})

    def index(self, point: HookPoint, value: Tensor, first: int = 0) -> tuple[Any, ...]:
        """What to index `value` with, whose positions begin at `first`.

        Raises:
            BadInput: an axis that the hook does not have, or an index outside it.
        """
        index: list[Any] = [slice(None)] * value.ndim
        several: dict[int, Tensor] = {}  # the dims whose indices are combined
        for axis, wanted in self.select.items():
            if axis not in point.axes:
                raise BadInput(f"{point.name} has the axes {', '.join(point.axes)}; there is no {axis!r} to select")
            dim = point.axes.index(axis)
            shifted = self._shifted(point, axis, wanted, value.shape[dim], first if axis in POSITIONS else 0)
            if isinstance(wanted, int):
                index[dim] = int(shifted)
            elif isinstance(wanted, Tensor):
                if len(wanted) != len(value):
                    raise BadInput(
                        f"{axis}= needs one index for each of {len(value)} prompts; got shape {list(wanted.shape)}"
                    )
                several[0] = torch.arange(len(value))
                several[dim] = shifted
            else:
                several[dim] = shifted
        per_prompt = {0} | {
            point.axes.index(axis) for axis, wanted in self.select.items() if isinstance(wanted, Tensor)
        }
        grid = [dim for dim in sorted(several) if dim not in per_prompt or dim == 0]
        for dim, indices in several.items():
            along = grid.index(0 if dim in per_prompt else dim)
            shape = [-1 if place == along else 1 for place in range(len(grid))]
            index[dim] = indices.to(value.device).reshape(shape)
        return tuple(index)

    @staticmethod
    def _shifted(point: HookPoint, axis: str, wanted: Index, size: int, skipped: int) -> Tensor:
        """The indices once the first `skipped` of the axis are left out; negative ones count from the end anyway."""
        listed = torch.as_tensor(wanted)
        outside = listed[(listed < -size - skipped) | (listed >= size + skipped)]
        if outside.numel():
            raise BadInput(
                f"{axis}={int(outside.flatten()[0])} is out of range: {point.name} has {size + skipped} along {axis}"
            )
        return torch.where(listed < 0, listed, listed - skipped)

    def first_position(self, point: HookPoint, length: int) -> int:
        """The first position that is touched, of prompts of `length` tokens."""
        wanted = next((self.select[axis] for axis in POSITIONS if axis in point.axes and axis in self.select), 0)
        listed = torch.as_tensor(wanted).flatten()
        return int(torch.where(listed < 0, listed + length, listed).min())

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for sites that are the same."""
        return (self.hook, *((axis, _identity(wanted)) for axis, wanted in sorted(self.select.items())))


def _as_index(axis: str, wanted: Any) -> Index:
    """An int, a tuple of ints, or a tensor of one index for each prompt."""
    integers = isinstance(wanted, Tensor) and not (wanted.is_floating_point() or wanted.is_meta)
    if integers and wanted.ndim == 1 and len(wanted):
        return wanted.long().cpu()
    try:
        if not isinstance(wanted, Tensor):
            index = tuple(map(operator.index, wanted)) if isinstance(wanted, Iterable) else operator.index(wanted)
            if index != ():
                return index
    except TypeError:
        pass
    came = f"shape {list(wanted.shape)} of {wanted.dtype}" if isinstance(wanted, Tensor) else repr(wanted)
    raise BadInput(
        f"{axis}= must be an int, a list of ints that is not empty, or a tensor with one index for each prompt; "
        f"got {came}"
    )


@checked
def at(hook: str, layer: int | None = None, **select: Any) -> Site:
    """A site by full or short hook name: `at("z", 5, head=1, pos=-1)`, `at("blocks.3.hook_resid_pre")`.

    A negative position counts from the end of the row, padding included; a metric's counts from the last real token.
    """
    return Site(hook=get_act_name(hook, layer), select=select)


def _identity(wanted: Index) -> Any:
    return id(wanted) if isinstance(wanted, Tensor) else wanted
