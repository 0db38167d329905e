"""Attribution patching: what `patch` would give at every cell, to first order, from a single backward pass.

    AtP        (x_source - x) * dm/dx, in the run that is patched (Syed, Rager and Conmy 2023, arxiv.org/abs/2310.10348)
    qk_fix     queries and keys: the patched pattern is computed, and only what follows it is linear
    grad_drop  mean size over gradients that skip one layer each, so that paths which cancel don't hide a cell
    AtP*       both (Kramar, Lieberum, Shah and Nanda 2024, arxiv.org/abs/2403.00745)

An estimate can be badly wrong (a saturated pattern, an OR, a stream that passes many norms), and nothing in it tells:
`agreement` patches a random sample of its cells and compares.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.attribution_cells import KEYS, PATTERNS, QUERIES, Change, Plan, changes_of, plan_of
from interp_hooks.experiments.backward_rules import BackwardRule, rules_named
from interp_hooks.experiments.differentiable import (
    Differentiable,
    Hooks,
    Objective,
    Pass,
    bound,
    differentiated,
    finite,
    moved_by,
    parts_within,
    rough_bytes,
    scored,
)
from interp_hooks.experiments.gradients import difference
from interp_hooks.experiments.patching import Direction, Positions, directed_runs
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.names import get_act_name, short_name
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.prompts import run_of
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, Run
from interp_hooks.interventions.sites import Recording
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import ATTENTION_INPUTS, Stream
from interp_hooks.model.transformer import HookedTransformer


@experiment
def attribution_patch(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike = OF_TASK,
    metric: MetricLike = OF_TASK,
    site: str = "z",
    *,
    over: Sequence[str] = ("layer", "head"),
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    direction: Direction = "denoise",
    qk_fix: bool = False,
    grad_drop: bool = False,
    steps: Count | None = None,
    rules: BackwardRule | None = None,
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Result:
    """Estimate `patch(model, clean, corrupt, metric, site, over=over, direction=direction)`: the same axes and scale.

    `select` and `positions` are as there. `attribution_patches` tells what `qk_fix`, `grad_drop`, `steps` and `rules`
    do and what is raised, and estimates more sites at once.

    >>> estimate = attribution_patch(model, clean, corrupt, metric, "z", over=("layer", "head"))
    """
    where: dict[str, Any] = dict(select=select, positions=positions, layers=layers)
    how: dict[str, Any] = dict(direction=direction, qk_fix=qk_fix, grad_drop=grad_drop, steps=steps, rules=rules)
    compute: dict[str, Any] = dict(max_memory=max_memory, progress=progress)
    return attribution_patches(model, clean, corrupt, metric, {site: over}, **where, **how, **compute)[site]


@experiment
@on_data
def attribution_patches(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: MetricLike,
    sites: Mapping[str, Sequence[str]],
    *,
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    direction: Direction = "denoise",
    qk_fix: bool = False,
    grad_drop: bool = False,
    steps: Count | None = None,
    rules: BackwardRule | None = None,
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> dict[str, Result]:
    """`attribution_patch` at several sites, each with its axes: {"z": ("layer", "head"), "mlp_out": ("layer", "pos")}.

    `select` and `positions` are as in `patch`, and hold for all sites, which share two forward passes and a backward
    one. `qk_fix` adds, for each site of queries or keys ("q", "k", "rot_q", "rot_k", "q_input", "k_input"), two passes
    through attention, and is exact up to the pattern; other sites stay as they are. `grad_drop` makes as many backward
    passes as there are layers: the size of an effect is the mean over gradients that skip another layer than the cell's
    own; its sign, which the paper leaves open, is that of their sum. With both this is AtP*.

    `steps` takes the mean of the gradients at so many points between both runs, at each of which the embeddings are
    that far from the one to the other (as in EAP-IG, Hanna et al. 2024, arxiv.org/abs/2403.17806), each with a forward
    and a backward pass. `rules` holds some parts of the model constant in the backward pass (`backward_rules`): "relp"
    costs as much as the plain gradient, and is often much closer.

    `max_memory` bounds the bytes of activations, to within a third (default: as much as is of use and free): prompts
    that do not fit together are passed some at a time, with the same result. What a metric makes of all prompts
    together, and the passes of a single prompt, are computed however large they are.

    Raises:
        BadInput: prompts that do not correspond token by token, an axis or layer that does not exist; with `qk_fix`
            parts of a query or key, or heads that are normalized together; with `grad_drop` a model of one layer, or
            `steps`; with `rules` a model that has no such rules, or sites whose only way leads through what is held.
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.

    >>> estimates = attribution_patches(model, clean, corrupt, metric, {"z": ("layer", "head"), "mlp_out": ("layer",)})
    """
    base, source, scale, _ = directed_runs(model, clean, corrupt, direction)
    if grad_drop and model.cfg.n_layers < 2:
        raise BadInput("grad_drop leaves out one other layer at a time, but this model has a single one")
    if steps is not None and steps < 1:
        raise BadInput(f"steps must be at least 1, got {steps}")
    if grad_drop and steps is not None:
        raise BadInput("grad_drop and steps are two cures of one fault, a gradient that vanishes: choose one")
    if (ruled := rules_named(rules)) is not None and ruled.holds_patterns:
        through = [site for site in sites if short_name(get_act_name(site, 0)) in QUERIES + KEYS + PATTERNS]
        if through:
            raise BadInput(f"{through[0]!r} acts through patterns, which {rules!r} holds: all its effects would be 0")
    where: dict[str, Any] = dict(select=select, positions=positions, layers=layers)
    plans = {site: plan_of(model, site, over, base, qk_fix, where) for site, over in sites.items()}
    objective = Objective(model=model, metric=metric, run=base, rules=ruled)
    estimate = _Estimate(objective, source, plans, max_memory, grad_drop, steps)
    at_source = estimate.at_source()
    at_base, effects = estimate.effects(progress)
    at = dict(zip(scale, (at_base, at_source), strict=True))
    return {
        site: Result(
            metric=metric_name(metric),
            axes={axis: list(labels) for axis, labels in plan.grid.labels.items()},
            values=at_base
            + finite(effects[site].movedim(0, list(plan.grid.labels).index("layer")), f"the effect of {site}"),
            baselines={name: at[name] for name in ("clean", "corrupt")},
            scale=scale,
        )
        for site, plan in plans.items()
    }


# ------------------------------------------------------------------------------------------------------ from gradients


Plans = Mapping[str, Plan]
Changes = Mapping[str, Sequence[Change]]


class _Estimate:
    """The effects of all cells at several sites, from passes over the prompts in parts that fit into memory."""

    def __init__(
        self,
        objective: Objective,
        source: Run,
        plans: Plans,
        max_memory: int | None,
        grad_drop: bool,
        steps: int | None,
    ) -> None:
        self.objective, self.source, self.plans, self.steps = objective, source, plans, steps
        self.model, self.drop = objective.model, _GradDrop() if grad_drop else None
        self.names = list(dict.fromkeys(name for plan in plans.values() for name in plan.kept))
        self.points = [point.name for plan in plans.values() for point in plan.points]
        length = objective.run.tokens.shape[1]
        per_head = any(name.endswith(ATTENTION_INPUTS) for name in self.names)
        fixed = sum(len(plan.points) for plan in plans.values() if plan.fixed)
        scores = 8 * self.model.cfg.n_heads * length**2  # in float64
        self.parts = parts_within(
            objective,
            lambda: Pass(self._some(objective.run, slice(0, 1)), slice(0, 1), self._hooks, _nothing),
            self.names,
            bound(self.model, max_memory),
            rough=rough_bytes(self.model, length, per_head=per_head) + (5 * fixed + 10) * scores,
            takes=lambda kept, sites: 5 * kept // 4 + 4 * sites + (5 * fixed + 10 * bool(fixed)) * scores,
        )
        self.new: Recording | None = None  # of all prompts, where these are passed together

    @property
    def _hooks(self) -> Hooks:
        return [] if self.drop is None else self.drop.hooks(self.model)

    def _some(self, run: Run, rows: slice) -> Run:
        return run if rows == self.objective.whole else run_of(self.model, run, rows)

    def at_source(self) -> Float[Tensor, " prompt"]:
        """The metric of the source run."""
        noted: dict[str, Tensor] = {}

        def note(value: Tensor, hook: HookPoint) -> None:
            noted[hook.name] = value

        hooks = [(name, note) for name in self.points] if len(self.parts) == 1 else []
        objective = replace(self.objective, run=self.source)
        (scores,) = scored(
            objective, self.parts, lambda rows: [Pass(self._some(self.source, rows), rows, hooks, _nothing)]
        )
        self.new = noted if hooks else None
        return scores

    def effects(self, progress: bool) -> tuple[Float[Tensor, " prompt"], dict[str, Float[Tensor, "layer ..."]]]:
        """The metric of the run that is patched, and the effect of every cell of each site."""
        if self.steps is not None:
            return self._integrated(self.steps, progress)
        found: list[dict[str, Tensor]] = []
        layers = self.model.cfg.n_layers if self.drop is not None else 1
        shown = progress and self.drop is not None
        with progress_bar(total=layers * len(self.parts), progress=shown, unit="layer") as bar:

            def passes(rows: slice) -> list[Pass]:
                run = self._some(self.objective.run, rows)

                def use(done: Differentiable) -> None:
                    found.append(self._of_part(done, run, rows, bar.update))

                return [Pass(run, rows, self._hooks, use)]

            (scores,) = differentiated(self.objective, self.parts, passes, self.names)
        together = {site: _of_all([one[site] for one in found], len(scores)) for site in self.plans}
        return scores, together if self.drop is None else self.drop.combined(self.plans, together)

    def _integrated(
        self, steps: int, progress: bool
    ) -> tuple[Float[Tensor, " prompt"], dict[str, Float[Tensor, "layer ..."]]]:
        """The same with the mean gradient at points whose embeddings lie between those of both runs."""
        found = [dict.fromkeys(self.plans, torch.zeros(())) for _ in self.parts]
        with progress_bar(total=steps * len(self.parts), progress=progress, unit="step") as bar:

            def passes(rows: slice) -> Iterator[Pass]:
                sums = found[self.parts.index(rows)]
                base, source = (self._some(run, rows) for run in (self.objective.run, self.source))
                start, end = (record(self.model, run, ENTERS)[ENTERS] for run in (base, source))
                plans = {site: plan.of_prompts(base, rows) for site, plan in self.plans.items()}

                @functools.cache
                def changes() -> Changes:
                    old, new = (record(self.model, run, self.names) for run in (base, source))
                    return {site: changes_of(self.model, plan, base, old, new) for site, plan in plans.items()}

                def use(done: Differentiable) -> None:
                    for site, effects in _effects(done, plans, changes()).items():
                        sums[site] = sums[site] + effects / steps
                    bar.update()

                for step in range(steps):
                    moved = (step + 0.5) / steps * difference(end, start)
                    yield Pass(base, rows, [(ENTERS, moved_by(moved))], use)

            differentiated(self.objective, self.parts, passes, self.names)
        (scores,) = scored(
            self.objective, self.parts, lambda rows: [Pass(self._some(self.objective.run, rows), rows, [], _nothing)]
        )
        return scores, {site: _of_all([one[site] for one in found], len(scores)) for site in self.plans}

    def _of_part(
        self, done: Differentiable, run: Run, rows: slice, advance: Callable[[], object]
    ) -> dict[str, Float[Tensor, "*dropped layer ..."]]:
        """The effects in some of the prompts; with grad_drop those that skip each of the layers."""
        new = record(self.model, self._some(self.source, rows), self.points) if self.new is None else self.new
        plans = {site: plan.of_prompts(run, rows) for site, plan in self.plans.items()}
        changes = {site: changes_of(self.model, plan, run, done.values, new) for site, plan in plans.items()}
        drop, dropped = self.drop, []
        if drop is None:
            return _effects(done, plans, changes)
        for layer in range(self.model.cfg.n_layers):
            drop.layer = layer
            dropped.append(_effects(done, plans, changes, again=True))
            advance()
        return {site: torch.stack([one[site] for one in dropped]) for site in plans}


ENTERS = "blocks.0.hook_resid_pre"


def _nothing(done: Differentiable) -> None:
    """What is to be done with a pass that is only read."""


def _of_all(parts: Sequence[Tensor], prompts: int) -> Tensor:
    """The effects [..., prompt] in all prompts, from those in some; or their sum, if all prompts have one score."""
    return torch.stack([*parts]).sum(0) if prompts == 1 else torch.cat([*parts], dim=-1)


def _effects(
    done: Differentiable, plans: Plans, changes: Changes, *, again: bool = False
) -> dict[str, Float[Tensor, "layer ..."]]:
    """The effect of every cell of each site, from one backward pass."""
    gradients = done.gradients(again=again)

    def cells(site: str, change: Change) -> Tensor:
        effects = change.effect(gradients[change.hook])
        return plans[site].summed(effects, change.axes, len(done.scores)).to(done.scores)

    return {site: torch.stack([cells(site, change) for change in listed]) for site, listed in changes.items()}


class _GradDrop:
    """Backward passes through which no gradient goes by what one layer writes to the stream."""

    def __init__(self) -> None:
        self.layer = -1  # which one, at present

    def hooks(self, model: HookedTransformer) -> Hooks:
        """What the forward pass needs."""

        def drop(value: Tensor, hook: HookPoint) -> Tensor:
            if value.requires_grad:
                layer = hook.layer()
                value.register_hook(lambda gradient: gradient * (layer != self.layer))
            return value

        stream = Stream(model)
        stream.refuse_other_streams()
        return [(hook, drop) for layer in range(stream.n_layers) for hook in stream.sublayers(layer).values()]

    def combined(
        self, plans: Plans, effects: Mapping[str, Float[Tensor, "dropped layer ..."]]
    ) -> dict[str, Float[Tensor, "layer ..."]]:
        """Mean sizes over the layers that are not a cell's own, with the sign of the sum."""
        found = {}
        for site, of_dropped in effects.items():
            dropped = torch.arange(len(of_dropped))[:, None]
            own = dropped == torch.tensor([point.layer() for point in plans[site].points])
            others = of_dropped.masked_fill(own.to(of_dropped.device).view(*own.shape, *[1] * (of_dropped.ndim - 2)), 0)
            size = others.abs().sum(0) / (len(of_dropped) - 1)
            found[site] = size.where(others.sum(0) >= 0, -size)
        return found
