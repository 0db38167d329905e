"""Optimal ablation: the constant with which the model does best, so that what is lost is what the activation tells.

    a* = argmin over a of E[loss(model with the activation replaced by a)]

Zero and mean ablation also measure the damage done by what they put in place; the optimal constant does least of it
(Li and Janson 2024, "Optimal ablation for interpretability", arxiv.org/abs/2409.09951). By default the loss is the
distance from the model's own output, KL(model || model with the constant). A difference of logits is no loss: it has no
best value, so that a constant could drive it beyond the model's own, without end and without telling what is lost.

    constants = optimal_constants(model, train, site="z", prompts=test)
    ablate(model, test, metric, "z", method=constants)          # what optimal_ablation does
    Run(test_tokens, [Intervention(at("z", 5, head=1), constants)])
    constants["blocks.5.attn.hook_z"][0, 0, 1]                  # a head's constant itself, which fits any prompts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.ablation import ablate
from interp_hooks.experiments.moments import is_pooled, moments, stretched
from interp_hooks.experiments.patching import labels_of
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.metrics import KL
from interp_hooks.interventions.readout import (
    Metric,
    MetricLike,
    Readout,
    counted_score,
    metric_name,
    read_pass,
    reading,
)
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import PromptsLike, Run, as_run
from interp_hooks.interventions.sites import Recording, Site, at
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer


@experiment
def optimal_ablation(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike | Literal["kl"] = "kl",
    site: str = "z",
    *,
    over: Sequence[str] = ("layer", "head"),
    reference: PromptsLike | None = None,
    reference_metric: MetricLike | Literal["kl"] | None = None,
    minimize: bool | None = None,
    steps: Count = 100,
    lr: float = 0.1,
    layers: Sequence[int] | None = None,
    batch_size: Count = 64,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """Put at every cell of the axes `over` the constant that harms least; the baseline is "original".

    By default harm is the divergence from the model's own output at the last position, `KL(prompts)`, also where a task
    brings a metric. Constants are those of `optimal_constants`, learned on `reference` (default: `prompts`, which
    flatters them) with `reference_metric`, whose answers belong to those prompts. What another metric says of the same
    constants tells `ablate(model, prompts, metric, method=constants)`.

    Raises:
        BadInput: only one of reference and reference_metric, or what `optimal_constants` refuses.
        MetricError: a metric that has no gradient, such as Rank and Accuracy.

    >>> lost = optimal_ablation(model, clean, site="mlp_out", over=("layer",), steps=2, progress=False)
    """
    if reference is None and reference_metric is not None:
        raise BadInput("reference= and reference_metric= go together: a metric's answers belong to its prompts")
    if metric == "kl":
        metric = KL(as_run(model, prompts))
        reference_metric = "kl" if reference_metric is None else reference_metric
    elif reference is not None and reference_metric is None:
        raise BadInput("reference= and reference_metric= go together: a metric's answers belong to its prompts")
    cells: dict[str, Any] = dict(over=over, layers=layers, progress=progress)
    search: dict[str, Any] = dict(minimize=minimize, steps=steps, lr=lr, batch_size=batch_size)
    learned_on = prompts if reference is None else reference
    judge = metric if reference is None or reference_metric is None else reference_metric
    constants = optimal_constants(model, learned_on, judge, site, prompts=prompts, **search, **cells)
    return ablate(model, prompts, metric, site, method=constants, max_memory=max_memory, save_to=save_to, **cells)


@checked
def optimal_constants(
    model: HookedTransformer,
    reference: PromptsLike,
    metric: MetricLike | Literal["kl"] = "kl",
    site: str = "z",
    *,
    over: Sequence[str] = ("layer", "head"),
    prompts: PromptsLike | None = None,
    minimize: bool | None = None,
    steps: Count = 100,
    lr: float = 0.1,
    layers: Sequence[int] | None = None,
    batch_size: Count = 64,
    progress: bool = True,
) -> Recording:
    """The constants with which the metric's mean over a reference is best, as a source for runs on `prompts`.

    The metric, by default `KL(reference)`, must have a best value: a loss, which is minimised, or one that is maximised
    and has an upper bound (`Metric.highest`), as log-probabilities have. Of a plain function say `minimize=True`.

    Every cell of the axes `over` has a constant of its own, best while all else is as in the reference: where several
    cells are ablated together, others may be better. It is the same for all prompts and, unless "pos" is among the
    axes, all positions; `prompts` (default: the reference) decide only how many of each there are. Learned by `steps`
    of Adam from the reference's mean, with a learning rate `lr` that falls to 0, in units of the activation's root mean
    square; the best of all steps counts, and nothing is random. `batch_size` bounds the prompts read at once.

    Raises:
        BadInput: a metric without a best value; numbers out of range; an activation that is not finite (masked
            attention scores); position by position (and for patterns), prompts of other lengths than the reference's.
        MetricError: a metric that has no gradient, such as Rank and Accuracy.
    """
    if steps < 0 or not 0 < lr < math.inf or batch_size < 1:
        raise BadInput(f"expected steps >= 0, a finite lr > 0 and batch_size >= 1, got {steps}, {lr} and {batch_size}")
    other = as_run(model, reference)
    run = other if prompts is None else as_run(model, prompts)
    loss = _loss(model, KL(other) if metric == "kl" else metric, minimize)
    axes = ["layer", *(axis for axis in over if axis != "layer")]
    cells = labels_of(model, site, axes, other.tokens.shape[1], layers)
    together = max(1, batch_size // len(other.tokens))
    constants: dict[str, Tensor] = {}
    for layer in progress_bar(cells.pop("layer"), progress=progress, unit="layer"):
        point, per_position = model.points(f"{site}{layer}")[0], "pos" in over
        sites = [at(site, layer, **dict(zip(cells, indices, strict=True))) for indices in product(*cells.values())]
        search = _search(model, other, loss, point, per_position)
        learned = torch.zeros_like(search.start)
        constants[point.name] = stretched(learned, point, run, is_pooled(point, per_position))  # a view, still empty
        for first in range(0, len(sites), together):
            chosen = torch.stack([_selected(point, one, learned) for one in sites[first : first + together]])
            learned += torch.where(chosen, _learn(search, chosen, steps, lr), 0).sum(0)  # each at its own place
    return constants


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """What is to be minimised: the mean of scores, or minus that, of what is read from the model."""

    readout: Readout
    score: Callable[[Tensor], Tensor]
    sign: int


def _loss(model: HookedTransformer, metric: MetricLike, minimize: bool | None) -> _Loss:
    """The metric as a loss.

    Raises:
        BadInput: it has no best value that a search could come to.
    """
    readout, score = reading(model, metric)
    if isinstance(metric, Metric):
        falls = metric.lower_is_better if minimize is None else minimize
        ends = metric.lower_is_better if falls else metric.highest is not None
    else:
        falls = ends = bool(minimize)
    if not ends:
        raise BadInput(
            f"metric must be a loss, got {metric_name(metric)}, for which no best value is known: a constant could "
            "drive it beyond the model's own, without end, and that would not tell what is lost. Leave metric out, for "
            "the constants that are closest to the model's own output (KL), and see what it is with them: "
            "ablate(model, prompts, metric, method=optimal_constants(model, prompts)). Of a plain function that is a "
            "loss, say minimize=True"
        )
    return _Loss(readout=readout, score=score, sign=1 if falls else -1)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Where constants of one hook are looked for: from `start` on, in units of `scale`."""

    model: HookedTransformer
    run: Run
    loss: _Loss
    point: HookPoint
    streams: Recording
    start: Float[Tensor, "1 ..."]
    scale: float


