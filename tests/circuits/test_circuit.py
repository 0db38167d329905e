"""Circuits against sets of names, large ones, paths that are tried one by one, files, and what is refused."""

import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import Circuit, ComputationGraph, Result
from interp_hooks.circuits import random_circuit, roc_auc
from interp_hooks.circuits.graph import EdgeName, Graph
from interp_hooks.circuits.layout import Layout
from interp_hooks.errors import BadInput
from tests.circuits.test_graph import GPT2_SMALL, PLACED, SMALL
from tests.experiments.by_hand import model_of
from tests.tiny import unchecked_types


def some(graph: ComputationGraph, seed: int, share: float = 0.5, scored: bool = False) -> Circuit:
    """A random circuit."""
    rng = random.Random(seed)
    edges = frozenset(edge for edge in graph.edges if rng.random() < share)
    return Circuit(graph=graph, edges=edges, scores={edge: rng.gauss(0, 1) for edge in edges} if scored else None)


# ------------------------------------------------------------------------------------------------------------- sets


def test_circuits_are_sets() -> None:
    a, b = some(SMALL, 0), some(SMALL, 1)
    for ours, expected in ((a | b, a.edges | b.edges), (a & b, a.edges & b.edges), (a - b, a.edges - b.edges)):
        assert ours.edges == expected
    assert a & b <= a <= a | b
    assert not a <= b
    assert a == Circuit(graph=SMALL, edges=a.edges, scores=dict.fromkeys(a.edges, 1.0))
    assert len({a, b, some(SMALL, 0)}) == 2
    assert "input->logits" in SMALL.circuit()
    assert len(SMALL.circuit([])) == 0


def test_scores_go_with_edges() -> None:
    a, b = some(SMALL, 0, scored=True), some(SMALL, 1, scored=True)
    assert a.scores is not None
    assert b.scores is not None
    assert (a | b).scores == {**b.scores, **a.scores}
    assert (a - b).scores == {edge: a.scores[edge] for edge in a.edges - b.edges}
    assert (a | some(SMALL, 1)).scores is None


def test_edges_are_chosen_by_any_spelling() -> None:
    """Those that the graph has not are refused, those that the circuit has not are left out."""
    circuit = SMALL.circuit(["input->m0", "m0->logits"])
    assert circuit.only(["input->m0", ("input", "m1")]).edges == {("input", "m0")}
    for edge in ("nope", "m0->m0"):
        with pytest.raises(BadInput):
            circuit.only([edge])
    with unchecked_types():
        named = Circuit(graph=SMALL, edges=frozenset(["input->m0"]), scores={"input->m0": 2})  # pyright: ignore[reportArgumentType]
    assert (named.edges, named.scores) == ({("input", "m0")}, {("input", "m0"): 2})


def test_what_is_no_circuit_is_refused() -> None:
    circuit, edges = SMALL.circuit(["input->m0"]), {("input", "m0")}
    operators: list[Any] = [lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b, lambda a, b: a <= b]
    for combined in operators:
        with pytest.raises(BadInput, match=r"expected another circuit, .* got set"), unchecked_types():
            combined(circuit, edges)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("graph must be a ComputationGraph", dict(graph=model_of("gpt2"), edges=edges)),
        ("edges must be a list", dict(graph=SMALL, edges=3)),
        ("scores must be a mapping", dict(graph=SMALL, edges=edges, scores=[1.0])),
    ]
    for message, arguments in wrong:
        with pytest.raises(BadInput, match=message), unchecked_types():
            Circuit(**arguments)


@pytest.mark.parametrize("shape", [(2, 2), (7, 12), (8, 11), (7,)])
def test_a_matrix_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    assert SMALL.exists.shape == (7, 11)
    with pytest.raises(BadInput, match=r"scores.* \[writer"), unchecked_types():
        SMALL.scored(torch.zeros(shape))


def test_the_matrix_of_a_circuit() -> None:
    circuit = some(SMALL, 3)
    kept = {(SMALL.writers[writer], SMALL.readers[reader]) for writer, reader in circuit.kept.nonzero().tolist()}
    assert kept == circuit.edges
    matrix = torch.randn(SMALL.exists.shape, generator=torch.Generator().manual_seed(0))
    scored = SMALL.scored(matrix)
    assert scored == SMALL.circuit()
    assert scored.scores is not None
    edge = ("m0", "a1.h0<v>")
    assert scored.scores[edge] == float(matrix[SMALL.writers.index("m0"), SMALL.readers.index("a1.h0<v>")])


