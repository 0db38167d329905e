"""Where: a hook point, and which part of its activation; and what a source is told when something is put there.

    at("z", 5, head=1, pos=-1)      at("blocks.3.hook_resid_pre")      at("q", 2, head=[0, 3], pos=one_for_each_prompt)

A `Source` says what to put at a site. It may look at the value that is `Here` now, and at the same place in other runs,
which are recorded before: those that it names as its `runs`.
"""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, is_integral, told
from interp_hooks.hooks.names import get_act_name, short_name
from interp_hooks.hooks.points import POSITIONS, HookPoint
from interp_hooks.model.padding import counted_back

SHARED = ("k", "v", "rot_k", "k_input", "v_input")  # what heads of a group may have in common
Index = int | tuple[int, ...] | Tensor
Recording = Mapping[str, Tensor]
"""Activations by hook name."""
UNGROUP = (
    ", one for each group of heads that share keys and values; "
    "model.set_ungroup_grouped_query_attention(True) gives every head its own"
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hook point, and which part of it: an index for some of its axes, by their names.

    An int picks one index for all prompts, a list several, a tensor [batch] one of each prompt's own, and a tensor
    [batch, n] several. Lists of several axes pick all their combinations. Positions that are negative count back from
    the last real token of each prompt; a position may have a name, where an experiment is told which one it is.

    Raises:
        BadInput: an index that is none of these.

    >>> Site(hook="blocks.1.attn.hook_z", select={"head": 3}) == at("z", 1, head=3)
    True
    """

    hook: str
    select: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.hook, str) or not isinstance(self.select, Mapping):
            came = f"{told(self.hook)} and {told(self.select)}"
            raise BadInput(f"a Site has the name of a hook and select=, a mapping from axes to indices, got {came}")
        selected = {
            axis: wanted if isinstance(wanted, str) and axis in POSITIONS else as_index(axis, wanted)
            for axis, wanted in self.select.items()
        }
        object.__setattr__(self, "select", selected)

    def index(self, point: HookPoint, value: Tensor, first: int = 0) -> tuple[Any, ...]:
        """What to index `value` with, whose positions begin at `first`.

        Raises:
            BadInput: an axis that the hook does not have, or an index outside it.
        """
        index: list[Any] = [slice(None)] * value.ndim
        several: dict[int, tuple[Tensor, tuple[int, ...]]] = {}  # indices of dims, and which dims their axes stand for
        per_prompt: list[int] = []
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
                several[dim] = shifted, (0, dim)[: shifted.ndim]
                per_prompt += [dim] if dim else []
            else:
                several[dim] = shifted, (dim,)
        if per_prompt:
            rows, _ = several.pop(0, (torch.tensor(index[0]) if isinstance(index[0], int) else None, ()))
            rows = torch.arange(len(value)) if rows is None else rows
            several |= {dim: (several[dim][0][rows], several[dim][1][1 - rows.ndim :]) for dim in per_prompt}
            several |= {0: (rows, (0,))} if rows.ndim else {}
        grid = sorted({along for _, dims in several.values() for along in dims})
        for dim, (indices, dims) in several.items():
            sizes = dict(zip(dims, indices.shape, strict=True))
            index[dim] = indices.to(value.device).reshape([sizes.get(along, 1) for along in grid])
        return tuple(index)

    def counted_back(self, real: Bool[Tensor, "batch pos"]) -> Site:
        """The same site in prompts with these real tokens, with positions that all count from the first column.

        Raises:
            BadInput: a position that counts back beyond the first real token of a prompt.
        """
        found = {
            axis: _counted_back(axis, self.select[axis], real)
            for axis in {*POSITIONS, "key"} & self.select.keys()
            if bool((torch.as_tensor(self.select[axis]) < 0).any())
        }
        return dataclasses.replace(self, select={**self.select, **found}) if found else self

    @staticmethod
    def _shifted(point: HookPoint, axis: str, wanted: Index, size: int, skipped: int) -> Tensor:
        """The indices once the first `skipped` of the axis are left out; negative ones count from the end anyway."""
        listed = torch.as_tensor(wanted)
        outside = listed[(listed < -size - skipped) | (listed >= size + skipped)]
        if outside.numel():
            raise BadInput(
                f"{axis}={int(outside.flatten()[0])} is out of range: {point.name} has {size + skipped} along {axis}"
                + (UNGROUP if axis == "head" and short_name(point.name) in SHARED else "")
            )
        return torch.where(listed < 0, listed, listed - skipped)

    def positions(self, point: HookPoint, length: int) -> Tensor | None:
        """The positions that are touched, of prompts of `length` tokens, as a flat tensor; None: all of them."""
        selected = [self.select[axis] for axis in POSITIONS if axis in point.axes and axis in self.select]
        if not selected:
            return None
        listed = torch.as_tensor(selected[0]).flatten()
        return torch.where(listed < 0, listed + length, listed)

    def first_position(self, point: HookPoint, length: int) -> int:
        """The first position that is touched, of prompts of `length` tokens."""
        touched = self.positions(point, length)
        return 0 if touched is None else int(touched.min())

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for sites that are the same."""
        return (self.hook, *((axis, key_of(wanted)) for axis, wanted in sorted(self.select.items())))


def as_index(axis: str, wanted: Any) -> Index:
    """An int, a tuple of ints, or a tensor of one index for each prompt."""
    if is_integral(wanted) and not wanted.is_meta and wanted.ndim in (1, 2) and wanted.numel():
        return wanted.long().cpu()
    try:
        if not isinstance(wanted, Tensor) and not _holds_bools(wanted):
            index = tuple(map(operator.index, wanted)) if isinstance(wanted, Iterable) else operator.index(wanted)
            if index != ():
                return index
    except TypeError:
        pass
    came = f"shape {list(wanted.shape)} of {wanted.dtype}" if isinstance(wanted, Tensor) else repr(wanted)
    raise BadInput(
        f"{axis}= must be an int, a list of ints that is not empty, or a tensor with one index for each prompt; "
        f"got {came}. Of a mask over the axis, pass mask.nonzero()[:, 0].tolist()"
    )


def _counted_back(axis: str, wanted: Index, real: Bool[Tensor, "batch pos"]) -> Index:
    """Positions from the first column: the same for all prompts if that is what they come to, or of each its own."""
    listed = torch.as_tensor(wanted)
    rows = listed.reshape(len(listed) if isinstance(wanted, Tensor) else 1, -1)
    if len(rows) not in (1, len(real)):
        raise BadInput(f"{axis}= needs one index for each of {len(real)} prompts; got shape {list(listed.shape)}")
    rows = torch.where(rows < 0, counted_back(rows.clamp(max=-1), real.cpu()), rows)
    if isinstance(wanted, Tensor):
        return rows.reshape(len(real), *listed.shape[1:])
    if bool((rows == rows[:1]).all()):
        return int(rows[0, 0]) if isinstance(wanted, int) else tuple(rows[0].tolist())
    return rows[:, 0] if isinstance(wanted, int) else rows


def _holds_bools(wanted: Any) -> bool:
    """Whether something is a mask, or an entry of one: True is no index."""
    return any(map(_holds_bools, wanted)) if isinstance(wanted, list | tuple) else isinstance(wanted, bool | np.bool_)


@checked
def at(hook: str, layer: int | None = None, **select: Any) -> Site:
    """A site by full or short hook name: `at("z", 5, head=1, pos=-1)`, `at("blocks.3.hook_resid_pre")`.

    A negative position counts back from the last real token of each prompt, as a metric's does.

    >>> at("z", 1, head=3, pos=-1).hook
    'blocks.1.attn.hook_z'
    """
    return Site(hook=get_act_name(hook, layer), select=select)


def key_of(value: Any) -> Any:
    """Something hashable that is equal for equal values; tensors and mappings are equal if they are the same object."""
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, Site | Source):
        return value.key
    return tuple(map(key_of, value)) if isinstance(value, tuple | list) else id(value)


