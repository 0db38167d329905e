"""Optimal ablation: the constant with which the model does best, so that what is lost is what the activation tells.

    a* = argmin over a of E[loss(model with the activation replaced by a)]

Zero and mean ablation also measure the damage done by what they put in place; the optimal constant does least of it
(Li and Janson 2024, "Optimal ablation for interpretability", arxiv.org/abs/2409.09951).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.experiments.moments import moments, position_dim, recorded
from interp_hooks.experiments.sweep import labels_of, sweep
from interp_hooks.hooks import HookPoint
from interp_hooks.interpreter import MEMORY
from interp_hooks.interventions import Intervention, Prompts, Run, Site, as_run, at
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import Metric, MetricLike, Readout, reading
from interp_hooks.results import Result


def optimal_ablation(
    model: HookedTransformer,
    prompts: Prompts,
    metric: MetricLike,
    site: str = "z",
    *,
    over: Sequence[str] = ("layer", "head"),
    reference: Prompts | None = None,
    reference_metric: MetricLike | None = None,
    minimize: bool | None = None,
    steps: int = 100,
    lr: float = 0.1,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    max_memory: int = MEMORY,
    progress: bool = True,
) -> Result:
    """Put at every cell of the axes `over` the constant with which the metric's mean is best; baseline "original".

    Constants are learned on `reference` (default: `prompts`, which flatters them) with `reference_metric`, whose
    answers belong to those prompts: by `steps` of Adam from the reference's mean, with a learning rate `lr` that falls
    to 0, in units of the activation's root mean square. The best of all steps counts. A constant is the same for all
    prompts and, unless "pos" is swept over, all positions. Nothing is random. `minimize` tells which way is better
    (default: what the metric says; a plain function is maximised). `batch_size` bounds the prompts read at once.

    Raises:
        BadInput: only one of reference and reference_metric, or numbers out of range.
        MetricError: a metric that has no gradient, such as Rank and Accuracy.
    """
    if (reference is None) != (reference_metric is None):
        raise BadInput("reference= and reference_metric= go together: a metric's answers belong to its prompts")
    if steps < 0 or lr <= 0 or batch_size < 1:
        raise BadInput(f"expected steps >= 0, lr > 0 and batch_size >= 1, got {steps}, {lr} and {batch_size}")
    run = as_run(model, prompts)
    training = _training(model, run, metric, reference, reference_metric, minimize)
    axes = list(over) if "layer" in over else ["layer", *over]
    labels = labels_of(model, site, axes, run.tokens.shape[1], layers)
    inner = {axis: indices for axis, indices in labels.items() if axis != "layer"}
    cells = [dict(zip(inner, indices, strict=True)) for indices in itertools.product(*inner.values())]
    together = max(1, batch_size // len(training.run.tokens))
    learned: dict[Any, Tensor] = {}
    for layer in tqdm(labels["layer"], disable=not progress, unit="layer"):
        for first in range(0, len(cells), together):
            sites = [at(site, layer, **cell) for cell in cells[first : first + together]]
            constants = _learn(training, model.points(sites[0].hook)[0], sites, steps, lr)
            learned |= {one.key: constant for one, constant in zip(sites, constants, strict=True)}

    def run_at(layer: int, **cell: int) -> Run:
        where, shape = at(site, layer, **cell), run.tokens.shape
        constant = learned[where.key]
        along = position_dim(model.points(where.hook)[0])
        placed = constant.expand(shape[0], *constant.shape[1:])
        if constant.shape[along] == 1:
            placed = placed.expand(*placed.shape[:along], shape[1], *placed.shape[along + 1 :])
        return Run(run.tokens, [Intervention(where, {where.hook: placed})], run.attention_mask)

    return sweep(
        model, run_at, metric, over=labels, baselines={"original": run}, max_memory=max_memory, progress=progress
    )


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What constants are learned on, and for."""

    model: HookedTransformer
    run: Run
    readout: Readout
    score: Callable[[Tensor], Tensor]
    minimize: bool


