"""One idea of an intervention for every causal experiment, as plain values.

    Run            tokens, and the interventions made while the model reads them
    Intervention   where (a Site), and what to put there (a source)
    source         a number or tensor, recorded activations, another Run, its Mean, or a Resample of it

    clean, corrupt = Run(clean_tokens), Run(corrupt_tokens)
    Run(corrupt_tokens, [Intervention(at("z", 5, head=1), clean)])        # activation patching
    Run(tokens, [Intervention(at("mlp_out", 3), 0.0)])                    # zero ablation
    Run(tokens, [Intervention(at("z", 5, head=1), Mean(Run(reference)))]) # mean ablation
    Run(corrupt_tokens, [Intervention(at("resid_pre", 5), clean, along=directions)])  # interchange in a subspace

A source may be a Run, whose own interventions may have Runs as sources. Runs are written one at a time and read that
way; how they are evaluated together is the business of `interpreter.evaluate`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.hooks import HookPoint
from interp_hooks.model import HookedTransformer
from interp_hooks.names import get_act_name

Index = int | tuple[int, ...] | Tensor
Recording = Mapping[str, Tensor]
POSITIONS = ("pos", "query")  # the axes along which a causal model never looks back from the future
Prompts = str | Sequence[str] | Tensor
DEPENDENT = 1e-6  # the sine of the angle to the span of the others below which a direction counts as within it


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
        return int(torch.where(listed < 0, listed + length, listed).min()) if listed.numel() else 0

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for sites that are the same."""
        return (self.hook, *((axis, _key(wanted)) for axis, wanted in sorted(self.select.items())))


def _as_index(axis: str, wanted: Any) -> Index:
    """An int, a tuple of ints, or a tensor of one index for each prompt."""
    if isinstance(wanted, Tensor) and wanted.ndim == 1 and not wanted.is_floating_point():
        return wanted.long().cpu()
    try:
        if not isinstance(wanted, Tensor):
            return tuple(map(operator.index, wanted)) if isinstance(wanted, Iterable) else operator.index(wanted)
    except TypeError:
        pass
    came = f"shape {list(wanted.shape)} of {wanted.dtype}" if isinstance(wanted, Tensor) else repr(wanted)
    raise BadInput(f"{axis}= must be an int, a list of ints, or a tensor of one index for each prompt; got {came}")


def at(hook: str, layer: int | None = None, **select: Any) -> Site:
    """A site by full or short hook name: `at("z", 5, head=1, pos=-1)`, `at("blocks.3.hook_resid_pre")`.

    A negative position counts from the end of the row, padding included; a metric's counts from the last real token.
    """
    return Site(hook=get_act_name(hook, layer), select=select)


