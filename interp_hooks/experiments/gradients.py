"""Gradients of a metric with respect to any activation, and the effects that they attribute to its parts.

    gradient x input        x * dm/dx                                    first order: exact where the rest is linear
    integrated gradients    (x - x') * mean of dm/dx from x' to x        sums to m(x) - m(x')

Effects are in the metric's units. A pass that is to be differentiated keeps the activations asked for and what autograd
needs of the layers after them; no weight gets a gradient. It is a pass of its own, since one graph serves all of these
activations, where runs of the engine would each have theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.patching import warn_of_lengths
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.passes import read_pass
from interp_hooks.interventions.readout import MetricLike, counted_score, metric_name, reading
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run, SourceLike, as_run
from interp_hooks.interventions.sites import Recordings, Site, at
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

Hooks = Sequence[tuple[str, Callable[..., Tensor | None]]]


@experiment
@on_data
def integrated_gradients(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike = OF_TASK,
    site: Site | str = "hook_embed",
    *,
    baseline: SourceLike = 0.0,
    steps: Count = 20,
    over: Sequence[str] = ("pos",),
    progress: bool = True,
) -> Result:
    """What each part of the activation x at `site` adds to the metric on the way from a baseline x' to x.

    `site` is one place, `at("z", 5)` or `"hook_embed"`; `baseline` is any source of an intervention: a number, a
    tensor, `Run(corrupt_tokens)`, `Mean(Run(tokens))`. Effects are summed over the axes that are not in `over`. The
    integral is a midpoint sum of `steps` forward and backward passes. Baselines of the result: "original" m(x),
    "baseline" m(x') and "residual", what the sum of all effects leaves unexplained of m(x) - m(x'): add steps until
    it is small.

    Sundararajan, Taly and Yan 2017, arxiv.org/abs/1703.01365.

    Raises:
        BadInput: a site, axis or baseline that does not fit.
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.

    >>> by_token = integrated_gradients(model, clean, metric, "hook_embed", steps=2)
    """
    if steps < 1:
        raise BadInput(f"steps must be at least 1, got {steps}")
    fractions = [(step + 0.5) / steps for step in range(steps)]
    return _gradients_along_path(
        model, as_run(model, prompts), metric, site, baseline, over, fractions, progress=progress
    )


@experiment
@on_data
def gradient_x_input(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike = OF_TASK,
    site: Site | str = "hook_embed",
    *,
    over: Sequence[str] = ("pos",),
) -> Result:
    """The activation times the metric's gradient there: to first order, what the metric loses if it becomes 0.

    The result is that of `integrated_gradients` from 0 with the gradient at x alone, "residual" included.

    Raises:
        BadInput: a site or axis that does not exist.
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.

    >>> by_token = gradient_x_input(model, clean, metric, "hook_embed")
    """
    return _gradients_along_path(model, as_run(model, prompts), metric, site, 0.0, over, [1.0])


def _gradients_along_path(
    model: HookedTransformer,
    run: Run,
    metric: MetricLike,
    site: Site | str,
    baseline: SourceLike,
    over: Sequence[str],
    fractions: Sequence[float],
    progress: bool = True,
) -> Result:
    """(x - x') times the mean gradient at x' + fraction (x - x')."""
    site = site if isinstance(site, Site) else at(site)
    (point,) = model.points(site.hook)
    checked_axes(point, over)
    warn_of_lengths(run, over)
    original, x = recorded(model, run, metric, [point.name])
    start = _changed(model, x[point.name], point, Intervention(site.counted_back(run.real), baseline))
    change = difference(x[point.name], start)

    def put(fraction: float) -> Hooks:
        return [(point.name, lambda value, hook: (start + fraction * change).to(value))]

    gradient = torch.zeros_like(change)
    for fraction in progress_bar(fractions, progress=progress and len(fractions) > 1, unit="step"):
        gradient += differentiable(model, run, metric, [point.name], put(fraction)).gradients()[point.name]
    effects = summed(change * gradient / len(fractions), point.axes, over, len(original)).to(original)
    at_baseline, _ = recorded(model, run, metric, [], put(0.0))
    total = effects.reshape(-1, len(original)).sum(0)
    return Result(
        metric=metric_name(metric),
        axes={axis: range(size) for axis, size in zip(over, effects.shape, strict=False)},
        values=finite(effects, point.name),
        baselines={
            "original": original,
            "baseline": at_baseline,
            "residual": original - at_baseline - total,
        },
    )


def _changed(model: HookedTransformer, x: Tensor, point: HookPoint, intervention: Intervention) -> Tensor:
    """The activation x once the intervention is made."""
    recordings = Recordings(model)
    for source in intervention.runs:
        recordings.runs[source.key] = record(model, source, point.name)
    changed = x.clone()
    with torch.no_grad():
        intervention.write(changed, point, recordings)
    return changed


# ------------------------------------------------------------------------------- passes that can be differentiated


@dataclass(frozen=True, kw_only=True, eq=False)
class Differentiable:
    """A metric [prompt], and the activations, by hook name, with respect to which it can be differentiated."""

    scores: Float[Tensor, " prompt"]
    values: dict[str, Tensor]

    @torch.enable_grad()
    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each prompt's score with respect to its activations; 0 where nothing reads them."""
        found = torch.autograd.grad(
            self.scores.sum(), list(self.values.values()), retain_graph=True, materialize_grads=True
        )
        return dict(zip(self.values, found, strict=True))


def differentiable(
    model: HookedTransformer, run: Run, metric: MetricLike, names: Sequence[str], hooks: Hooks = ()
) -> Differentiable:
    """One pass over a run, with `hooks`, that keeps the activations at `names` (as the hooks leave them) and the graph.

    Raises:
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.
    """
    values: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> Tensor:
        values[hook.name] = value.requires_grad_()
        return value

    with torch.enable_grad(), _WeightsAreConstants():
        scores = _score(model, run, metric, [*hooks, *((name, keep) for name in names)])
    if not scores.requires_grad:
        raise MetricError(
            f"{metric_name(metric)} has no gradient with respect to {', '.join(names[:3])}: it counts or ranks, is "
            "computed outside torch, or does not depend on these activations; use patch instead, or another metric"
        )
    return Differentiable(scores=scores, values=values)


@torch.no_grad()
def recorded(
    model: HookedTransformer, run: Run, metric: MetricLike, names: Sequence[str], hooks: Hooks = ()
) -> tuple[Float[Tensor, " prompt"], dict[str, Tensor]]:
    """The metric of one pass with `hooks`, and the activations at `names`."""
    values: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        values[hook.name] = value

    return _score(model, run, metric, [*hooks, *((name, keep) for name in names)]), values


def _score(model: HookedTransformer, run: Run, metric: MetricLike, hooks: Hooks) -> Float[Tensor, " prompt"]:
    """The metric of one pass, which unembeds only what is read; one number for all prompts counts as one prompt."""
    readout, score = reading(model, metric)
    (read,) = read_pass(Stream(model), readout, run, 1, -1, {}, hooks)
    scores = score(read)
    if not isinstance(scores, Tensor) or scores.ndim > 1:
        came = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise MetricError(f"the metric must give one number for each prompt, got {came}")
    return finite(counted_score(scores, metric_name(metric), len(run.tokens)).reshape(-1), metric_name(metric))


class _WeightsAreConstants(TorchFunctionMode):
    """Within the block, in its thread, weights count as constants, so that autograd keeps nothing for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*map(_constant, args), **{name: _constant(value) for name, value in kwargs.items()})


def _constant(given: Any) -> Any:
    """Weights, also in a list, without their gradient; anything else as it is."""
    if isinstance(given, nn.Parameter):
        return given.detach() if given.requires_grad else given
    return type(given)(map(_constant, given)) if type(given) in (list, tuple) else given


# ----------------------------------------------------------------------------------------------------------- numbers


def finite(values: Tensor, what: str) -> Tensor:
    """The values, if all of them are numbers.

    Raises:
        MetricError: one is nan or infinite.
    """
    if not bool(values.isfinite().all()):
        raise MetricError(
            f"{what} gives values that are not finite. Look for infinite activations (masked attention scores) or "
            "logits on one side of a difference, a division by zero, or a gradient that overflows"
        )
    return values


def difference(new: Tensor, old: Tensor) -> Tensor:
    """new - old, at least in float32; 0 where both are equal, infinities included."""
    precise = torch.promote_types(new.dtype, torch.float32)
    return (new.to(precise) - old.to(precise)).masked_fill(new == old, 0.0)


def checked_axes(point: HookPoint, over: Sequence[str]) -> None:
    """Raises BadInput for an axis that a hook does not have, or that comes twice."""
    known = [axis for axis in point.axes if axis != "batch"]
    for axis in over:
        if axis not in known:
            raise BadInput(f"{point.name} has no axis {axis!r} to keep; it has {', '.join(known)}")
    if len(set(over)) < len(over):
        raise BadInput(f"over names an axis twice: {', '.join(over)}")


def summed(effects: Tensor, axes: Sequence[str], over: Sequence[str], prompts: int) -> Float[Tensor, "*grid prompt"]:
    """Effects whose axes are [batch, ...], summed but for those in `over`, in that order, and prompts.

    Where there is one score for the whole batch, prompts are summed too.
    """
    kept = [*(axes.index(axis) for axis in over), 0]
    effects = effects.permute(*kept, *(dim for dim in range(len(axes)) if dim not in kept))
    effects = effects.reshape(*effects.shape[: len(kept)], -1).sum(-1)
    return effects.sum(-1, keepdim=True) if prompts == 1 else effects