@pytest.mark.parametrize("absolute", [False, True])
def test_top(absolute: bool) -> None:
    circuit = some(SMALL, 5, scored=True)
    assert circuit.scores is not None
    ranked = sorted(circuit.scores.values(), key=lambda score: abs(score) if absolute else score, reverse=True)
    for n in (0, 1, 7, len(circuit)):
        top = circuit.top(n, absolute=absolute)
        assert top.scores is not None
        assert sorted(top.scores.values()) == sorted(ranked[:n])


def test_equal_scores_come_in_the_order_of_the_graph() -> None:
    circuit = SMALL.scored(torch.zeros(SMALL.exists.shape))
    assert circuit.top(3).listed == SMALL.edges[:3]


def test_a_matrix_may_stand_for_names() -> None:
    circuit = some(SMALL, 4, scored=True)
    assert circuit.scores is not None
    matrix = circuit.scores.matrix
    assert bool((matrix[~circuit.kept] == 0).all())
    given = Circuit(graph=SMALL, kept=circuit.kept, scores=matrix)
    assert given == circuit == Circuit(graph=SMALL, edges=circuit.edges, scores=circuit.scores)
    assert given.scores == circuit.scores
    assert list(circuit) == list(circuit.scores) == circuit.listed
    assert circuit.scores.listed.tolist() == [circuit.scores[edge] for edge in circuit.listed]
    assert SMALL.circuit().where(circuit.kept) == circuit
    matrix.zero_()
    assert given.scores == circuit.scores, "what is given is copied"
    for kept in (torch.ones(7, 11, dtype=torch.bool), torch.zeros(11, 7, dtype=torch.bool)):
        with pytest.raises(BadInput, match=r"expected kept \[writer, reader\] = \[7, 11\].*got \["), unchecked_types():
            Circuit(graph=SMALL, kept=kept)


def test_scores_have_the_edges_of_their_circuit_alone() -> None:
    circuit = SMALL.scored(torch.randn(SMALL.exists.shape, generator=torch.Generator().manual_seed(0)))
    assert circuit.scores is not None
    part = circuit.only(["input->m0", "m0->logits"])
    assert part.scores is not None
    assert part.scores["input->m0"] == part.scores["input", "m0"] == circuit.scores["input", "m0"]
    assert len(part.scores) == 2
    assert "m0->a1.h0<k>" in circuit.scores
    for other in ("m0->a1.h0<k>", "m0->m0", "nope"):
        assert other not in part.scores
        with pytest.raises(KeyError):
            part.scores[other]
    assert part.scores.get("nope") is None


HUGE = Layout(n_layers=32, n_heads=32, n_key_value_heads=32)


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names of edges cannot be made, nor does a check of types look at those of a mapping."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("a name of an edge was asked for")

    monkeypatch.setattr(Graph, "named", fail)
    monkeypatch.setattr(Graph, "edge", fail)
    with unchecked_types():
        yield


def test_no_names_of_edges_are_made_unless_they_are_asked_for(no_names: None) -> None:
    """With more than a million edges, that is what takes seconds."""
    start = time.perf_counter()
    graph = ComputationGraph(HUGE)
    scores = torch.randn(graph.exists.shape, generator=torch.Generator().manual_seed(0))
    circuit = graph.scored(scores)
    assert len(circuit) == len(graph) == 1_592_881
    top, largest = circuit.top(1000), circuit.top(100_000, absolute=True)
    assert (len(top), len(largest)) == (1000, 100_000)
    assert scores[graph.exists].topk(1000).values[-1] == scores[top.kept].min()
    assert scores[graph.exists].abs().topk(100_000).values[-1] == scores[largest.kept].abs().min()
    assert top <= circuit
    assert not circuit <= top
    assert (top | largest) - largest == top - largest == top - (top & largest)
    assert largest.pruned() <= largest
    assert circuit.at_node("m3") & graph.circuit_of_nodes(["m3", "a7.h1"]) == graph.circuit(
        ["input->m3", "m3->a7.h1<q>", "m3->a7.h1<k>", "m3->a7.h1<v>", "m3->logits"]
    )
    assert len(random_circuit(graph, 5000)) == 5000
    assert roc_auc(circuit, top) == 1.0
    assert repr(top).startswith("Circuit(1000 edges with scores, ComputationGraph(1057 writers")
    assert top.nodes
    assert time.perf_counter() - start < 30
    with pytest.raises(AssertionError, match="was asked for"):
        top.edges  # noqa: B018