@dataclass(frozen=True, eq=False)
class Run:
    """Tokens [batch, pos], what is done while reading them, and which tokens are real (all, by default)."""

    tokens: Int[Tensor, "batch pos"]
    interventions: Sequence[Intervention] = ()
    attention_mask: Tensor | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs on the same tensors with the same interventions."""
        return (*self.prompt_key, tuple(intervention.key for intervention in self.interventions))

    @property
    def prompt_key(self) -> tuple[Any, ...]:
        return (id(self.tokens), id(self.attention_mask))

    def recorded_value(self, value: Tensor, point: HookPoint) -> Tensor:
        """As a source: the same place in this run."""
        return value


@dataclass(frozen=True, eq=False)
class Mean:
    """As a source: the mean of a run's activation over prompts and real positions, or over prompts alone.

    The mean is taken in float64. Axes other than prompts and positions (heads, neurons, query, key) are kept.
    """

    run: Run
    per_position: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        return ("mean", self.per_position, self.run.key)

    def recorded_value(self, value: Tensor, point: HookPoint) -> Tensor:
        precise, mask = value.double(), self.run.attention_mask
        if point.axes[1] != "pos":
            return precise.mean(0, keepdim=True).to(value.dtype)
        dims = (0,) if self.per_position else (0, 1)
        if mask is None:
            return precise.mean(dims, keepdim=True).to(value.dtype)
        weight = mask.to(value.device).double().reshape(*mask.shape, *[1] * (value.ndim - 2))
        total = weight.sum(dims, keepdim=True)
        return ((precise * weight).sum(dims, keepdim=True) / total).to(value.dtype)


@dataclass(frozen=True, eq=False)
class Resample:
    """As a source: another run's activation, where prompt i gets that of the run's prompt `order[i]`."""

    run: Run
    order: Int[Tensor, " batch"]

    @property
    def key(self) -> tuple[Any, ...]:
        return ("resample", id(self.order), self.run.key)

    def recorded_value(self, value: Tensor, point: HookPoint) -> Tensor:
        order = self.order.to(value.device)
        if bool(((order < 0) | (order >= len(value))).any()):
            raise BadInput(f"order must name prompts 0..{len(value) - 1} of the run, got {order.tolist()}")
        return value[order]


Source = float | Tensor | Recording | Run | Mean | Resample


@dataclass(frozen=True, eq=False)
class Intervention:
    """Put a source's value at a site; with `along` only its component along these directions of the last axis.

    `along` is [n, width], or [width] for a single direction, of any length and angle: what counts is their span. The
    component across it stays. A source of 0.0 then removes the directions.

    Raises:
        BadInput: `along` spans no subspace of as many dimensions as it has directions.
    """

    site: Site
    source: Source
    along: Float[Tensor, "*n width"] | None = None

    def __post_init__(self) -> None:
        self.basis  # noqa: B018  checked here

    @cached_property
    def basis(self) -> Float[Tensor, "n width"] | None:
        """The orthonormal directions within which the source's value is put; None: all of them."""
        return None if self.along is None else orthonormal(self.along)

    @property
    def source_run(self) -> Run | None:
        """The run that must be recorded before this can be made."""
        if isinstance(self.source, Run):
            return self.source
        return self.source.run if isinstance(self.source, Mean | Resample) else None

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.site.key, _key(self.source), id(self.along))

    def write(self, value: Tensor, point: HookPoint, recordings: Mapping[Any, Recording], first: int = 0) -> None:
        """Change `value`, whose positions begin at `first`, in place.

        Raises:
            BadInput: the site does not fit, or the source has another shape there (prompts of other lengths).
        """
        index = self.site.index(point, value, first)
        place = value[index]
        if isinstance(self.source, int | float | Tensor):
            new = torch.as_tensor(self.source, dtype=value.dtype, device=value.device)
        else:
            new = self._elsewhere(point, recordings, value, first)[index]
        try:
            new = new.expand_as(place)
        except RuntimeError as error:
            raise BadInput(
                f"the source for {point.name} has shape {list(new.shape)}, the place it goes to {list(place.shape)}"
            ) from error
        value[index] = new if self.basis is None else swapped(place, new, self._basis_at(point, value))

    def _basis_at(self, point: HookPoint, value: Tensor) -> Float[Tensor, "n width"]:
        assert self.basis is not None
        if point.axes[-1] in self.site.select:
            raise BadInput(f"along= takes directions of {point.axes[-1]}, so {point.axes[-1]}= cannot be selected")
        if value.shape[-1] != self.basis.shape[-1]:
            raise BadInput(
                f"the directions of along= have {self.basis.shape[-1]} numbers; {point.name} needs {value.shape[-1]} "
                f"({point.axes[-1]})"
            )
        return self.basis.to(value)

    def _elsewhere(self, point: HookPoint, recordings: Mapping[Any, Recording], value: Tensor, first: int) -> Tensor:
        """The source's activation at this point, from position `first` on, one for each prompt."""
        other = self._recorded(point, recordings).to(value.device)
        along = next((dim for dim, axis in enumerate(point.axes) if axis in POSITIONS), 0)
        expected = [size + (first if dim == along else 0) for dim, size in enumerate(value.shape)]
        one_for_all = isinstance(self.source, Mean)
        if not all(
            came == size or (came == 1 and one_for_all) for came, size in zip(other.shape, expected, strict=True)
        ):
            raise BadInput(
                f"cannot patch {point.name}: the source has {point.describe(other.shape)}, the run "
                f"{point.describe(expected)}. Both need as many prompts and tokens; align the prompts so that they "
                "correspond position by position"
            )
        if first and other.shape[along] > 1:
            other = other.narrow(along, first, value.shape[along])
        return other.expand_as(value)

    def _recorded(self, point: HookPoint, recordings: Mapping[Any, Recording]) -> Tensor:
        """The source's activation at this point, at all positions."""
        if isinstance(self.source, Run | Mean | Resample):
            assert self.source_run is not None
            return self.source.recorded_value(recordings[self.source_run.key][point.name], point)
        assert isinstance(self.source, Mapping)
        if point.name not in self.source:
            raise UnknownHook(f"{point.name} was not cached in the activations that serve as a source")
        return self.source[point.name]


def orthonormal(directions: Float[Tensor, "*n width"]) -> Float[Tensor, "n width"]:
    """An orthonormal basis, in float64, of what the directions span: those of [n, width], or a single one [width].

    Raises:
        BadInput: no direction, one that is zero or not finite, or directions that depend on each other.
    """
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


def _key(value: Any) -> Any:
    """Something hashable that is equal for equal sources and indices."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, tuple):
        return value
    return id(value) if isinstance(value, Tensor | Mapping) else value.key


def as_run(model: HookedTransformer, prompts: Prompts) -> Run:
    """A run on text or on token ids [batch, pos], with its padding masked."""
    if isinstance(prompts, Tensor):
        tokens = (prompts if prompts.ndim == 2 else prompts[None]).to(model.device)
        return Run(tokens, (), model.text.real_tokens(tokens))
    encoded = model.text.encode(prompts, truncate=False)
    mask = None if encoded.real is None else encoded.real.to(model.device)
    return Run(encoded.tokens.to(model.device), (), mask)