# ------------------------------------------------------------------------------------------------------------- sources


class Recordings:
    """Activations of the runs that sources take values from, by the run's key and hook, and what sources made of them.

    `model` is the model that they are of.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.runs: dict[Any, Recording] = {}
        self.made: dict[Any, Tensor] = {}

    def bytes(self) -> int:
        """How many bytes the activations take."""
        return sum(value.nbytes for recording in self.runs.values() for value in recording.values())


@dataclass(frozen=True, kw_only=True)
class Here:
    """What a source sees: the hook `point`, the `value` of the site's selected part, and the same place elsewhere.

    `whole` is the hook's activation, whose positions begin at `first`: earlier ones are not computed in this pass.
    """

    point: HookPoint
    site: Site
    whole: Tensor
    first: int
    recordings: Recordings

    @property
    def model(self) -> Any:
        """The model that is run."""
        return self.recordings.model

    @cached_property
    def index(self) -> tuple[Any, ...]:
        """What to index the hook's activation with to get the selected part."""
        return self.site.index(self.point, self.whole, self.first)

    @cached_property
    def value(self) -> Tensor:
        """The selected part, as it is before anything is put there."""
        return self.whole[self.index]

    def of(self, run: Any) -> Tensor:
        """The same part in another run, which must be one of the source's `runs`."""
        return self.fitted(self.recorded(run))

    def recorded(self, run: Any) -> Tensor:
        """The whole activation of another run at this hook, all its prompts and positions."""
        return self.recordings.runs[run.key][self.point.name]

    def once(self, source: Source, make: Callable[[], Tensor]) -> Tensor:
        """What a source makes for this hook, made once for all runs that are evaluated together."""
        key = (source.key, self.point.name)
        if key not in self.recordings.made:
            self.recordings.made[key] = make()
        return self.recordings.made[key]

    def fitted(self, other: Tensor, one_for_all: Sequence[int] = ()) -> Tensor:
        """The selected part of another whole activation of this hook, of size 1 along the dims `one_for_all`.

        Raises:
            BadInput: it has other prompts or positions.
        """
        other, point = other.to(self.whole.device), self.point
        along = next((dim for dim, axis in enumerate(point.axes) if axis in POSITIONS), 0)
        expected = [size + (self.first if dim == along else 0) for dim, size in enumerate(self.whole.shape)]
        if list(other.shape) != [1 if dim in one_for_all else size for dim, size in enumerate(expected)]:
            raise BadInput(
                f"cannot patch {point.name}: the source has {point.describe(other.shape)}, the run "
                f"{point.describe(expected)}. Both need as many prompts and tokens; align the prompts so that they "
                "correspond position by position"
            )
        if self.first and other.shape[along] > 1:
            other = other.narrow(along, self.first, self.whole.shape[along])
        return other.expand_as(self.whole)[self.index]


