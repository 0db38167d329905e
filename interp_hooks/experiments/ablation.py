"""Ablation: what does the model lose without one activation?

    zero           put 0 in its place
    mean           its mean over a reference set: over prompts and real positions, BOS tokens left out
    position_mean  its mean at the same position of the reference prompts, which are of one template
    resample       its value on another, random prompt of the reference set
    noise          itself plus Gaussian noise, as large as it varies over the reference set

Zero takes the activation off its usual range, mean keeps what all prompts share, resample keeps its distribution; the
three can disagree in sign, so say which one was used. `experiments.optimal` learns the constants that harm least.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.moments import Moments, is_pooled, moments, position_dim, stretched
from interp_hooks.experiments.patching import Positions, grid_of, labels_of, sweep_grids
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import OF_TASK, Excluded, PromptsLike, Resample, Run, SourceLike, as_run
from interp_hooks.interventions.sites import Recording
from interp_hooks.model.transformer import HookedTransformer

Method = Literal["zero", "mean", "position_mean", "resample", "noise"]


@experiment
def ablate(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike = OF_TASK,
    site: str = "z",
    *,
    method: Method | SourceLike = "zero",
    over: Sequence[str] = ("layer", "head"),
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    reference: PromptsLike | None = None,
    generator: torch.Generator | None = None,
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
    attention_mask: Tensor | None = None,
) -> Result:
    """Ablate `site` at every cell of the axes `over`; the baseline is "original".

    `over`, `select` and `positions` are understood as by `patch`, and prompts and metric may come as a `Task`.

    `method` is a name, or any source: what `mean_activations`, `noised_activations` and `optimal_constants` give, say.
    `reference` are the prompts whose activations the named methods use; the default, `prompts` themselves, lets each
    prompt's own value into its mean. Resampling draws a prompt for each prompt with `generator`, never itself where
    both sets are the same; its reference needs prompts of the same length. Noise is the same in all cells. `save_to` as
    in `sweep`. `attention_mask` [batch, pos] is 1 for the real tokens of `prompts` that are ids.

    Raises:
        BadInput: an unknown method, or a reference that does not fit.

    >>> lost = ablate(model, clean, metric, "z", over=("layer", "head"), method="mean", progress=False)
    """
    run = as_run(model, prompts, attention_mask)
    if isinstance(method, str):
        source = _named(model, method, run, reference, site, layers, generator)
    elif reference is not None or generator is not None:
        raise BadInput("reference= and generator= belong to a method by name; a source already has what it needs")
    else:
        source = method
    grid = grid_of(model, run, site, over, select=select, positions=positions, layers=layers)
    compute: dict[str, Any] = dict(max_memory=max_memory, progress=progress, save_to=save_to)
    return sweep_grids(model, run, [grid], source, metric, baselines={"original": run}, **compute)


def _named(
    model: HookedTransformer,
    method: str,
    run: Run,
    reference: PromptsLike | None,
    site: str,
    layers: Sequence[int] | None,
    generator: torch.Generator | None,
) -> SourceLike:
    """The source that a method's name stands for, with its usual options."""
    other = run if reference is None else as_run(model, reference)
    means: dict[str, Any] = dict(reference=other, layers=layers)
    sources: dict[str, Callable[[], SourceLike]] = {
        "zero": lambda: 0.0,
        "mean": lambda: mean_activations(model, run, site, **means),
        "position_mean": lambda: mean_activations(model, run, site, per_position=True, **means),
        "resample": lambda: Resample(other, _draw(run, other, generator)),
        "noise": lambda: noised_activations(model, run, site, generator=generator, **means),
    }
    if method not in sources:
        raise BadInput(f"method must be one of {', '.join(map(repr, sources))}, or a source, got {method!r}")
    return sources[method]()


