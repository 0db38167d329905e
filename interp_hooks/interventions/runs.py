"""One idea of an intervention for every causal experiment, as plain values.

    Run            tokens, and the interventions made while the model reads them
    Intervention   where (a Site), what to put there (a source), who sees it (into), how much of it (mask)
    source         a number or tensor, recorded activations, another Run, its Mean, a Resample of it, a function of the
                   value at the site, or any `Source` of your own

    clean, corrupt = Run(clean_tokens), Run(corrupt_tokens)
    Run(corrupt_tokens, [Intervention(at("z", 5, head=1), clean)])        # activation patching
    Run(tokens, [Intervention(at("mlp_out", 3), 0.0)])                    # zero ablation
    Run(tokens, [Intervention(at("z", 5, head=1), Mean(Run(reference)))]) # mean ablation
    Run(corrupt_tokens, [Intervention(at("resid_pre", 5), clean, along=directions)])      # interchange in a subspace
    Run(corrupt_tokens, [Intervention(at("z", 5, head=1), clean, into=at("q_input", 9))]) # edge patching

A source may be a Run, whose own interventions may have Runs as sources. Runs are written one at a time and read that
way; how they are evaluated together is the business of `engine.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.errors.arguments import is_integral, told, told_shape
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.sites import Here, Recording, Recordings, Site, Source, key_of
from interp_hooks.interventions.subspaces import orthonormal, swapped
from interp_hooks.model.inputs import checked_mask
from interp_hooks.model.transformer import HookedTransformer

Excluded = Literal["bos", "padding"]


@runtime_checkable
class TaskLike(Protocol):
    """Prompts in pairs, the metric that tells them apart, and named positions: a `Task`, or anything that has these."""

    clean: Any
    corrupt: Any
    metric: Any
    positions: Mapping[str, Any]


Prompts = str | Sequence[str] | Tensor
"""Text, or token ids [batch, pos]."""
SourceLike = float | Tensor | Recording | Callable[[Tensor], Tensor] | Source
"""What may be given as a source."""


class _OfTask:
    def __repr__(self) -> str:
        return "<of the task>"

    def __reduce__(self) -> str:  # in another process it is that process's own
        return "OF_TASK"


OF_TASK: Any = _OfTask()
"""As a default of an experiment's argument: what the task says, if prompts are given as one."""


@dataclass(frozen=True, eq=False)
class Run(Source):
    """Tokens [batch, pos], what is done while reading them, and which tokens are real.

    Without an `attention_mask`, these are the ones that the model finds (`interp_hooks.model.padding`).

    As a source it puts its own activation at the same place.

    >>> patched = Run(model.to_tokens(corrupt), [Intervention(at("resid_pre", 1), Run(model.to_tokens(clean)))])
    """

    tokens: Int[Tensor, "batch pos"]
    interventions: Sequence[Intervention] = ()
    attention_mask: Tensor | None = None

    def __post_init__(self) -> None:
        tokens = self.tokens
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or not is_integral(tokens):
            raise BadInput(f"tokens of a Run must be integers [batch, pos], got {told(tokens)}")
        made = self.interventions
        if not isinstance(made, Sequence) or not all(isinstance(one, Intervention) for one in made):
            raise BadInput(f"interventions of a Run must be a list of Intervention, got {told(made)}")
        mask = self.attention_mask
        if mask is not None and not (isinstance(mask, Tensor) and mask.shape == tokens.shape):
            raise BadInput(f"attention_mask must be [batch, pos] = {list(tokens.shape)}, got {told_shape(mask)}")

    def __repr__(self) -> str:
        return f"Run({', '.join([f'tokens {list(self.tokens.shape)}', *map(repr, self.interventions)])})"

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs on the same tensors with the same interventions."""
        return (*self.prompt_key, tuple(intervention.key for intervention in self.interventions))

    @property
    def prompt_key(self) -> tuple[Any, ...]:
        """Equal for runs on the same tensors, whatever is done while reading them."""
        return (id(self.tokens), id(self.attention_mask))

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are no padding, as far as the run itself says it: all of them without a mask."""
        mask = torch.ones_like(self.tokens) if self.attention_mask is None else self.attention_mask
        return mask.to(self.tokens.device).bool()

    def left_alone(self) -> Run:
        """A run on the same prompts in which nothing is done."""
        return Run(self.tokens, (), self.attention_mask)

    @property
    def runs(self) -> Sequence[Run]:
        return [self]

    @property
    def has_scales(self) -> bool:
        return True

    def put(self, here: Here) -> Tensor:
        return here.fitted(here.recorded(self))


