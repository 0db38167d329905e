"""What norms do: how their scales vary, how far a norm is from a linear map, and what that means for a part's effect.

A norm divides by its scale, sqrt(mean((x - mean)^2) + eps) (RMS: without the mean). Where the scale hardly varies, the
norm is linear but for a constant, and what is read off with the scale held says what happens. Where a part of the
stream has a share in the scale (large dimensions, the first token, neurons that write where no logit looks), it does
not: three numbers for every part tell, and none is right alone.

    frozen      the scale is held as it was in the run: direct logit attribution
    jacobian    the gradient times the part: for small parts; 0 for one along the stream itself
    removed     what the logit really loses if the final stream lacks the part
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import Reducer, State, added, exact, number
from interp_hooks.corpus.scanning import scan
from interp_hooks.corpus.units import LAYER, Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about, checked
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.readout import LAST, MetricLike, metric_name
from interp_hooks.interventions.runs import OF_TASK, Intervention, Mean, PromptsLike, Run, as_run
from interp_hooks.interventions.sites import at
from interp_hooks.model.stream import ADDED
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.sources import one_token_each
from interp_hooks.studies.logit_attribution import cache_at

PER_LAYER, LAST_NORM = ("ln1", "ln1_post", "ln2", "ln2_post"), "ln_final"
LARGEST = 3  # coordinates whose share is told
FIRST, REST = 0, 1  # the first token of each document, and all others
READ = ("embed", "0.hook_resid_pre", *(f"hook_{label}" for label in ADDED), "hook_z", "hook_resid_post")
SCALES = ("ln1_post.hook_scale", "ln_final.hook_scale")


@dataclass(frozen=True)
class _Scales(Reducer):
    """Sums over the scale of a norm, and over its normalized coordinates, of first tokens and of all others apart.

    Sums are of the logarithm l of the scale (l, l^2, l^3, l^4), of the scale itself, and of its products with the
    position, which tell means, spreads, correlation and whether there are two humps.
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        values, positions = seen.values.double(), seen.positions.double()
        scale, normalized = values[:, 0], values[:, 1:]
        log = scale.log()
        each = torch.stack((scale, scale**2, log, log**2, log**3, log**4, positions, positions**2, positions * scale))
        split = [seen.positions == 0, seen.positions > 0]  # by FIRST and REST
        return {
            "counts": torch.stack([rows.sum() for rows in split]).cpu(),
            "sums": exact(torch.stack([each[:, rows].sum(1) for rows in split]).cpu()),
            "squares": exact(torch.stack([normalized[rows].square().sum(0) for rows in split]).cpu()),
            "min": torch.stack([scale.where(rows, torch.inf).amin() for rows in split]).cpu(),
            "max": torch.stack([scale.where(rows, -torch.inf).amax() for rows in split]).cpu(),
        }

    def merge(self, one: State, other: State) -> State:
        how: Mapping[str, Any] = {"counts": torch.add, "min": torch.minimum, "max": torch.maximum}
        return {name: how.get(name, added)(one[name], other[name]) for name in one}

    def result(self, state: State) -> dict[str, float]:
        counts, sums = state["counts"], number(state["sums"])
        first, rest = (sums[which] / counts[which].clamp(min=1) for which in (FIRST, REST))
        scale, square, log, log2, log3, log4, pos, pos2, product = rest.tolist()
        spread = max(square - scale**2, 0.0) ** 0.5
        variance = log2 - log**2
        skew = (log3 - 3 * log * log2 + 2 * log**3) / variance**1.5 if variance > 0 else float("nan")
        fourth = log4 - 4 * log * log3 + 6 * log**2 * log2 - 3 * log**4
        together = spread * max(pos2 - pos**2, 0.0) ** 0.5
        coordinates = number(state["squares"])[REST].sort(descending=True).values
        return {
            "tokens": int(counts[REST]),
            "mean": scale,
            "std": spread,
            "min": float(state["min"][REST]),
            "max": float(state["max"][REST]),
            "first_token_mean": float(first[0]) if counts[FIRST] else float("nan"),
            "position_correlation": (product - pos * scale) / together if together else float("nan"),
            "bimodality": (skew**2 + 1) * variance**2 / fourth if fourth > 0 else float("nan"),
            f"top{LARGEST}_share": float(coordinates[:LARGEST].sum() / coordinates.sum()),
        }


def _scale_and_normalized(
    found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
) -> Float[Tensor, "row pos number"]:
    scale, normalized = found.values()
    return torch.cat((scale, normalized.to(scale)), dim=-1)


