"""Is this the circuit? The metric F of a circuit C, with all edges outside it ablated, beside that of the model M.

    faithfulness   (F(C) - F(empty)) / (F(M) - F(empty)), of means over prompts: 1 if nothing outside is needed
    curve          the same for the top edges of a ranking, from 0.1 % of them to all, and the areas CPR and CMD
    random         the same for random circuits of as many edges
    roc_auc        how well scores tell the edges of a known circuit from all others

Faithfulness: Wang et al. 2022, arxiv.org/abs/2211.00593. The areas: Mueller et al. 2025, arxiv.org/abs/2504.13151. What
"ablated" means changes the numbers (Miller, Chughtai and Saunders 2024, arxiv.org/abs/2407.08734): `ablation` is that
of `discovery.eap`, and so is `max_memory`. The module `subsets` has the tests that a faithful circuit may still fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.graph import as_matrix, by_edge
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.circuits.setting import Ablation, Positions, Setting, setting, stacked
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked, refuse_outside
from interp_hooks.experiments.ranking import area_under_roc
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, Run, SourceLike
from interp_hooks.model.transformer import HookedTransformer

GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@on_data
def circuit_values(
    model: HookedTransformer,
    run: Run,
    source: SourceLike,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    axis: str,
    labels: Sequence[Any],
    kept: Bool[Tensor, "circuit writer reader"],
    *,
    max_memory: int | None = None,
) -> Result:
    """The metric of circuits, given as matrices, beside that of no edge and that of the model."""
    edges = MaskedEdges(model, run, source, metric, positions, max_memory)
    ends = torch.stack([torch.zeros_like(edges.graph.exists), edges.graph.exists])
    empty, whole, *values = edges.of_kept(torch.cat([ends, kept]))
    return Result(
        metric=metric_name(metric),
        axes={axis: list(labels)},
        values=torch.stack(values),
        baselines={"empty": empty, "model": whole},
        scale=("empty", "model"),
    )


def _values(
    model: HookedTransformer, data: Setting, axis: str, circuits: Mapping[Any, Circuit], max_memory: int | None
) -> Result:
    if not circuits:
        raise BadInput("expected at least one circuit, got none")
    kept = stacked(data.graph(model), circuits.values())
    return circuit_values(model, *data, axis, list(circuits), kept, max_memory=max_memory)


@experiment
def circuit_metric(
    model: HookedTransformer,
    circuit: Circuit,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Float[Tensor, " prompt"]:
    """The metric on the clean prompts if every edge outside the circuit carries its ablated value.

    The circuit of all edges gives the model's, that of none the corrupt run's. A circuit that tells positions apart
    needs `positions`, as in `discovery.eap`, which say where they are in these prompts. This takes a pass over the
    source of the ablated values, if there is one, and one over the circuit; `max_memory` is as in `discovery.eap`.

    Raises:
        BadInput: a circuit of another graph, or prompts that do not correspond.
        MetricError: the metric does not give one number for each prompt, or gives nan.
    """
    data = setting(model, clean, corrupt, metric, ablation, positions)
    return MaskedEdges(model, *data, max_memory).of_circuits([circuit])[0]


@experiment
def faithfulness(
    model: HookedTransformer,
    circuits: Circuit | Mapping[str, Circuit],
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Result:
    """How much of the metric a circuit keeps, or each of several by name: a result with the axis "circuit".

        >>> circuit = eap(model, clean, corrupt, metric).top(60, absolute=True).pruned()
        >>> result = faithfulness(model, {"all": circuit, "half": circuit.top(30)}, clean, corrupt, metric)
        >>> kept = result.recovered_fraction

    `recovered_fraction` is the normalised faithfulness: a ratio of means over prompts, 0 for no edge and 1 for the
    model; `interval(recovered=True)` gives its bootstrap interval. `values` are the circuits' metric itself, and the
    baselines "model" and "empty" those of the model and of no edge.

    Raises:
        BadInput, MetricError: as `circuit_metric`.
    """
    named = {"circuit": circuits} if isinstance(circuits, Circuit) else circuits
    data = setting(model, clean, corrupt, metric, ablation, positions)
    return _values(model, data, "circuit", named, max_memory)


# --------------------------------------------------------------------------------------------------- rankings of edges


@experiment
def faithfulness_curve(
    model: HookedTransformer,
    ranking: Circuit,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    fractions: Sequence[float] = GRID,
    absolute: bool = False,
    prune: bool = True,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Result:
    """The metric of the top edges of a ranking, for several fractions of all edges: a result with the axis "fraction".

    `ranking` has a score for every edge. The edges with the highest scores come first, with `absolute` those with the
    largest by size. Dead ends are removed from what is chosen, unless `prune` is off. `curve_areas` sums the result up:
    look at its `cpr` for a ranking by score, and at its `cmd` for one by size.

    Raises:
        BadInput: a ranking that lacks edges or scores, or fractions that do not ascend from 0 to 1; also as
            `circuit_metric`.
    """
    total = len(ranking.graph)
    if len(ranking) < total:
        raise BadInput(f"ranking must have a score for each of the {total} edges of its graph, got {len(ranking)}")
    listed = list(fractions)
    if not listed or listed != sorted(set(listed)) or not 0 <= listed[0] <= listed[-1] <= 1:
        raise BadInput(f"fractions must ascend from 0 to at most 1, got {listed}")
    chosen = {fraction: ranking.top(round(fraction * total), absolute=absolute) for fraction in listed}
    circuits = {fraction: top.pruned() if prune else top for fraction, top in chosen.items()}
    data = setting(model, clean, corrupt, metric, ablation, positions)
    return _values(model, data, "fraction", circuits, max_memory)


def _refuse_no_difference(result: Result) -> None:
    if result.nothing_to_recover:
        raise BadInput(f"no circuit is more or less faithful than another here: {result.note}")


class Areas(NamedTuple):
    """The areas of a curve f(k): `cpr` is the integral of f, `cmd` that of |1 - f|."""

    cpr: float
    cmd: float


@checked
def curve_areas(curve: Result) -> Areas:
    """The area under the faithfulness f(k) over fractions k of edges, and that between it and 1, by the trapezoid rule.

    k is on a linear scale, and fractions below the first one do not count: f = 1 gives a `cpr` of 0.999 on the usual
    grid.

    Raises:
        BadInput: a result without the axis "fraction" (`faithfulness_curve` gives one), with a single fraction, or of a
            model whose metric is the same with all edges and with none.
    """
    if list(curve.axes) != ["fraction"] or len(curve.axes["fraction"]) < 2:
        came = dict(curve.axes)
        raise BadInput(f"expected what faithfulness_curve gives, at two fractions or more, got a result with {came}")
    _refuse_no_difference(curve)
    fractions = torch.tensor(list(curve.axes["fraction"]), dtype=torch.float64)
    recovered = curve.recovered_fraction.double().cpu()
    return Areas(*(float(torch.trapezoid(y, fractions)) for y in (recovered, (1 - recovered).abs())))


@checked
def roc_auc(ranking: Circuit, true: Circuit, *, absolute: bool = False) -> float:
    """The chance that an edge of the true circuit has a higher score than one outside it; equal scores count half.

    With `absolute`, sizes of scores are compared. 1 is a perfect ranking, and 0.5 what chance gives.

    Raises:
        BadInput: a ranking without scores for all edges, or a true circuit of none or all of them.
    """
    total = len(ranking.graph)
    if ranking.graph != true.graph or len(ranking) < total or ranking.scores is None:
        raise BadInput(f"ranking must have a score for each of {total} edges of the true circuit's graph")
    if not 0 < len(true) < total:
        raise BadInput(f"the true circuit has {len(true)} of {total} edges, so there is nothing to tell apart")
    scores, positive = ranking.scores.listed, by_edge(true.kept, true.graph.exists)
    return area_under_roc(scores.abs() if absolute else scores, positive)


@checked
def random_circuit(graph: ComputationGraph, n_edges: int, generator: torch.Generator | None = None) -> Circuit:
    """A circuit of that many edges, drawn uniformly from all edges of the graph.

    Raises:
        BadInput: more edges than there are, or fewer than none.
    """
    total = len(graph)
    refuse_outside("n_edges", n_edges, 0, total)
    order = torch.randperm(total, generator=generator, device=generator.device if generator else None).cpu()
    drawn = torch.zeros(total, dtype=torch.bool).index_fill(0, order[:n_edges], True)
    return Circuit(graph=graph, kept=as_matrix(drawn, graph.exists))


class RandomBaseline(NamedTuple):
    """Random circuits: `result` with the axis "sample", the mean of their faithfulness, and its interval."""

    result: Result
    mean: float
    lower: float
    upper: float


@experiment
def random_baseline(
    model: HookedTransformer,
    n_edges: int,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    samples: Positive = 20,
    level: float = 0.95,
    resamples: Positive = 1000,
    generator: torch.Generator | None = None,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> RandomBaseline:
    """The faithfulness of random circuits of `n_edges` edges: a circuit should do better than these.

    The interval is a bootstrap interval: circuits and prompts are drawn with replacement `resamples` times.

    Raises:
        BadInput: fewer than 1 sample, a level outside 0..1, or a model whose metric is the same with all edges and with
            none; also as `circuit_metric` and `random_circuit`.
    """
    if not 0 < level < 1:
        raise BadInput(f"level must lie between 0 and 1, got {level}")
    data = setting(model, clean, corrupt, metric, ablation, positions)
    graph = data.graph(model)
    drawn = {sample: random_circuit(graph, n_edges, generator) for sample in range(samples)}
    result = _values(model, data, "sample", drawn, max_memory)
    _refuse_no_difference(result)

    def weights(n: int) -> Float[Tensor, "resample n"]:
        places = torch.randint(n, (resamples, n), generator=generator, device=generator.device if generator else None)
        return torch.nn.functional.one_hot(places, n).double().mean(1).cpu()

    values = result.values.double().cpu()
    empty, full = (result.baselines[name].double().cpu() for name in ("empty", "model"))
    of_circuits, of_prompts = weights(samples), weights(values.shape[1])
    means, empty, full = ((of_circuits @ values) * of_prompts).sum(1), of_prompts @ empty, of_prompts @ full
    ends = ((means - empty) / (full - empty)).quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]).double())
    return RandomBaseline(result, float(result.recovered_fraction.mean()), *ends.tolist())