PromptsLike = Prompts | Run | TaskLike
"""What experiments take as prompts: text, token ids, a run that does nothing, or a task."""


@dataclass(frozen=True, eq=False)
class Mean(Source):
    """As a source: the mean of a run's activation over prompts and positions, or over prompts alone.

    Padding does not count, nor does a BOS token where positions are pooled (`exclude`). The mean is taken in float64.
    Axes other than prompts and positions (heads, neurons, query, key) are kept.

    >>> ablated = Run(model.to_tokens(clean), [Intervention(at("mlp_out", 0), Mean(Run(model.to_tokens(corrupt))))])
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
    def runs(self) -> Sequence[Run]:
        return [self.run]

    def put(self, here: Here) -> Tensor:
        mean = here.once(self, lambda: self.made_of(here.recorded(self.run), here.point, here.model))
        return here.fitted(mean, one_for_all=self.pooled(here.point))

    def pooled(self, point: HookPoint) -> tuple[int, ...]:
        """The dims over which the mean is taken."""
        return (0,) if self.per_position or point.axes[1] != "pos" else (0, 1)

    def made_of(self, value: Tensor, point: HookPoint, model: HookedTransformer) -> Tensor:
        """The mean of the run's activation at a hook, with those dims kept as 1."""
        total, count = self.summed(value, point, model)
        return (total / count).to(value.dtype)

    def summed(self, value: Tensor, point: HookPoint, model: HookedTransformer) -> tuple[Tensor, Tensor]:
        """In float64, the sum that the mean is made of and how many values it has, with those dims kept as 1."""
        precise = value.double()
        if point.axes[1] != "pos":
            return precise.sum(0, keepdim=True), precise.new_tensor(len(value))
        exclude = set(self.exclude) - ({"bos"} if self.per_position else set())
        counted = counted_positions(model, self.run, exclude).to(value.device)
        counted = counted.reshape(*counted.shape, *[1] * (value.ndim - 2))
        dims = self.pooled(point)
        total = torch.where(counted, precise, 0.0).sum(dims, keepdim=True)
        return total, counted.double().sum(dims, keepdim=True)


@dataclass(frozen=True, eq=False)
class Resample(Source):
    """As a source: another run's activation, where prompt i gets that of the run's prompt `order[i]`.

    >>> run = Run(model.to_tokens(clean))
    >>> resampled = Run(run.tokens, [Intervention(at("z", 0), Resample(run, torch.tensor([1, 2, 3, 0])))])
    """

    run: Run
    order: Int[Tensor, " batch"]

    def __post_init__(self) -> None:
        _check_run(self.run)
        if not isinstance(self.order, Tensor) or self.order.ndim != 1 or not is_integral(self.order):
            raise BadInput(f"order must be a tensor of prompts [batch], integers, got {told(self.order)}")

    @property
    def runs(self) -> Sequence[Run]:
        return [self.run]

    @property
    def has_scales(self) -> bool:
        return True

    def put(self, here: Here) -> Tensor:
        return here.fitted(here.once(self, lambda: self.made_of(here.recorded(self.run))))

    def made_of(self, value: Tensor) -> Tensor:
        """The run's activation with its prompts in that order."""
        if not self.fits:
            raise BadInput(f"order must name prompts 0..{len(value) - 1} of the run, got {self.order.tolist()}")
        return value[self.order.to(value.device)]

    @property
    def fits(self) -> bool:
        """Whether the run has all these prompts."""
        return bool(((self.order >= 0) & (self.order < len(self.run.tokens))).all())