@no_gradients
@checked
def mean_activations(
    model: HookedTransformer,
    prompts: PromptsLike,
    site: str,
    *,
    reference: PromptsLike | None = None,
    per_position: bool = False,
    groups: Sequence[Hashable] | Tensor | None = None,
    reference_groups: Sequence[Hashable] | Tensor | None = None,
    exclude: Sequence[Excluded] = ("bos", "padding"),
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> Recording:
    """The mean of `site` over a reference set in every layer, as a source for runs on `prompts`.

    Means are taken over prompts and positions, or with `per_position` over prompts alone, in float64, reading
    `batch_size` prompts at a time. With `groups`, a label for each prompt such as its template, a prompt gets the mean
    over the reference prompts of its own group (Wang et al. 2022, arxiv.org/abs/2211.00593). Tokens in `exclude` don't
    count; BOS tokens do in means per position, where they mix with nothing. Only a tokenizer tells what BOS is. Heads,
    neurons, queries and keys are kept apart. `attention_mask` [batch, pos] is 1 for the real tokens of `prompts` that
    are ids; of a padded reference a `Run` says it.

    Raises:
        BadInput: labels that don't fit; position by position, prompts of other lengths; nothing to take a mean of.
    """
    run = as_run(model, prompts, attention_mask)
    other = run if reference is None else as_run(model, reference)
    reference_groups = groups if reference is None and reference_groups is None else reference_groups
    own, members = _group_ids(len(run.tokens), len(other.tokens), groups, reference_groups)
    points = _points(model, site, run, layers)
    how: dict[str, Any] = dict(per_position=per_position, exclude=exclude, batch_size=batch_size)
    found = moments(model, other, points, groups=members, **how)
    means: dict[str, Tensor] = {}
    for point in points:
        pooled = is_pooled(point, per_position)
        mean = _fitted(run, point, found[point.name], pooled, own).mean.to(model.dtype)
        means[point.name] = stretched(mean, point, run, pooled)
    return means


@no_gradients
@checked
def noised_activations(
    model: HookedTransformer,
    prompts: PromptsLike,
    site: str,
    *,
    std: float | None = None,
    reference: PromptsLike | None = None,
    generator: torch.Generator | None = None,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> Recording:
    """The activations of `site` on `prompts` plus Gaussian noise in every layer, as a source for runs on `prompts`.

    `std` is the noise's standard deviation; by default that of the reference's activations (of those of `prompts`,
    without a reference), each coordinate its own. All layers get the same noise, up to that factor. `attention_mask` as
    in `mean_activations`.

    Raises:
        BadInput: a negative std, or activations that are not finite (masked attention scores).
    """
    if std is not None and not std >= 0:
        raise BadInput(f"std must not be negative, nor nan, got {std}")
    run = as_run(model, prompts, attention_mask)
    points = _points(model, site, run, layers)
    other = run if reference is None else as_run(model, reference)
    found = {} if std is not None else moments(model, other, points, batch_size=batch_size)
    one_group = torch.zeros(len(run.tokens), dtype=torch.long)
    noise: dict[torch.Size, Tensor] = {}  # standard normal
    noised: dict[str, Tensor] = {}
    values = record(model, run, [point.name for point in points])
    for point in points:
        value = values[point.name]
        if not bool(value.isfinite().all()):
            raise BadInput(f"{point.name} is infinite where attention is masked, so no noise can be added to it")
        if value.shape not in noise:
            drawn = torch.randn(value.shape, generator=generator, device=generator.device if generator else None)
            noise[value.shape] = drawn.to(value)
        scale = std
        if scale is None:
            scale = _fitted(run, point, found[point.name], is_pooled(point, False), one_group).std.to(value)
        noised[point.name] = value + scale * noise[value.shape]
    return noised


def _points(model: HookedTransformer, site: str, run: Run, layers: Sequence[int] | None) -> list[HookPoint]:
    labels = labels_of(model, site, ["layer"], run.tokens.shape[1], layers)
    return [model.points(f"{site}{layer}")[0] for layer in labels["layer"]]


def _group_ids(
    n: int,
    n_reference: int,
    groups: Sequence[Hashable] | Tensor | None,
    reference_groups: Sequence[Hashable] | Tensor | None,
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " reference"]]:
    """The group of every prompt and of every reference prompt, numbered; one for all if there are none."""
    if groups is None and reference_groups is None:
        return torch.zeros(n, dtype=torch.long), torch.zeros(n_reference, dtype=torch.long)
    if groups is None or reference_groups is None:
        raise BadInput("groups= and reference_groups= go together: a label for each prompt of either set")
    own, others = (
        labels.tolist() if isinstance(labels, Tensor) else list(labels) for labels in (groups, reference_groups)
    )
    if (len(own), len(others)) != (n, n_reference):
        raise BadInput(
            f"expected a group for each of {n} prompts and of {n_reference} reference prompts, "
            f"got {len(own)} and {len(others)}"
        )
    numbers = {label: number for number, label in enumerate(dict.fromkeys(others))}
    if absent := [label for label in own if label not in numbers]:
        raise BadInput(f"no reference prompt is of group {absent[0]!r}; there are {', '.join(map(repr, numbers))}")
    return torch.tensor([numbers[label] for label in own]), torch.tensor([numbers[label] for label in others])


def _fitted(run: Run, point: HookPoint, found: Moments, pooled: bool, groups: Int[Tensor, " batch"]) -> Moments:
    """The moments [batch, 1 or pos, ...] of each prompt's group, checked to have something at all its positions."""
    fitted = found.of(groups)
    counts = stretched(fitted.count, point, run, pooled).movedim(position_dim(point), 1)
    empty = (counts == 0).reshape(len(groups), -1)
    empty = empty & run.real.to(empty.device)
    if bool(empty.any()):
        row, pos = empty.nonzero()[0].tolist()
        raise BadInput(f"no token of the reference counts at {point.name} for prompt {row}, position {pos}")
    return fitted


def _draw(run: Run, reference: Run, generator: torch.Generator | None) -> Int[Tensor, " batch"]:
    """A reference prompt for each prompt; another one than itself if the sets are the same."""
    n, n_reference = len(run.tokens), len(reference.tokens)
    if reference.tokens.shape != run.tokens.shape or not torch.equal(reference.tokens, run.tokens):
        return torch.randint(n_reference, (n,), generator=generator)
    if n < 2:
        raise BadInput("resampling within a single prompt gives the prompt itself; pass reference=")
    order = torch.randperm(n, generator=generator)  # a random cycle through all prompts moves each of them
    successor = torch.empty_like(order)
    successor[order] = order.roll(-1)
    return successor
