"""Activations of one model put into the other, direct effects side by side, and the way from one to the other.

cross_model_patch        one activation of `other` in a run of `model`: which layer brings the other's answer?
attribution_changes      what each part adds to an answer in `other`, less what it adds in `model`
interpolated             weights A + alpha (B - A): between the two, and beyond what was learnt
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.patching import grid_of, sweep_runs
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.readout import LAST, MetricLike
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run, as_run
from interp_hooks.model.identity import NO_MATTER, config_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import refuse_other_vocabulary, refuse_other_weights
from interp_hooks.studies.logit_attribution import Unit, direct_logit_attribution


@experiment
def cross_model_patch(
    model: HookedTransformer,
    other: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike | None = None,
    site: str = "resid_post",
    *,
    over: Sequence[str] = ("layer",),
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Result:
    """Put `other`'s activation at `site` into a run of `model` on the same prompts, at every cell of the axes `over`.

    Scaled from "model" (0) to "other" (1): with "resid_post" over layers, the fraction tells from which layer on
    `model` needs nothing more to do what `other` does. Exchange the two for the other direction. The default metric is
    a task's own, else the loss in nats; take texts that one of the two predicts better. A result that is rerun takes
    the activations of `other` that were recorded.

    Raises:
        BadInput: other vocabularies, a site of another size in `other`, or what `patch` raises.

    >>> from interp_hooks.studies import cross_model_patch
    >>> cross_model_patch(model, model, pairs, progress=False).note[:24]
    'model and other give the'
    """
    refuse_other_vocabulary(model, other)
    run, metric = as_run(model, prompts), Loss() if metric is None else metric
    grid = grid_of(model, run, site, over, layers=layers)
    names = [model.points(get_act_name(site, layer))[0].name for layer in grid.labels["layer"]]
    there = Run(run.tokens.to(other.device), (), run.attention_mask)
    recorded = record(other, there, names)
    cells = [dict(zip(grid.labels, cell, strict=True)) for cell in itertools.product(*grid.labels.values())]
    places = [grid.at(**cell) for cell in cells]
    return sweep_runs(
        model,
        [Run(run.tokens, [Intervention(place, recorded)], run.attention_mask) for place in places],
        metric,
        axes=grid.labels,
        baselines={"model": run},
        measured={"other": evaluate(other, [there], metric)[0]},
        scale=("model", "other"),
        max_memory=max_memory,
        progress=progress,
    )


@experiment
def attribution_changes(
    model: HookedTransformer,
    other: HookedTransformer,
    prompts: PromptsLike,
    answer: Any = OF_TASK,
    wrong: Any = OF_TASK,
    *,
    unit: Unit = "component",
    pos: int | Tensor = LAST,
) -> Result:
    """What each part adds directly to an answer's logit (less the wrong one's) in `other`, minus that in `model`.

    Parts are those of `direct_logit_attribution`, and sum to the baseline "difference" of the two models' logits, which
    are the baselines "in_model" and "in_other" (of models with a soft cap, before it). Of a task, answers are the
    task's.

    Raises:
        BadInput: other vocabularies, models with other parts, or what `direct_logit_attribution` raises.

    >>> from interp_hooks.studies import attribution_changes
    >>> float(attribution_changes(model, model, pairs, unit="head").mean.abs().max())
    0.0
    """
    refuse_other_vocabulary(model, other)
    run = as_run(model, prompts)
    there = Run(run.tokens.to(other.device), (), run.attention_mask)
    ours = direct_logit_attribution(model, run, answer, wrong, unit=unit, pos=pos)
    theirs = direct_logit_attribution(other, there, answer, wrong, unit=unit, pos=pos)
    if ours.labels != theirs.labels:
        counts = f"{len(ours.labels)} and {len(theirs.labels)}"
        raise BadInput(f"these models have other parts: {counts} of the unit {unit!r}")
    wholes = [one.baselines[one.parts_of or "model"].cpu() for one in (ours, theirs)]
    return Result(
        metric=ours.metric,
        axes=dict(ours.axes),
        values=theirs.values.cpu() - ours.values.cpu(),
        baselines={"difference": wholes[1] - wholes[0], "in_model": wholes[0], "in_other": wholes[1]},
        parts_of=None if unit == "layer" else "difference",
    )


@study
def interpolated(model: HookedTransformer, other: HookedTransformer, alpha: float) -> HookedTransformer:
    """A model with the weights A + alpha (B - A), A being those of `model` and B those of `other`.

    Alpha 0 and 1 are the two to the bit; above 1 what training changed is exaggerated, below 0 reversed. Both models
    stay as they are.

    Raises:
        BadInput: models of another config or with weights of other shapes, or an alpha that is not finite.

    >>> from interp_hooks.studies import interpolated
    >>> bool(torch.equal(interpolated(model, model, 2.0).W_U, model.W_U))
    True
    """
    refuse_other_weights(model, other)
    ours, theirs = (config_of(one) for one in (model, other))
    if odd := next((name for name in {*ours, *theirs} - {*NO_MATTER} if ours.get(name) != theirs.get(name)), None):
        raise BadInput(f"these models have {odd}={ours.get(odd)!r} and {theirs.get(odd)!r}, between which nothing lies")
    if not torch.tensor(alpha).isfinite():
        raise BadInput(f"alpha must be finite, got {alpha}")
    made, ends = copy.deepcopy(model), dict(other.named_parameters())
    for name, weight in made.named_parameters():
        precise = torch.promote_types(weight.dtype, torch.float32)
        end = ends[name].detach().to(weight.device, precise)
        weight.copy_(torch.lerp(weight.detach().to(precise), end, alpha))
    return made