@dataclass(frozen=True, eq=False)
class _Constant(Source):
    """A number, or a tensor that fits the selected part."""

    value: float | Tensor

    def put(self, here: Here) -> Tensor:
        return torch.as_tensor(self.value, dtype=here.value.dtype, device=here.value.device)


@dataclass(frozen=True, eq=False)
class Recorded(Source):
    """Activations by hook name, as a cache holds them."""

    activations: Recording

    @property
    def has_scales(self) -> bool:
        return True

    def put(self, here: Here) -> Tensor:
        if here.point.name not in self.activations:
            raise UnknownHook(f"{here.point.name} was not cached in the activations that serve as a source")
        return here.fitted(self.activations[here.point.name])


@dataclass(frozen=True, eq=False)
class _Function(Source):
    """What a function makes of the value at the site."""

    function: Callable[[Tensor], Tensor]

    def put(self, here: Here) -> Tensor:
        return here.point.checked(self.function(here.value.clone()), like=here.value)


def as_source(given: SourceLike) -> Source:
    """The `Source` that a number, a tensor, activations or a function stands for.

    Raises:
        BadInput: something else.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, int | float | Tensor) and not _empty(given):
        return _Constant(given)
    if isinstance(given, Mapping):
        return Recorded(given)
    if callable(given) and not isinstance(given, Tensor | type):
        return _Function(given)
    sources = "a number, a tensor, activations, a function, a Run, its Mean, a Resample or another Source"
    raise BadInput(f"source must be {sources}, got {told(given)}")


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

    >>> edge = Intervention(at("z", 0, head=1), Run(model.to_tokens(corrupt)), into=at("q_input", 1), mask=0.5)
    """

    site: Site
    source: SourceLike
    along: Float[Tensor, "*n width"] | None = None
    into: Site | None = None
    mask: float | Tensor | None = None

    def __post_init__(self) -> None:
        for name, one in (("site", self.site), ("into", self.into)):
            if not (isinstance(one, Site) or (one is None and name == "into")):
                raise BadInput(f"{name} must be a Site, as at(hook, layer) gives it, got {told(one)}")
            if one is not None and (named := [axis for axis, index in one.select.items() if isinstance(index, str)]):
                raise BadInput(
                    f"{named[0]}={one.select[named[0]]!r} is a name, which experiments know that are given a task, or "
                    "positions=; pass the position itself: a number for all prompts, or a tensor of one for each"
                )
        _ = self.puts
        if not isinstance(self.mask, int | float | Tensor | None) or _empty(self.mask):
            raise BadInput(f"mask must be a number or a tensor, got {told(self.mask)}")
        if self.basis is not None and self.into is not None:
            raise BadInput("along= and into= cannot be combined: an edge carries all that its sender writes")

    def __repr__(self) -> str:
        given = {"source": self.source, "along": self.along, "into": self.into, "mask": self.mask}
        shown = {name: f"tensor {list(one.shape)}" if isinstance(one, Tensor) else one for name, one in given.items()}
        said = [f"{name}={one}" for name, one in shown.items() if one is not None]
        return f"Intervention({', '.join([str(self.site), *said])})"

    @cached_property
    def basis(self) -> Float[Tensor, "n width"] | None:
        """The orthonormal directions within which the source's value is put; None: all of them."""
        return None if self.along is None else orthonormal(self.along)

    @cached_property
    def puts(self) -> Source:
        """What is put at the site, as a `Source`."""
        return as_source(self.source)

    @property
    def runs(self) -> Sequence[Run]:
        """The runs that must be recorded before this can be made."""
        return self.puts.runs

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for interventions that are the same."""
        into = None if self.into is None else self.into.key
        return (self.site.key, key_of(self.source), id(self.along), into, key_of(self.mask))

    @property
    def learns(self) -> bool:
        """Whether scores are to be differentiated with respect to something here."""
        return any(isinstance(one, Tensor) and one.requires_grad for one in (self.source, self.mask))

    def counted_back(self, real: Bool[Tensor, "batch pos"]) -> Intervention:
        """The same in prompts with these real tokens, at positions that all count from the first column."""
        site, into = self.site.counted_back(real), None if self.into is None else self.into.counted_back(real)
        return self if site is self.site and into is self.into else replace(self, site=site, into=into)

    def write(self, value: Tensor, point: HookPoint, recordings: Recordings, first: int = 0) -> Bool[Tensor, ""]:
        """Change `value`, whose positions begin at `first`, in place; whether that made a difference.

        Raises:
            BadInput: the site does not fit, or the source has another shape there (prompts of other lengths).
        """
        here = Here(point=point, site=self.site, whole=value, first=first, recordings=recordings)
        place = here.value
        new = _expanded(self.puts.put(here), place, "source", point)
        if self.basis is not None:
            new = swapped(place, new, self._basis_at(point, value))
        if self.mask is not None:
            mask = torch.as_tensor(self.mask, dtype=value.dtype, device=value.device)
            new = place + _expanded(mask, place, "mask", point) * (new - place)
        changed = (new != place).any()
        value[here.index] = new
        return changed

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


def _expanded(given: Tensor, place: Tensor, what: str, point: HookPoint) -> Tensor:
    try:
        return given.expand_as(place)
    except RuntimeError as error:
        raise BadInput(
            f"the {what} for {point.name} has shape {list(given.shape)}, the place it goes to {list(place.shape)}"
        ) from error


def _check_run(run: object) -> None:
    if not isinstance(run, Run):
        raise BadInput(f"run must be a Run, got {told(run)}")


def _empty(value: object) -> bool:
    """Whether it is a tensor without numbers."""
    return isinstance(value, Tensor) and value.is_meta


# ------------------------------------------------------------------------------------------------------- from prompts


def as_run(model: HookedTransformer, prompts: Any, attention_mask: Tensor | None = None) -> Run:
    """A run on text, on token ids [batch, pos] or on a run's tokens, with a mask of the real ones if some are not.

    Raises:
        BadInput: a run with interventions, which would not be made; text that is too long; an `attention_mask` beside
            text or a run, which have their own, or one that does not fit; ids that may be padding or text.
    """
    if isinstance(prompts, TaskLike):
        prompts = prompts.clean
    if attention_mask is not None:
        if not isinstance(prompts, Tensor):
            raise BadInput("attention_mask= belongs to token ids; text and runs say themselves which tokens are real")
        return Run(model.checked_tokens(prompts), (), checked_mask(attention_mask))
    if isinstance(prompts, Run):
        if prompts.interventions:
            raise BadInput("expected prompts, or a run without interventions: they would not be made")
        return masked(model, prompts)
    if isinstance(prompts, Tensor):
        return masked(model, Run(model.checked_tokens(prompts)))
    encoded = model.text.fitted(prompts)
    mask = None if encoded.real is None else encoded.real.to(model.device)
    return Run(model.checked_tokens(encoded.tokens), (), mask)


def masked(model: HookedTransformer, run: Run) -> Run:
    """A run that says which of its tokens are real if some are not.

    Raises:
        BadInput: it has no mask, and nobody can tell.
    """
    if run.attention_mask is not None or run.tokens.shape[1] > model.cfg.n_ctx:  # which the pass refuses
        return run
    real = model.text.padding(run.tokens).real
    return run if real is None else replace(run, attention_mask=real)


def counted_positions(model: HookedTransformer, run: Run, exclude: Collection[Excluded]) -> Bool[Tensor, "batch pos"]:
    """Which positions of a run count in a mean: not padding, nor a BOS token that the text begins with."""
    real = masked(model, run).real
    counted = real if "padding" in exclude else torch.ones_like(real)
    if "bos" not in exclude or model.tokenizer is None:
        return counted
    first = real.int().cumsum(1).eq(1) & real
    begins = [id for id in (model.tokenizer.bos_token_id, model.tokenizer.cls_token_id) if id is not None]
    return counted & ~(first & torch.isin(run.tokens, torch.tensor(begins, device=run.tokens.device)))
