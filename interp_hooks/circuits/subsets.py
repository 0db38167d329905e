"""Does a circuit C of the model M have everything that matters, and nothing that doesn't? F is the metric of a circuit.

    completeness   F(C without K) - F(M without K): near 0 for every K if nothing that matters is missing
    minimality     F(C without K and v) - F(C without K): far from 0 for some K if v is needed

A circuit may be faithful and fail both: of two parts that do the same it has one, or both and one is idle. Wang et al.
2022, arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.graph import as_matrix
from interp_hooks.circuits.masked_edges import Ablation, MaskedEdges, Positions, setting, stacked
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.experiment import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.runs import Prompts, Run, Source
from interp_hooks.model.transformer import HookedTransformer


@checked
def random_subsets(circuit: Circuit, count: int, generator: torch.Generator | None = None) -> dict[str, Circuit]:
    """`count` random sets of the circuit's edges, each edge in half of them: "random 0", ...

    Raises:
        BadInput: an empty circuit, or no count.
    """
    _refuse_empty(circuit)
    if count < 1:
        raise BadInput(f"count must be at least 1, got {count}")
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
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    subsets: Mapping[str, Circuit] | None = None,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Result:
    """F(C without K) - F(M without K) for sets K of edges, by name: a result with the axis "removed".

    Without `subsets`, K is nothing and each node of the circuit. A class of nodes is the union of theirs;
    `random_subsets` and `greedy_subset` give others. Near 0 everywhere is good; a K with a large value shows that the
    model has something in place of K that the circuit lacks.

    Raises:
        BadInput: an empty circuit, or a subset that has other edges; else as `circuit_metric`.
    """
    data = setting(model, clean, corrupt, metric, ablation, positions)
    graph = data.graph(model)
    (of_circuit,) = stacked(graph, [circuit])
    subsets = _checked_subsets(circuit, {"nothing": circuit.only([]), **node_subsets(circuit)}, subsets)
    return gaps_without(model, *data, of_circuit, list(subsets), stacked(graph, subsets.values()))


@on_data
def gaps_without(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    circuit: Bool[Tensor, "writer reader"],
    names: Sequence[str],
    removed: Bool[Tensor, "subset writer reader"],
) -> Result:
    """What lacks in the circuit when these sets of edges are removed from it, and from the model."""
    edges = MaskedEdges(model, run, source, metric, positions)
    values = _gaps(edges, circuit, removed)
    return Result(metric=metric_name(metric), axes={"removed": list(names)}, values=values)


def _gaps(
    edges: MaskedEdges, circuit: Bool[Tensor, "writer reader"], removed: Bool[Tensor, "subset writer reader"]
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
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    parts: Mapping[str, Circuit] | None = None,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> dict[str, Circuit]:
    """The set K for which the circuit is least complete, found greedily, by the names of its parts ("a0.h1 + m0").

    To K is added, one after the other, the part with which |F(C without K) - F(M without K)|, of means over prompts, is
    largest, as long as that grows. Parts are, by default, the circuit's nodes.

    Raises:
        BadInput: as `completeness`.
    """
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions))
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
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    parts: Mapping[str, Circuit] | None = None,
    subsets: Mapping[str, Circuit] | None = None,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Result:
    """F(C without K and v) - F(C without K) for every part v of the circuit: a result with the axis "part".

    Of the sets K in `subsets`, of which only edges outside v are removed at first, each part's is the one for which the
    mean over prompts is largest by size. Parts are, by default, the circuit's nodes, and K nothing and each node. A
    part with a value near 0 is idle.

    Raises:
        BadInput: as `completeness`.
    """
    data = setting(model, clean, corrupt, metric, ablation, positions)
    graph = data.graph(model)
    (of_circuit,), nodes = stacked(graph, [circuit]), node_subsets(circuit)
    parts = _checked_subsets(circuit, nodes, parts)
    subsets = _checked_subsets(circuit, {"nothing": circuit.only([]), **nodes}, subsets)
    of_parts, of_subsets = (stacked(graph, some.values()) for some in (parts, subsets))
    return losses_without(model, *data, of_circuit, list(parts), of_parts, of_subsets)


@on_data
def losses_without(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    circuit: Bool[Tensor, "writer reader"],
    names: Sequence[str],
    parts: Bool[Tensor, "part writer reader"],
    subsets: Bool[Tensor, "subset writer reader"],
) -> Result:
    """What removing each part costs when one of the sets, the one with which that is most, is removed already."""
    edges, found = MaskedEdges(model, run, source, metric, positions), []
    for part in parts:
        without = circuit & ~(subsets & ~part)
        before, after = edges.of_kept(torch.cat([without, without & ~part])).split(len(subsets))
        found.append((after - before)[int((after - before).mean(1).abs().argmax())])
    return Result(metric=metric_name(metric), axes={"part": list(names)}, values=torch.stack(found))