@checked
def norm_statistics(model: HookedTransformer, corpus: Corpus, **options: Any) -> Result:
    """How the scale of every norm of the stream varies over a corpus: a result with the axes norm and statistic.

    `options` are those of `corpus.scan`; a corpus is not kept, so that the result has no record. Statistics, of all
    tokens but the first of each document:

        tokens                 how many
        mean, std, min, max    of the scale
        first_token_mean       the mean scale at first tokens, where attention rests, and scales are often far larger
        position_correlation   of the scale with the position in the document
        bimodality             (skew^2 + 1) / kurtosis of log scale: 5/9 for a uniform distribution, 1 for two points
        top3_share             the share of the three largest coordinates in the normalized stream's squared length

    Raises:
        BadInput: a model without norms; or what `scan` raises.

    >>> from interp_hooks.studies import norm_statistics
    >>> found = norm_statistics(model, [*clean, *corrupt], progress=False)
    >>> found.axes["norm"][-1], found.axes["statistic"][1:3]
    ('ln_final', ['mean', 'std'])
    """
    norms, reducers = norms_of(model), dict[str, Reducer]()
    for name in dict.fromkeys(norm.rpartition(".")[2] for norm in norms.values()):
        module = name if name == LAST_NORM else f"blocks.{LAYER}.{name}"
        hooks = (f"{module}.hook_scale", f"{module}.hook_normalized")
        reducers[name] = _Scales(Units(f"scale_{name}", hooks, of=_scale_and_normalized))
    found = scan(model, corpus, reducers, **{"exclude": (), **options})
    rows = {
        name if layer is None else f"{layer}_{name}": one for name in reducers for layer, one in found[name].items()
    }
    values = torch.tensor([[*rows[norm].values()] for norm in norms], dtype=torch.float64)
    return Result(
        metric="scale",
        axes={"norm": list(norms), "statistic": list(rows[next(iter(norms))])},
        values=values[..., None],
    )


def norms_of(model: HookedTransformer) -> dict[str, str]:
    """The norms of the stream and of what is written to it, in order: their modules by "0_ln1", ..., "ln_final".

    Raises:
        BadInput: there are none.
    """
    places = {f"{layer}_{name}": f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in PER_LAYER}
    found = {
        label: module
        for label, module in {**places, LAST_NORM: LAST_NORM}.items()
        if f"{module}.hook_scale" in model.hook_dict
    }
    if not found:
        raise BadInput("this model normalizes nothing, so that there are no scales")
    return found


@experiment
@on_data
def freeze_norms(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike | None = None,
    *,
    per_position: bool = False,
    progress: bool = True,
) -> Result:
    """What the metric becomes if a norm's scale is its mean over all prompts, norm by norm: how linear each of them is.

    The default metric is a task's own, else the loss in nats. The mean is over all real tokens, or with `per_position`
    over prompts at each position, for prompts of one length. The baseline "original" is the metric as it is.

    Raises:
        BadInput: a model without norms, or prompts that do not fit.

    >>> from interp_hooks.studies import freeze_norms
    >>> freeze_norms(model, clean, progress=False).top(1).columns.tolist()[0]
    'norm'
    """
    run = as_run(model, prompts)
    metric = Loss() if metric is None else metric
    norms = norms_of(model)
    mean = Mean(run, per_position=per_position)
    scales = (at(f"{module}.hook_scale") for module in norms.values())
    runs = [Run(run.tokens, [Intervention(scale, mean)], run.attention_mask) for scale in scales]
    scores = evaluate(model, [run, *runs], metric, progress=progress)
    return Result(
        metric=metric_name(metric), axes={"norm": list(norms)}, values=scores[1:], baselines={"original": scores[0]}
    )


Parts = Literal["component", "head"]


@experiment
@on_data
@no_gradients
def norm_effects(
    model: HookedTransformer,
    prompts: PromptsLike,
    answer: Any = OF_TASK,
    wrong: Any = OF_TASK,
    *,
    unit: Parts = "component",
    pos: int | Tensor = LAST,
) -> Result:
    """What each part adds to an answer's logit (minus the wrong answer's) in three ways: see the top of this module.

    The axes are the unit and "way": "frozen", "jacobian", "removed". Of a task, answers are the task's. A soft cap on
    logits counts for the latter two, and is left out of the first, as in `direct_logit_attribution`.

    Raises:
        BadInput: answers that do not fit the prompts, or a position outside of them.

    >>> from interp_hooks.studies import norm_effects
    >>> norm_effects(model, pairs).axes["way"]
    ['frozen', 'jacobian', 'removed']
    """
    run = as_run(model, prompts)
    if answer is None:
        raise BadInput("answer is needed: the token, for all prompts or for each, whose logit is asked for")
    count = len(run.tokens)
    with about("answer"):
        tokens = [one_token_each(model, answer, count)]
    with about("wrong"):
        tokens += [] if wrong is None else [one_token_each(model, wrong, count)]
    cache = cache_at(model, run, pos, (*READ, *SCALES))
    if unit == "component":
        parts, labels = cache.decompose_resid(return_labels=True)
    else:
        parts, labels = cache.stack_head_results(return_labels=True, incl_remainder=True)
    stream = cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
    frozen = cache.logit_attrs(parts, tokens[0], tokens[1] if len(tokens) > 1 else None)[..., 0]

    chosen = torch.stack(tokens, dim=1).to(stream.device)

    def asked(stream: Float[Tensor, "prompt 1 d_model"]) -> Float[Tensor, " prompt"]:
        logits = model.logits(stream, chosen)[:, 0]
        return logits[:, 0] if len(tokens) == 1 else logits[:, 0] - logits[:, 1]

    with torch.enable_grad():
        leaf = stream.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(asked(leaf).sum(), leaf)
    jacobian = (parts * gradient).sum((-1, -2))
    whole = asked(stream)
    removed = torch.stack([whole - asked(stream - part) for part in parts])
    return Result(
        metric="logit" if len(tokens) == 1 else "logit_diff",
        axes={unit: list(labels), "way": ["frozen", "jacobian", "removed"]},
        values=torch.stack((frozen.to(removed), jacobian.to(removed), removed), dim=1),
    )