def paths(graph: ComputationGraph, edges: frozenset[EdgeName], node: str = "input") -> list[list[EdgeName]]:
    """All paths to the logits, by trying every edge."""
    if node == "logits":
        return [[]]
    found = []
    for writer, reader in edges:
        if writer == node:
            for after in graph.nodes_of(reader):
                found += [[(writer, reader), *rest] for rest in paths(graph, edges, after)]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_pruning_keeps_what_is_on_a_path(seed: int) -> None:
    circuit = some(SMALL, seed, share=0.3, scored=True)
    on_a_path = set(itertools.chain.from_iterable(paths(SMALL, circuit.edges)))
    assert circuit.pruned().edges == on_a_path
    assert circuit.pruned().pruned() == circuit.pruned()


def test_pruning_knows_that_only_keys_and_values_move() -> None:
    moved = ["input->a0.h0<v>@S1", "a0.h0->m0@S2", "m0->logits@S2"]
    assert PLACED.circuit(moved).pruned() == PLACED.circuit(moved)
    for stuck in ("a0.h0<q>@S1", "m0@S1"):
        node = stuck.partition("<")[0].partition("@")[0]
        assert len(PLACED.circuit([f"input->{stuck}", f"{node}->logits@S2"]).pruned()) == 0
        assert len(PLACED.circuit([f"input->{stuck}", f"{node}->logits@S1"]).pruned()) == 2


def test_without_positions_scores_are_summed() -> None:
    circuit = some(PLACED, 4, scored=True)
    assert circuit.scores is not None
    merged = circuit.without_positions()
    assert merged.graph == SMALL
    assert merged.edges == {(writer, reader.split("@")[0]) for writer, reader in circuit.edges}
    edge = ("input", "a0.h0<q>")
    alike = [score for (w, r), score in circuit.scores.items() if (w, r.split("@")[0]) == edge]
    assert merged.scores is not None
    assert merged.scores[edge] == pytest.approx(sum(alike))
    assert some(SMALL, 2, scored=True).without_positions() == some(SMALL, 2)
    assert some(PLACED, 4).without_positions().scores is None


def test_the_table_tells_the_position() -> None:
    circuit = some(PLACED, 2, scored=True)
    table = circuit.table()
    assert list(table.columns) == ["writer", "reader", "position", "score"]
    rows = zip(table["writer"], table["reader"] + "@" + table["position"], strict=True)
    assert dict(zip(rows, table["score"], strict=True)) == circuit.scores


def test_of_all_edges_none_is_pruned_and_of_a_dead_end_all() -> None:
    assert SMALL.circuit().pruned() == SMALL.circuit()
    assert len(SMALL.circuit(["input->a0.h0<v>", "a0.h0->m0", "a1.h0->logits"]).pruned()) == 0


def test_nodes() -> None:
    circuit = SMALL.circuit(["input->a0.h1<q>", "m0->a1.h0<k>"])
    assert circuit.nodes == ["input", "a0.h1", "m0", "a1.h0", "a1.h1"]
    assert circuit.at_node("a1.h1").edges == {("m0", "a1.h0<k>")}
    between = SMALL.circuit_of_nodes(["m0"])
    assert between.edges == {("input", "m0"), ("input", "logits"), ("m0", "logits")}
    for ask in (lambda: SMALL.circuit_of_nodes(["m7"]), lambda: circuit.at_node("m7")):
        with pytest.raises(BadInput, match=r"no node 'm7'\. Did you mean"):
            ask()


@pytest.mark.parametrize("graph", [SMALL, PLACED], ids=["plain", "placed"])
@pytest.mark.parametrize("scored", [False, True])
def test_json_there_and_back(scored: bool, graph: ComputationGraph) -> None:
    circuit = some(graph, 8, scored=scored)
    back = Circuit.from_json(circuit.to_json())
    assert back == circuit
    assert back.scores == circuit.scores
    assert back.to_json() == circuit.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"graph": {"layers": 2}, "edges": [], "scores": None})])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="as to_json writes it"):
        Circuit.from_json(text)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("scores", [1.0]),
        ("scores", ["a", "b"]),
        ("scores", [None, 1.0]),
        ("scores", 3),
        ("edges", 3),
        ("edges", [["input", "m0"], ["m0", "logits"]]),
        ("graph", dict(n_layers=-3, n_heads=2, n_key_value_heads=2)),
        ("graph", dict(n_layers=2, n_heads=4, n_key_value_heads=3)),
        ("graph", dict(n_layers="2", n_heads=4, n_key_value_heads=4)),
        ("graph", dict(n_layers=2, n_heads=2, n_key_value_heads=2, positions=[1])),
    ],
)
def test_json_that_was_changed_by_hand_is_refused(part: str, value: Any) -> None:
    circuit = Circuit(graph=SMALL, edges=frozenset([("input", "m0"), ("m0", "logits")]))
    document = json.loads(circuit.to_json())
    with pytest.raises(BadInput, match="as to_json writes it"), unchecked_types():
        Circuit.from_json(json.dumps(document | {part: value}))