class Source(ABC):
    """What an intervention puts at its site. Derive from it, as a frozen dataclass, to put something of your own.

    Results keep sources that are dataclasses of numbers, text, tensors, runs and lists of these, and can so be computed
    again by whoever defines the same class.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, eq=False)
    ... class HalfWay(Source):
    ...     other: Run
    ...     runs = property(lambda self: [self.other])
    ...     def put(self, here):
    ...         return (here.value + here.of(self.other)) / 2
    >>> halfway = HalfWay(Run(model.to_tokens(corrupt)))
    >>> scores = evaluate(model, [Run(model.to_tokens(clean), [Intervention(at("z", 1), halfway)])], metric)
    """

    @property
    def runs(self) -> Sequence[Any]:
        """The runs that `put` looks at; they are recorded at this hook before."""
        return ()

    @property
    def has_scales(self) -> bool:
        """Whether it also has the scale of a norm to give, being what some run has at every hook."""
        return False

    @abstractmethod
    def put(self, here: Here) -> Tensor:
        """What to put in place of `here.value`: a tensor that broadcasts to it."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for sources that put the same; made of the fields of a dataclass, else the object's own."""
        if not dataclasses.is_dataclass(self):
            return (type(self), id(self))
        return (type(self), *(key_of(getattr(self, one.name)) for one in dataclasses.fields(self)))
