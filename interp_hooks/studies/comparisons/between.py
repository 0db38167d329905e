"""Activations of one model put into the other, direct effects side by side, and the way from one to the other.

cross_model_patch        one activation of `other` in a run of `model`: which layer brings the other's answer?
attribution_changes      what each part adds to an answer in `other`, less what it adds in `model`
interpolated             weights A + alpha (B - A): between the two, and beyond what was learnt
weight_changes           what changed in weights, by what no change of basis within a part changes:

    head   OV = W_V W_O and QK = W_Q W_K^T: both ends lie in the stream, and how the head's own coordinates are chosen
           does not count
    MLP    sum over neurons n of w_in[n] (x) w_out[n], of gated ones w_gate[n] (x) w_in[n] (x) w_out[n]: in which order
           neurons stand does not count

A change of a product is written as products that vanish with the changes of its factors,

    A' B' - A B = (A' - A) B' + A (B' - B)

so that it is exactly 0 where nothing changed, and no matrix of d_model x d_model is made for a head.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
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
from interp_hooks.model.factored import FactoredMatrix
from interp_hooks.model.identity import NO_MATTER, config_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import refuse_other_vocabulary, refuse_other_weights, relative
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


Of = Literal["maps", "tensors"]
Factors = tuple[Float[Tensor, "_ _"], ...]
"""A map as a sum over n of the outer products of each factor's row n; a single factor is the matrix itself."""
ROUNDING = 8  # times eps and the norms of the factors: smaller singular values of a change may be nothing but rounding
CHUNK = 4096  # neurons whose products with all others are held at once


@study
def weight_changes(model: HookedTransformer, other: HookedTransformer, *, of: Of = "maps") -> Result:
    """How much each part's weights changed from `model` to `other`: axes "part" and "measure".

        relative_change   |W' - W| / |W|, Frobenius norms
        rank              how many singular values of the change are more than rounding: a LoRA's rank, of a matrix with
                          nothing else in it (of gated MLPs, whose map is no matrix, nan)

    With `of="maps"` the parts are what each does to the stream: "W_E", "W_pos", "L0H1 OV", "L0H1 QK", "L0 MLP", "W_U";
    with "tensors" every parameter by its name, heads side by side. Biases, gains of norms, experts and mixers other
    than attention are among the tensors only. Load both models with folded norms, whose gains otherwise belong to maps
    and are not seen in them. Checkpoints of fewer bits than the loaded dtype have larger rounding errors, so that
    ranks come out too high.

    Raises:
        BadInput: models whose weights have other names or shapes.

    >>> from interp_hooks.studies import weight_changes
    >>> weight_changes(model, model).top(1, by="value")["value"].tolist()
    [0.0]
    """
    refuse_other_weights(model, other)
    parts = maps_of if of == "maps" else tensors_of
    names, rows = list[str](), list[tuple[Tensor, Tensor]]()
    for (name, before), (_, after) in zip(parts(model), parts(other), strict=True):
        names.append(name)
        rows.append(_change(before, after))
    values = torch.stack([torch.stack([one.double().cpu() for one in row]) for row in rows])
    return Result(
        metric="value", axes={"part": names, "measure": ["relative_change", "rank"]}, values=values[..., None]
    )


def maps_of(model: HookedTransformer) -> Iterator[tuple[str, Factors]]:
    """What each part of a model does to the stream, as factors."""
    yield "W_E", (model.embed.W_E,)
    if "pos_embed.W_pos" in dict(model.named_parameters()):
        yield "W_pos", (model.W_pos,)
    blocks: Any = model.blocks
    for layer, block in enumerate(blocks):
        attn: dict[str, Tensor] = {} if block.attn is None else dict(block.attn.named_parameters(recurse=False))
        if attn.keys() >= {"W_Q", "W_K", "W_V", "W_O"}:
            shared = len(attn["W_Q"]) // len(attn["W_K"])
            for head in range(len(attn["W_Q"])):
                yield f"L{layer}H{head} QK", (attn["W_Q"][head].mT, attn["W_K"][head // shared].mT)
                yield f"L{layer}H{head} OV", (attn["W_V"][head // shared].mT, attn["W_O"][head])
        mlp: dict[str, Tensor] = {} if block.attn_only else dict(block.mlp.named_parameters(recurse=False))
        if "W_out" in mlp and mlp["W_out"].ndim == 2:
            gate = [mlp["W_gate"].mT] if "W_gate" in mlp else []
            yield f"L{layer} MLP", (*gate, mlp["W_in"].mT, mlp["W_out"])
    yield "W_U", (model.unembed.W_U,)


def tensors_of(model: HookedTransformer) -> Iterator[tuple[str, Factors]]:
    """Every parameter as a matrix; what several heads have stands side by side, towards the stream below each other."""
    for name, weight in model.named_parameters():
        if weight.ndim > 2:
            weight = weight.flatten(0, -2) if name.endswith(("W_O", "W_out")) else weight.movedim(0, 1).flatten(1)
        yield name, (weight.reshape(-1, weight.shape[-1]) if weight.ndim else weight.reshape(1, 1),)


def _change(before: Factors, after: Factors) -> tuple[Tensor, Tensor]:
    """The relative change of a map, and the rank of its change."""
    precise = torch.promote_types(before[0].dtype, torch.float32)
    eps = torch.finfo(before[0].dtype).eps
    before, after = (tuple(one.detach().to(precise) for one in each) for each in (before, after))
    if len(before) == 3:
        return relative(_norm(_telescoped(before, after)), _norm(before)), torch.tensor(torch.nan)
    if len(before) == 1:
        (old,), (new,) = before, after
        change, whole = new - old, torch.linalg.matrix_norm(old)
        singular, scale = torch.linalg.svdvals(change), whole + torch.linalg.matrix_norm(new)
    else:
        left, right = _telescoped(before, after)
        singular, whole = FactoredMatrix(left.mT, right).S, FactoredMatrix(before[0].mT, before[1]).norm()
        scale = sum(a.norm() * b.norm() for a, b in (before, after))
    return relative(singular.norm(), whole), (singular > ROUNDING * eps * scale).sum()


def _telescoped(before: Factors, after: Factors) -> Factors:
    """The change of a map as factors: old ones before the factor that changes, new ones after it."""
    changes = [new - old for old, new in zip(before, after, strict=True)]
    terms = [(*before[:place], change, *after[place + 1 :]) for place, change in enumerate(changes)]
    return tuple(torch.cat(factor) for factor in zip(*terms, strict=True))


def _norm(factors: Factors) -> Tensor:
    """The norm of a sum of outer products, from the inner products of each factor's rows."""
    total = factors[0].new_zeros((), dtype=torch.float64)
    for rows in torch.arange(len(factors[0])).split(CHUNK):
        products = torch.stack([(one[rows] @ one.mT).double() for one in factors]).prod(0)
        total = total + products.sum()
    return total.clamp(min=0).sqrt()
