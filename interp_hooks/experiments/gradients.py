"""Gradients of a metric with respect to any activation, and the effects that they attribute to its parts.

    gradient x input        x * dm/dx                                    first order: exact where the rest is linear
    integrated gradients    (x - x') * mean of dm/dx from x' to x        sums to m(x) - m(x')

Effects are in the metric's units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.backward_rules import BackwardRule, rules_named
from interp_hooks.experiments.differentiable import (
    Differentiable,
    Hooks,
    Objective,
    Pass,
    bound,
    differentiated,
    finite,
    parts_within,
    rough_bytes,
    scored,
)
from interp_hooks.experiments.patching import warn_of_lengths
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.prompts import record_parts, run_of
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run, SourceLike, as_run
from interp_hooks.interventions.sites import Recordings, Site, at
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer


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
    max_memory: int | None = None,
    progress: bool = True,
) -> Result:
    """What each part of the activation x at `site` adds to the metric on the way from a baseline x' to x.

    `site` is one place, `at("z", 5)` or `"hook_embed"`; `baseline` is any source of an intervention: a number, a
    tensor, `Run(corrupt_tokens)`, `Mean(Run(tokens))`. Effects are summed over the axes that are not in `over`. The
    integral is a midpoint sum of `steps` forward and backward passes. Baselines of the result: "original" m(x),
    "baseline" m(x') and "residual", what the sum of all effects leaves unexplained of m(x) - m(x'): add steps until
    it is small.

    `max_memory` bounds the bytes of activations, to within a third (default: as much as is of use and free): prompts
    that do not fit together are passed some at a time, with the same result. The activation at the site, of all
    prompts, what a metric makes of them together, and the pass of a single prompt are there however large they are.

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
        model, as_run(model, prompts), metric, site, baseline, over, fractions, max_memory, progress
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
    rules: BackwardRule | None = None,
    max_memory: int | None = None,
) -> Result:
    """The activation times the metric's gradient there: to first order, what the metric loses if it becomes 0.

    The result is that of `integrated_gradients` from 0 with the gradient at x alone, "residual" included; `max_memory`
    is as there. With `rules` some parts of the model are held in the backward pass (`backward_rules`): in a model
    without biases, effects at "blocks.0.hook_resid_pre" then sum to the metric (with all rules but plain "relp").
    Integrated gradients have no such rules: what makes them sum is the plain gradient.

    Raises:
        BadInput: a site or axis that does not exist, or rules that the model has not.
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.

    >>> by_token = gradient_x_input(model, clean, metric, "hook_embed")
    """
    return _gradients_along_path(model, as_run(model, prompts), metric, site, 0.0, over, [1.0], max_memory, rules=rules)


def _gradients_along_path(
    model: HookedTransformer,
    run: Run,
    metric: MetricLike,
    site: Site | str,
    baseline: SourceLike,
    over: Sequence[str],
    fractions: Sequence[float],
    max_memory: int | None,
    progress: bool = True,
    rules: BackwardRule | None = None,
) -> Result:
    """(x - x') times the mean gradient at x' + fraction (x - x')."""
    site = site if isinstance(site, Site) else at(site)
    (point,) = model.points(site.hook)
    checked_axes(point, over)
    warn_of_lengths(run, over)
    objective = Objective(model=model, metric=metric, run=run, rules=rules_named(rules))
    path = _Path(objective, point, bound(model, max_memory))
    original, x = path.beginning()
    start = path.changed(x, Intervention(site.counted_back(run.real), baseline))
    change = difference(x, start)
    del x  # of all prompts, this is no small thing
    gradient = path.gradient(start, change, fractions, progress and len(fractions) > 1)
    at_baseline = path.scores(start)
    effects = summed(gradient.mul_(change).div_(len(fractions)), point.axes, over, len(original)).to(original)
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


class _Path:
    """The way of an activation from a baseline to what it is, for all prompts in parts that fit into memory."""

    def __init__(self, objective: Objective, point: HookPoint, most: int | None) -> None:
        self.objective, self.model, self.run, self.point = objective, objective.model, objective.run, point
        self.parts = parts_within(
            objective,
            lambda: next(iter(self._passes(slice(0, 1), [[]]))),
            [point.name],
            most,
            rough=rough_bytes(self.model, self.run.tokens.shape[1], per_head=point.name.endswith("_input")),
            takes=lambda kept, site: 5 * kept // 4 + 2 * site,
            stays=5,
        )

    def _passes(
        self, rows: slice, hooks: Iterable[Hooks], use: Callable[[Differentiable], None] = lambda done: None
    ) -> Iterator[Pass]:
        some = self.run if len(self.run.tokens) == rows.stop - rows.start else run_of(self.model, self.run, rows)
        return (Pass(some, rows, listed, use) for listed in hooks)

    def beginning(self) -> tuple[Float[Tensor, " prompt"], Tensor]:
        """The metric and the activation as they are."""
        found: list[Tensor] = []

        def note(value: Tensor, hook: HookPoint) -> None:
            found.append(value)

        (scores,) = scored(self.objective, self.parts, lambda rows: self._passes(rows, [[(self.point.name, note)]]))
        return scores, found[0] if len(found) == 1 else torch.cat(found)

    def changed(self, x: Tensor, intervention: Intervention) -> Tensor:
        """The activation x once the intervention is made."""
        recordings, size = Recordings(self.model), len(self.run.tokens) // len(self.parts)
        for source in intervention.runs:
            recordings.runs[source.key] = record_parts(self.model, source, [self.point.name], size)
        changed = x.clone()
        with torch.no_grad():
            intervention.write(changed, self.point, recordings)
        return changed

    def gradient(self, start: Tensor, change: Tensor, fractions: Sequence[float], progress: bool) -> Tensor:
        """The sum of the gradients at these fractions of the way."""
        gradient = torch.zeros_like(change)
        with progress_bar(total=len(fractions) * len(self.parts), progress=progress, unit="step") as bar:

            def passes(rows: slice) -> Iterator[Pass]:
                def add(done: Differentiable) -> None:
                    gradient[rows] += done.gradients()[self.point.name]
                    bar.update()

                ways = (self._put(start[rows], change[rows], fraction) for fraction in fractions)
                return self._passes(rows, ways, add)

            differentiated(self.objective, self.parts, passes, [self.point.name])
        return gradient

    def scores(self, start: Tensor) -> Float[Tensor, " prompt"]:
        """The metric at the baseline."""
        (scores,) = scored(
            self.objective,
            self.parts,
            lambda rows: self._passes(rows, [[(self.point.name, lambda value, hook: start[rows].to(value))]]),
        )
        return scores

    def _put(self, start: Tensor, change: Tensor, fraction: float) -> Hooks:
        return [(self.point.name, lambda value, hook: (start + fraction * change).to(value))]


# ----------------------------------------------------------------------------------------------------------- numbers


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
