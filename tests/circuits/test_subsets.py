"""What a faithful circuit may lack or carry along, on an OR of two heads and against circuits evaluated one by one."""

from typing import Any

import pytest
import torch

from interp_hooks import Circuit, ComputationGraph, LogitDiff
from interp_hooks.circuits import circuit_metric, completeness, greedy_subset, minimality, node_subsets, random_subsets
from interp_hooks.errors import BadInput
from tests.circuits.test_circuit import some
from tests.experiments.by_hand import OTHER, TOKENS, model_of
from tests.experiments.gates import output, two_heads_or
from tests.tiny import assert_close, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
WITHIN = 1e-10
ZEROS = torch.zeros(1, 3, dtype=torch.long)
OR = two_heads_or()
GRAPH = ComputationGraph(OR)
FIRST, SECOND, OUT = (GRAPH.circuit([edge]) for edge in ("a0.h0->m0", "a0.h1->m0", "m0->logits"))


def of_or(function: Any, circuit: Circuit, **options: Any) -> Any:
    return function(OR, circuit, ZEROS, None, output, ablation="zero", **options)


def test_one_head_of_an_or_is_faithful_but_not_complete() -> None:
    """Without that head the circuit says 0, the model, by its other head, 1."""
    assert of_or(circuit_metric, FIRST | OUT).tolist() == [1.0]
    result = of_or(completeness, FIRST | OUT)
    assert result.axes == {"removed": ["nothing", "a0.h0", "m0"]}
    assert result.mean.tolist() == [0.0, -1.0, 0.0]
    assert of_or(greedy_subset, FIRST | OUT) == {"a0.h0": FIRST}


def test_both_heads_of_an_or_are_complete_and_each_is_needed_without_the_other() -> None:
    both = FIRST | SECOND | OUT
    assert of_or(completeness, both).mean.abs().max() == 0
    assert of_or(greedy_subset, both) == {"nothing": both.only([])}
    idle = of_or(minimality, both, subsets={"nothing": both.only([])})
    assert idle.axes == {"part": ["a0.h0", "a0.h1", "m0"]}
    assert idle.mean.tolist() == [0.0, 0.0, -1.0]
    assert of_or(minimality, both, parts={"first": FIRST}, subsets={"second": SECOND}).mean.tolist() == [-1.0]
    assert of_or(minimality, both).mean.tolist() == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_gaps_are_differences_of_circuits(kind: str) -> None:
    model = model_of(kind)
    graph = ComputationGraph(model)
    circuit = some(graph, 0)
    subsets = random_subsets(circuit, 3, torch.Generator().manual_seed(0))
    result = completeness(model, circuit, TOKENS, OTHER, DIFF, subsets=subsets)

    def value(one: Circuit) -> torch.Tensor:
        return circuit_metric(model, one, TOKENS, OTHER, DIFF)

    expected = torch.stack([value(circuit - one) - value(graph.circuit() - one) for one in subsets.values()])
    assert_close(result.values, expected, WITHIN)

    nodes = node_subsets(circuit)
    parts = {name: nodes[name] for name in ("m0", "a1.h2")}
    found = minimality(model, circuit, TOKENS, OTHER, DIFF, parts=parts, subsets=subsets)
    for row, part in enumerate(parts.values()):
        effects = [value(circuit - one - part) - value(circuit - (one - part)) for one in subsets.values()]
        assert_close(found.values[row], max(effects, key=lambda effect: abs(float(effect.mean()))), WITHIN)


def test_the_greedy_set_is_the_worst_at_every_step() -> None:
    model = model_of("gpt2")
    graph = ComputationGraph(model)
    circuit, full = some(graph, 1), graph.circuit()
    parts = dict(list(node_subsets(circuit).items())[::3])

    def gap(removed: Circuit) -> float:
        values = [circuit_metric(model, one - removed, TOKENS, OTHER, DIFF).mean() for one in (circuit, full)]
        return abs(float(values[0] - values[1]))

    removed, largest, names = circuit.only([]), gap(circuit.only([])), list[str]()
    while len(names) < len(parts):
        gaps = {name: gap(removed | part) for name, part in parts.items() if name not in names}
        name = max(gaps, key=lambda one: gaps[one])
        if gaps[name] <= largest:
            break
        largest, removed, names = gaps[name], removed | parts[name], [*names, name]
    assert names
    assert greedy_subset(model, circuit, TOKENS, OTHER, DIFF, parts=parts) == {" + ".join(names): removed}


def test_subsets() -> None:
    circuit = some(ComputationGraph(model_of("gpt2")), 0)
    drawn = random_subsets(circuit, 40, torch.Generator().manual_seed(0))
    assert drawn == random_subsets(circuit, 40, torch.Generator().manual_seed(0))
    assert list(drawn)[:2] == ["random 0", "random 1"]
    assert all(one <= circuit for one in drawn.values())
    shares = torch.tensor([len(one) / len(circuit) for one in drawn.values()])
    assert abs(float(shares.mean()) - 0.5) < 5 * 0.5 / (40 * len(circuit)) ** 0.5
    nodes = node_subsets(circuit)
    assert list(nodes) == [node for node in circuit.nodes if node not in ("input", "logits")]
    assert nodes["m1"].edges == {edge for edge in circuit.edges if "m1" in edge}


def test_bad_input_is_refused() -> None:
    model = model_of("gpt2")
    graph = ComputationGraph(model)
    empty, circuit, more = graph.circuit([]), graph.circuit(["input->m0"]), graph.circuit(["input->m1"])
    for function in (completeness, minimality, greedy_subset):
        with pytest.raises(BadInput, match="a circuit with edges"):
            function(model, empty, TOKENS, OTHER, DIFF)
    for function in (completeness, minimality):
        with pytest.raises(BadInput, match="'other' has edges that are not in the circuit"):
            function(model, circuit, TOKENS, OTHER, DIFF, subsets={"other": more})
        with pytest.raises(BadInput, match="at least one set of the circuit's edges, got none"):
            function(model, circuit, TOKENS, OTHER, DIFF, subsets={})
    for ask in (lambda: node_subsets(empty), lambda: random_subsets(empty, 2)):
        with pytest.raises(BadInput, match="a circuit with edges"), unchecked_types():
            ask()
    with pytest.raises(BadInput, match="count must be at least 1, got 0"):
        random_subsets(circuit, 0)
