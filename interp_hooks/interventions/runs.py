"""One idea of an intervention for every causal experiment, as plain values.

    Run            tokens, and the interventions made while the model reads them
    Intervention   where (a Site), what to put there (a source), who sees it (into), how much of it (mask)
    source         a number or tensor, recorded activations, another Run, its Mean, or a Resample of it

    clean, corrupt = Run(clean_tokens), Run(corrupt_tokens)
    Run(corrupt_tokens, [Intervention(at("z", 5, head=1), clean)])        # activation patching
    Run(tokens, [Intervention(at("mlp_out", 3), 0.0)])                    # zero ablation
    Run(tokens, [Intervention(at("z", 5, head=1), Mean(Run(reference)))]) # mean ablation
    Run(corrupt_tokens, [Intervention(at("resid_pre", 5), clean, along=directions)])      # interchange in a subspace
    Run(corrupt_tokens, [Intervention(at("z", 5, head=1), clean, into=at("q_input", 9))]) # edge patching

A source may be a Run, whose own interventions may have Runs as sources. Runs are written one at a time and read that
way; how they are evaluated together is the business of `interpreter.evaluate`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.errors.arguments import told, told_shape
from interp_hooks.hooks.points import POSITIONS, HookPoint
from interp_hooks.interventions.sites import Site
from interp_hooks.model.transformer import HookedTransformer

Recording = Mapping[str, Tensor]
Excluded = Literal["bos", "padding"]
Prompts = str | Sequence[str] | Tensor
DEPENDENT = 1e-6  # the sine of the angle to the span of the others below which a direction counts as within it


@dataclass(frozen=True, eq=False)
class Run:
    """Tokens [batch, pos], what is done while reading them, and which tokens are real (all, by default)."""

    tokens: Int[Tensor, "batch pos"]
    interventions: Sequence[Intervention] = ()
    attention_mask: Tensor | None = None

    def __post_init__(self) -> None:
        tokens = self.tokens
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
            raise BadInput(f"tokens of a Run must be integers [batch, pos], got {told(tokens)}")
        made = self.interventions
        if not isinstance(made, Sequence) or not all(isinstance(one, Intervention) for one in made):
            raise BadInput(f"interventions of a Run must be a list of Intervention, got {told(made)}")
        mask = self.attention_mask
        if mask is not None and not (isinstance(mask, Tensor) and mask.shape == tokens.shape):
            raise BadInput(f"attention_mask must be [batch, pos] = {list(tokens.shape)}, got {told_shape(mask)}")

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs on the same tensors with the same interventions."""
        return (*self.prompt_key, tuple(intervention.key for intervention in self.interventions))

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are no padding."""
        mask = torch.ones_like(self.tokens) if self.attention_mask is None else self.attention_mask
        return mask.to(self.tokens.device).bool()

    @property
    def prompt_key(self) -> tuple[Any, ...]:
        return (id(self.tokens), id(self.attention_mask))


@dataclass(frozen=True, eq=False)
class Mean:
    """As a source: the mean of a run's activation over prompts and positions, or over prompts alone.

    Padding does not count, nor does a BOS token where positions are pooled (`exclude`). The mean is taken in float64.
    Axes other than prompts and positions (heads, neurons, query, key) are kept.
    """

    run: Run
    per_position: bool = False
    exclude: Sequence[Excluded] = ("bos", "padding")

    def __post_init__(self) -> None:
        _check_run(self.run)
        listed = isinstance(self.exclude, Collection) and not isinstance(self.exclude, str)
        if not listed or set(self.exclude) - {"bos", "padding"}:
            raise BadInput(f"exclude is a list of 'bos' and 'padding', got {self.exclude!r}")

    @property
    def key(self) -> tuple[Any, ...]:
        return ("mean", self.per_position, tuple(self.exclude), self.run.key)

    def pooled(self, point: HookPoint) -> tuple[int, ...]:
        """The dims over which the mean is taken."""
        return (0,) if self.per_position or point.axes[1] != "pos" else (0, 1)

    def made_of(self, value: Tensor, point: HookPoint, model: HookedTransformer) -> Tensor:
        precise = value.double()
        if point.axes[1] != "pos":
            return precise.mean(0, keepdim=True).to(value.dtype)
        exclude = set(self.exclude) - ({"bos"} if self.per_position else set())
        counted = counted_positions(model, self.run, exclude).to(value.device)
        counted = counted.reshape(*counted.shape, *[1] * (value.ndim - 2))
        dims = self.pooled(point)
        total = torch.where(counted, precise, 0.0).sum(dims, keepdim=True)
        return (total / counted.double().sum(dims, keepdim=True)).to(value.dtype)


@dataclass(frozen=True, eq=False)
class Resample:
    """As a source: another run's activation, where prompt i gets that of the run's prompt `order[i]`."""

    run: Run
    order: Int[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_run(self.run)
        if not isinstance(self.order, Tensor) or self.order.ndim != 1 or self.order.is_floating_point():
            raise BadInput(f"order must be a tensor of prompts [batch], integers, got {told(self.order)}")

    @property
    def key(self) -> tuple[Any, ...]:
        return ("resample", id(self.order), self.run.key)

    def made_of(self, value: Tensor, point: HookPoint, model: HookedTransformer) -> Tensor:
        order = self.order.to(value.device)
        if bool(((order < 0) | (order >= len(value))).any()):
            raise BadInput(f"order must name prompts 0..{len(value) - 1} of the run, got {order.tolist()}")
        return value[order]


Source = float | Tensor | Recording | Run | Mean | Resample


class Recordings:
    """Activations of source runs, by the run's key and hook, and what sources make of them."""

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model
        self.runs: dict[Any, Recording] = {}
        self._made: dict[Any, Tensor] = {}

    def of(self, source: Recording | Run | Mean | Resample, point: HookPoint) -> Tensor:
        """What a source puts at a hook, at all positions.

        Raises:
            UnknownHook: recorded activations that lack this one.
        """
        if isinstance(source, Run):
            return self.runs[source.key][point.name]
        if isinstance(source, Mean | Resample):
            key = (source.key, point.name)
            if key not in self._made:
                self._made[key] = source.made_of(self.runs[source.run.key][point.name], point, self.model)
            return self._made[key]
        if point.name not in source:
            raise UnknownHook(f"{point.name} was not cached in the activations that serve as a source")
        return source[point.name]