def _training(
    model: HookedTransformer,
    run: Run,
    metric: MetricLike,
    reference: Prompts | None,
    reference_metric: MetricLike | None,
    minimize: bool | None,
) -> _Training:
    metric = metric if reference_metric is None else reference_metric
    readout, score = reading(model, metric)
    lower = isinstance(metric, Metric) and metric.lower_is_better
    return _Training(
        model=model,
        run=run if reference is None else as_run(model, reference),
        readout=readout,
        score=score,
        minimize=lower if minimize is None else minimize,
    )


def _learn(
    training: _Training, point: HookPoint, sites: Sequence[Site], steps: int, lr: float
) -> Float[Tensor, "site 1 ..."]:
    """The best constant found for every site, which are of one hook: all at once, since they don't interact."""
    model, run = training.model, training.run
    per_position = "pos" in sites[0].select
    entering = model.points(f"blocks.{point.layer()}.hook_resid_pre")[0]
    with torch.no_grad():
        stored = recorded(model, run, [entering, point])
        start = moments(model, run, [point], per_position=per_position)[point.name].mean.to(model.dtype)
    stream, original = stored[entering.name], stored[point.name]
    if not bool(original.isfinite().all()):
        raise BadInput(f"{point.name} is infinite where attention is masked, so no constant can be learned for it")
    scale = original.square().mean().sqrt() or 1.0
    chosen = torch.stack([_selected(point, site, original[:1]) for site in sites])
    shift = torch.zeros(len(sites), *start.shape, dtype=model.dtype, device=start.device, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=max(1, steps))
    best, found = torch.full((len(sites),), torch.inf, dtype=torch.float64), shift.detach().clone()
    for step in range(steps + 1):
        with torch.enable_grad():
            losses = _losses(training, point, stream, chosen, start + scale * shift)
        better = losses.detach().double().cpu() < best
        best = torch.where(better, losses.detach().double().cpu(), best)
        found[better] = shift.detach()[better]
        if step < steps:
            (shift.grad,) = torch.autograd.grad(losses.sum(), [shift])
            optimizer.step()
            schedule.step()
    return start + scale * found


def _selected(point: HookPoint, site: Site, value: Float[Tensor, "1 ..."]) -> Bool[Tensor, "1 ..."]:
    """Where a site is, in an activation of one prompt."""
    chosen = torch.zeros_like(value, dtype=torch.bool)
    chosen[site.index(point, value)] = True
    return chosen


def _losses(
    training: _Training,
    point: HookPoint,
    stream: Float[Tensor, "batch pos d_model"],
    chosen: Bool[Tensor, "site 1 ..."],
    constants: Float[Tensor, "site 1 ..."],
) -> Float[Tensor, " site"]:
    """What is to be minimised, for each site with its constant, from the stream that enters the site's layer."""
    model, run, copies = training.model, training.run, len(chosen)

    def replace(value: Tensor, hook: HookPoint) -> Tensor:
        rows = value.detach().unflatten(0, (copies, -1))
        return torch.where(chosen, constants, rows).flatten(0, 1)

    final = model.run_with_hooks(
        stream.repeat(copies, 1, 1),
        start_at_layer=point.layer(),
        stop_at_layer=model.cfg.n_layers,
        attention_mask=None if run.attention_mask is None else run.attention_mask.repeat(copies, 1),
        fwd_hooks=[(point.name, replace)],
    )
    scores = [training.score(one) for one in training.readout.read(model, final, run).chunk(copies)]
    losses = torch.stack([score.mean() if training.minimize else -score.mean() for score in scores])
    if not losses.requires_grad:
        raise MetricError("this metric has no gradient (it counts or compares), so no constant can be learned with it")
    if not bool(losses.isfinite().all()):
        raise MetricError(f"the metric is not finite with a constant at {point.name}: {losses.tolist()}")
    return losses