@no_gradients
def _search(model: HookedTransformer, run: Run, loss: _Loss, point: HookPoint, per_position: bool) -> _Search:
    """On the stream that enters the hook's layer, from its mean on, in units of its root mean square."""
    stream = Stream(model)
    entering = [stream.entering(start)] if (start := stream.starts(point.layer())) >= 0 else []
    stored = record(model, run, [*entering, point.name])
    original = stored[point.name]
    if not bool(original.isfinite().all()):
        raise BadInput(f"{point.name} is infinite where attention is masked, so no constant can be learned for it")
    start = moments(model, run, [point], per_position=per_position)[point.name].mean.to(model.dtype)
    return _Search(
        model=model,
        run=run,
        loss=loss,
        point=point,
        streams=stored,
        start=start,
        scale=float(original.square().mean().sqrt()) or 1.0,
    )


def _selected(point: HookPoint, site: Site, value: Float[Tensor, "1 ..."]) -> Bool[Tensor, "1 ..."]:
    """Where a site is, in an activation of one prompt."""
    chosen = torch.zeros_like(value, dtype=torch.bool)
    chosen[site.index(point, value)] = True
    return chosen


def _learn(search: _Search, chosen: Bool[Tensor, "site 1 ..."], steps: int, lr: float) -> Float[Tensor, "site 1 ..."]:
    """The best constant found for each of some sites: all at once, since they don't interact."""
    start, sites = search.start, len(chosen)
    shift = torch.zeros(sites, *start.shape, dtype=start.dtype, device=start.device, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=max(1, steps))
    best, found = torch.full((sites,), torch.inf, dtype=torch.float64), shift.detach().clone()
    for step in range(steps + 1):
        with torch.enable_grad():
            losses = _losses(search, chosen, start + search.scale * shift)
        now = losses.detach().double().cpu()
        better = now < best
        best, found[better] = torch.where(better, now, best), shift.detach()[better]
        if step < steps:
            (shift.grad,) = torch.autograd.grad(losses.sum(), [shift])
            optimizer.step()
            schedule.step()
    return start + search.scale * found


def _losses(
    search: _Search, chosen: Bool[Tensor, "site 1 ..."], constants: Float[Tensor, "site 1 ..."]
) -> Float[Tensor, " site"]:
    """The loss with each constant at its site, from the stream that enters the sites' layer on.

    A pass of its own: the engine would plan and record anew in each step of the search.
    """
    model, run, point, copies = search.model, search.run, search.point, len(chosen)

    def replace(value: Tensor, hook: HookPoint) -> Tensor:
        rows = value.detach().unflatten(0, (copies, -1))
        return torch.where(chosen, constants, rows).flatten(0, 1)

    stream, loss, hooks = Stream(model), search.loss, [(point.name, replace)]
    read = read_pass(stream, loss.readout, run, copies, point.layer(), search.streams, hooks)
    scores = [counted_score(loss.score(one), "a constant", len(run.tokens)) for one in read]
    losses = torch.stack([loss.sign * score.mean() for score in scores])
    if not losses.requires_grad:
        raise MetricError("this metric has no gradient (it counts or compares), so no constant can be learned with it")
    if not bool(losses.isfinite().all()):
        raise MetricError(f"the metric is not finite with a constant at {point.name}: {losses.tolist()}")
    return losses