@dataclass(frozen=True, eq=False)
class Intervention:
    """Put a source's value at a site; with `along` only its component along these directions of the last axis.

    `along` is [n, width], or [width] for a single direction, of any length and angle: what counts is their span. The
    component across it stays. A source of 0.0 then removes the directions.

    With `into`, only this reader sees the change: the site stays as it is, and the reader's input changes by what the
    change adds to the stream. The site is then something that is added to the stream ("z", "attn_out", "mlp_out" of a
    layer, "hook_embed" and its kin, or "resid_pre" of layer 0 for all embeddings), and `into` something that reads it
    ("q_input", "k_input", "v_input", "mlp_in" of a layer, or "resid_post" of the last one for the final stream).

    `mask` is how much of the change is made, by default (None) all of it: a number, or a tensor that broadcasts to the
    site's selected part; with `into`, to [the site's heads, the reader's heads], 1 where one has no heads. Scores can
    be differentiated with respect to masks and sources that require a gradient.

    Raises:
        BadInput: `along` spans no subspace of as many dimensions as it has directions, or comes with `into`.
    """

    site: Site
    source: Source
    along: Float[Tensor, "*n width"] | None = None
    into: Site | None = None
    mask: float | Tensor | None = None

    def __post_init__(self) -> None:
        for name, one in (("site", self.site), ("into", self.into)):
            if not (isinstance(one, Site) or (one is None and name == "into")):
                raise BadInput(f"{name} must be a Site, as at(hook, layer) gives it, got {told(one)}")
        if not isinstance(self.source, int | float | Tensor | Mapping | Run | Mean | Resample) or _empty(self.source):
            sources = "a number, a tensor, activations, a Run, its Mean or a Resample"
            raise BadInput(f"source must be {sources}, got {told(self.source)}")
        if not isinstance(self.mask, int | float | Tensor | None) or _empty(self.mask):
            raise BadInput(f"mask must be a number or a tensor, got {told(self.mask)}")
        if self.basis is not None and self.into is not None:
            raise BadInput("along= and into= cannot be combined: an edge carries all that its sender writes")

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
        into = None if self.into is None else self.into.key
        return (self.site.key, _key(self.source), id(self.along), into, _key(self.mask))

    @property
    def learns(self) -> bool:
        """Whether scores are to be differentiated with respect to something here."""
        return any(isinstance(one, Tensor) and one.requires_grad for one in (self.source, self.mask))

    def write(self, value: Tensor, point: HookPoint, recordings: Recordings, first: int = 0) -> Bool[Tensor, ""]:
        """Change `value`, whose positions begin at `first`, in place; whether that made a difference.

        Raises:
            BadInput: the site does not fit, or the source has another shape there (prompts of other lengths).
        """
        index = self.site.index(point, value, first)
        place = value[index]
        if isinstance(self.source, int | float | Tensor):
            new = torch.as_tensor(self.source, dtype=value.dtype, device=value.device)
        else:
            new = self.elsewhere(point, recordings, value, first)[index]
        new = self._fitted(new, place, "source", point)
        if self.basis is not None:
            new = swapped(place, new, self._basis_at(point, value))
        if self.mask is not None:
            mask = torch.as_tensor(self.mask, dtype=value.dtype, device=value.device)
            new = place + self._fitted(mask, place, "mask", point) * (new - place)
        changed = (new != place).any()
        value[index] = new
        return changed

    @staticmethod
    def _fitted(given: Tensor, place: Tensor, what: str, point: HookPoint) -> Tensor:
        try:
            return given.expand_as(place)
        except RuntimeError as error:
            raise BadInput(
                f"the {what} for {point.name} has shape {list(given.shape)}, the place it goes to {list(place.shape)}"
            ) from error

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

    def elsewhere(self, point: HookPoint, recordings: Recordings, value: Tensor, first: int) -> Tensor:
        """The source's activation at this point, from position `first` on, one for each prompt."""
        assert not isinstance(self.source, int | float | Tensor)
        other = recordings.of(self.source, point).to(value.device)
        along = next((dim for dim, axis in enumerate(point.axes) if axis in POSITIONS), 0)
        expected = [size + (first if dim == along else 0) for dim, size in enumerate(value.shape)]
        one_for_all = self.source.pooled(point) if isinstance(self.source, Mean) else ()
        fitting = [1 if dim in one_for_all else size for dim, size in enumerate(expected)]
        if list(other.shape) != fitting:
            raise BadInput(
                f"cannot patch {point.name}: the source has {point.describe(other.shape)}, the run "
                f"{point.describe(expected)}. Both need as many prompts and tokens; align the prompts so that they "
                "correspond position by position"
            )
        if first and other.shape[along] > 1:
            other = other.narrow(along, first, value.shape[along])
        return other.expand_as(value)