def test_json_with_an_edge_that_does_not_exist_is_refused() -> None:
    document = json.loads(some(SMALL, 0).to_json())
    document["edges"][0] = "m9->logits"
    with pytest.raises(BadInput, match="no writer 'm9'"):
        Circuit.from_json(json.dumps(document))


@pytest.mark.parametrize("graph", [SMALL, PLACED], ids=["plain", "placed"])
def test_saved_and_loaded(graph: ComputationGraph, tmp_path: Path) -> None:
    circuit = some(graph, 8, scored=True)
    circuit.save(tmp_path / "circuit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circuit"]
    back = Circuit.load(tmp_path / "circuit")
    assert back == circuit
    assert back.scores == circuit.scores
    assert back.record is None
    with pytest.raises(BadInput, match="no record"):
        back.rerun(model_of("gpt2"))


def test_saving_overwrites_only_what_it_may(tmp_path: Path) -> None:
    first, second = some(SMALL, 0), some(SMALL, 1, scored=True)
    first.save(tmp_path)
    with pytest.raises(BadInput, match="holds a circuit already; overwrite=True replaces it"):
        second.save(tmp_path)
    assert Circuit.load(tmp_path) == first
    second.save(tmp_path, overwrite=True)
    assert Circuit.load(tmp_path).scores == second.scores
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"something else than a circuit: notes\.txt"):
        first.save(tmp_path, overwrite=True)
    result = Result(metric="one", axes={"x": [0]}, values=torch.ones(1, 1))
    result.save(tmp_path / "result")
    with pytest.raises(BadInput, match=r"something else than a circuit: result\.json"):
        first.save(tmp_path / "result", overwrite=True)
    with pytest.raises(BadInput, match="something else than a result"):
        result.save(tmp_path, overwrite=True)


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a circuit in .*, found none"):
        Circuit.load(tmp_path)
    some(SMALL, 0).save(tmp_path)
    for text, message in (("{", "cannot be read"), ("{}", "as to_json writes it")):
        (tmp_path / "circuit.json").write_text(text)
        with pytest.raises(BadInput, match=message):
            Circuit.load(tmp_path)


def test_the_table_has_the_largest_scores_first() -> None:
    circuit = some(SMALL, 2, scored=True)
    table = circuit.table()
    assert list(table.columns) == ["writer", "reader", "score"]
    assert table["score"].abs().is_monotonic_decreasing
    rows = zip(table["writer"], table["reader"], strict=True)
    assert dict(zip(rows, table["score"], strict=True)) == circuit.scores
    assert list(some(SMALL, 2).table().columns) == ["writer", "reader"]


def test_bad_circuits_are_refused() -> None:
    edges = frozenset({("input", "m0")})
    with pytest.raises(BadInput, match="a score for each of 1 edges, got 0"):
        Circuit(graph=SMALL, edges=edges, scores={})
    wrong: list[tuple[Any, str]] = [(float("nan"), "nan"), ("a", "no number but 'a'"), (None, "no number but NoneType")]
    for score, told in wrong:
        with pytest.raises(BadInput, match=f"score of input->m0 is {told}"), unchecked_types():
            Circuit(graph=SMALL, edges=edges, scores={("input", "m0"): score})
    with pytest.raises(BadInput, match="different graphs"):
        SMALL.circuit() & GPT2_SMALL.circuit([])
    with pytest.raises(BadInput, match="no scores to rank"):
        SMALL.circuit().top(1)
    for n in (-1, len(SMALL) + 1):
        with pytest.raises(BadInput, match=rf"n must be 0\.\.{len(SMALL)}"):
            SMALL.scored(torch.zeros(SMALL.exists.shape)).top(n)
