"""Does a circuit C of the model M have everything that matters, and nothing that doesn't? F is the metric of a circuit.

    completeness   F(C without K) - F(M without K): near 0 for every set K of edges if nothing that matters is missing
    minimality     F(C without K and v) - F(C without K): far from 0 for some K if the part v is needed

A circuit may be faithful and fail both. Of two parts that do the same thing it may have one, and be incomplete, or have
both although one is idle, and not be minimal. Wang et al. 2022, arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.graph import EdgeMask, as_matrix
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.circuits.setting import Ablation, Positions, setting, stacked
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, Run, SourceLike
from interp_hooks.model.transformer import HookedTransformer


@checked
def random_subsets(circuit: Circuit, count: Positive, generator: torch.Generator | None = None) -> dict[str, Circuit]:
    """Random sets of the circuit's edges, by name ("random 0", ...). Each edge is in a set with probability 1/2.

    Raises:
        BadInput: an empty circuit, or no count.
    """
    _refuse_empty(circuit)
    device = generator.device if generator else None
    drawn = torch.rand(count, len(circuit), generator=generator, device=device).cpu() < 0.5
    return {f"random {i}": circuit.where(as_matrix(row, circuit.kept)) for i, row in enumerate(drawn)}


@checked
def node_subsets(circuit: Circuit) -> dict[str, Circuit]:
    """For each head and MLP of the circuit, by name, its edges that begin or end there.

    Raises:
        BadInput: an empty circuit.
    """
    _refuse_empty(circuit)
    return {node: circuit.at_node(node) for node in circuit.nodes if node not in ("input", "logits")}


def _refuse_empty(circuit: Circuit) -> None:
    if not len(circuit):
        raise BadInput("expected a circuit with edges to choose from, got one without")


@experiment
def completeness(
    model: HookedTransformer,
    circuit: Circuit,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    subsets: Mapping[str, Circuit] | None = None,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Result:
    """F(C without K) - F(M without K) for sets K of the circuit's edges, by name: a result with the axis "removed".

    By default, K is nothing and then the edges at each node of the circuit (`node_subsets`). Unions of these make
    classes of nodes; `random_subsets` and `greedy_subset` give other sets. A complete circuit has values near 0; a K
    with a large value shows that the model has something to replace K, which the circuit lacks.

    Raises:
        BadInput: an empty circuit, or a subset with edges that the circuit lacks; also as `circuit_metric`.
    """
    data = setting(model, clean, corrupt, metric, ablation, positions)
    graph = data.graph(model)
    (of_circuit,) = stacked(graph, [circuit])
    subsets = _checked_subsets(circuit, {"nothing": circuit.only([]), **node_subsets(circuit)}, subsets)
    sets = stacked(graph, subsets.values())
    return gaps_without(model, *data, of_circuit, list(subsets), sets, max_memory=max_memory)


@on_data
def gaps_without(
    model: HookedTransformer,
    run: Run,
    source: SourceLike,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    circuit: EdgeMask,
    names: Sequence[str],
    removed: Bool[Tensor, "subset writer reader"],
    *,
    max_memory: int | None = None,
) -> Result:
    """F(C without K) - F(M without K) for each of these sets K, with circuit and sets as matrices."""
    edges = MaskedEdges(model, run, source, metric, positions, max_memory)
    values = _gaps(edges, circuit, removed)
    return Result(metric=metric_name(metric), axes={"removed": list(names)}, values=values)


def _gaps(
    edges: MaskedEdges, circuit: EdgeMask, removed: Bool[Tensor, "subset writer reader"]
) -> Float[Tensor, "subset prompt"]:
    pairs = torch.cat([whole & ~removed for whole in (circuit, edges.graph.exists)])
    of_circuit, of_model = edges.of_kept(pairs).split(len(removed))
    return of_circuit - of_model


def _checked_subsets(
    circuit: Circuit, default: Mapping[str, Circuit], subsets: Mapping[str, Circuit] | None
) -> dict[str, Circuit]:
    _refuse_empty(circuit)
    chosen = dict(default if subsets is None else subsets)
    if not chosen:
        raise BadInput("expected at least one set of the circuit's edges, got none")
    if other := [name for name, subset in chosen.items() if not subset <= circuit]:
        raise BadInput(f"the subset {other[0]!r} has edges that are not in the circuit")
    return chosen


@experiment
def greedy_subset(
    model: HookedTransformer,
    circuit: Circuit,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    parts: Mapping[str, Circuit] | None = None,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> dict[str, Circuit]:
    """A set K of edges for which the circuit is particularly incomplete, by the names of its parts ("a0.h1 + m0").

    K begins empty. The part with which |F(C without K) - F(M without K)|, of means over prompts, gets largest is added
    again and again, as long as this grows. By default, parts are the edges at each node of the circuit.

    Raises:
        BadInput: as `completeness`.
    """
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions), max_memory)
    (of_circuit,) = stacked(edges.graph, [circuit])
    left = _checked_subsets(circuit, node_subsets(circuit), parts)
    removed, names = circuit.only([]), list[str]()
    largest = float(_gaps(edges, of_circuit, removed.kept[None]).mean().abs())
    while left:
        larger = stacked(edges.graph, [removed | part for part in left.values()])
        gaps = _gaps(edges, of_circuit, larger).mean(1).abs()
        if float(gaps.max()) <= largest:
            break
        largest, name = float(gaps.max()), list(left)[int(gaps.argmax())]
        removed, names = removed | left.pop(name), [*names, name]
    return {" + ".join(names) or "nothing": removed}


@experiment
def minimality(
    model: HookedTransformer,
    circuit: Circuit,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    parts: Mapping[str, Circuit] | None = None,
    subsets: Mapping[str, Circuit] | None = None,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Result:
    """F(C without K and v) - F(C without K) for every part v of the circuit: a result with the axis "part".

    For each part, K is the one of `subsets` with which this is largest by size as a mean over prompts; the part's own
    edges do not count as edges of K. By default, parts are the edges at each node, and K is nothing or the edges at any
    node. A part with a value near 0 is idle.

    Raises:
        BadInput: as `completeness`.
    """
    data = setting(model, clean, corrupt, metric, ablation, positions)
    graph = data.graph(model)
    (of_circuit,), nodes = stacked(graph, [circuit]), node_subsets(circuit)
    parts = _checked_subsets(circuit, nodes, parts)
    subsets = _checked_subsets(circuit, {"nothing": circuit.only([]), **nodes}, subsets)
    of_parts, of_subsets = (stacked(graph, some.values()) for some in (parts, subsets))
    return losses_without(model, *data, of_circuit, list(parts), of_parts, of_subsets, max_memory=max_memory)


@on_data
def losses_without(
    model: HookedTransformer,
    run: Run,
    source: SourceLike,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    circuit: EdgeMask,
    names: Sequence[str],
    parts: Bool[Tensor, "part writer reader"],
    subsets: Bool[Tensor, "subset writer reader"],
    *,
    max_memory: int | None = None,
) -> Result:
    """F(C without K and v) - F(C without K) for each part v, with the set K for which that is largest by size."""
    edges, found = MaskedEdges(model, run, source, metric, positions, max_memory), []
    for part in parts:
        without = circuit & ~(subsets & ~part)
        before, after = edges.of_kept(torch.cat([without, without & ~part])).split(len(subsets))
        found.append((after - before)[int((after - before).mean(1).abs().argmax())])
    return Result(metric=metric_name(metric), axes={"part": list(names)}, values=torch.stack(found))