def _check_run(run: object) -> None:
    if not isinstance(run, Run):
        raise BadInput(f"run must be a Run, got {told(run)}")


def _empty(value: object) -> bool:
    """Whether it is a tensor without numbers."""
    return isinstance(value, Tensor) and value.is_meta


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


def _key(value: Any) -> Any:
    """Something hashable that is equal for equal sources and indices."""
    if value is None or isinstance(value, int | float):
        return value
    return id(value) if isinstance(value, Tensor | Mapping) else value.key


def counted_positions(model: HookedTransformer, run: Run, exclude: Collection[Excluded]) -> Bool[Tensor, "batch pos"]:
    """Which positions of a run count in a mean: not padding, nor a BOS token that the text begins with."""
    real = run.real
    counted = real if "padding" in exclude else torch.ones_like(real)
    if "bos" not in exclude or model.tokenizer is None:
        return counted
    first = real.int().cumsum(1).eq(1) & real
    begins = [id for id in (model.tokenizer.bos_token_id, model.tokenizer.cls_token_id) if id is not None]
    return counted & ~(first & torch.isin(run.tokens, torch.tensor(begins, device=run.tokens.device)))


def as_run(model: HookedTransformer, prompts: Prompts) -> Run:
    """A run on text or on token ids [batch, pos], with its padding masked."""
    if isinstance(prompts, Tensor):
        tokens = model.checked_tokens(prompts)
        return Run(tokens, (), model.text.real_tokens(tokens))
    encoded = model.text.encode(prompts, truncate=False)
    mask = None if encoded.real is None else encoded.real.to(model.device)
    return Run(encoded.tokens.to(model.device), (), mask)
