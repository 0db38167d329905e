"""The graph against the order of a forward pass, circuits against sets, and what is refused."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import Circuit, ComputationGraph, HookPoint, Result
from interp_hooks.circuits.graph import EdgeName
from interp_hooks.circuits.layout import Layout, Reader
from interp_hooks.errors import BadInput
from tests.experiments.by_hand import ALSO, KINDS, TOKENS, model_of
from tests.tiny import unchecked_types

WITHOUT = {"post-norm": "no sum", "latent": "latent attention"}
HAS_GRAPH = [kind for kind in dict.fromkeys([*KINDS, *ALSO]) if kind not in WITHOUT]
SMALL = ComputationGraph(Layout(n_layers=2, n_heads=2, n_key_value_heads=1))
GPT2_SMALL = ComputationGraph(Layout(n_layers=12, n_heads=12, n_key_value_heads=12))


def some(graph: ComputationGraph, seed: int, share: float = 0.5, scored: bool = False) -> Circuit:
    """A random circuit."""
    rng = random.Random(seed)
    edges = frozenset(edge for edge in graph.edges if rng.random() < share)
    return Circuit(graph=graph, edges=edges, scores={edge: rng.gauss(0, 1) for edge in edges} if scored else None)


# --------------------------------------------------------------------------------------------------------- the graph


@pytest.mark.parametrize("kind", HAS_GRAPH)
def test_an_edge_leads_from_what_a_pass_comes_by_earlier(kind: str) -> None:
    model, order = model_of(kind), list[str]()
    graph = ComputationGraph(model)
    parts = {part.hook: part for part in [*graph.writer_parts, *graph.reader_parts]}

    def note(value: torch.Tensor, hook: HookPoint) -> None:
        order.append(hook.name)
        heads = value.shape[2] if "head" in hook.axes else 1
        assert len(parts[hook.name].names) == heads

    model.run_with_hooks(TOKENS, fwd_hooks=[(hook, note) for hook in parts])
    assert sorted(order) == sorted(parts)
    expected = {
        (writer, reader)
        for sender, receiver in itertools.product(graph.writer_parts, graph.reader_parts)
        if order.index(sender.hook) < order.index(receiver.hook)
        for writer, reader in itertools.product(sender.names, receiver.names)
    }
    assert set(graph.edges) == expected
    assert len(graph) == len(graph.edges) == len(expected)


def test_gpt2_small_has_the_published_numbers() -> None:
    """157 writers and 32491 edges, as in the code of EAP."""
    assert len(GPT2_SMALL.writers) == 157
    assert len(GPT2_SMALL) == 32491


def test_names() -> None:
    assert SMALL.writers == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    first = ["a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h0<v>", "m0"]
    assert SMALL.readers == [*first, *(name.replace("0.", "1.").replace("m0", "m1") for name in first), "logits"]
    assert SMALL.nodes_of("a1.h0<k>") == ["a1.h0", "a1.h1"]
    assert SMALL.nodes_of("a1.h1<q>") == ["a1.h1"]
    assert SMALL.nodes_of("m0") == ["m0"]
    assert SMALL.edge("a0.h1->a1.h0<k>") == ("a0.h1", "a1.h0<k>")


@pytest.mark.parametrize(
    ("name", "read", "everywhere", "moves"),
    [
        ("a1.h0<k>@S2", ("a1.h0", "k", "S2"), "a1.h0<k>", True),
        ("a10.h11<q>", ("a10.h11", "q", ""), "a10.h11<q>", False),
        ("m3@<b>", ("m3", "", "<b>"), "m3", False),
        ("logits", ("logits", "", ""), "logits", False),
    ],
)
def test_what_the_name_of_a_reader_says(name: str, read: tuple[str, str, str], everywhere: str, moves: bool) -> None:
    assert Reader.of(name) == read
    assert (Reader.of(name).everywhere, Reader.of(name).moves) == (everywhere, moves)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (dict(n_layers=-3), "n_layers must be an int of at least 1, got int -3"),
        (dict(n_heads=0), "n_heads must be an int of at least 1, got int 0"),
        (dict(n_heads=1.5), "n_heads must be an int of at least 1, got float 1.5"),
        (dict(n_heads=4, n_key_value_heads=3), "4 heads cannot share 3 key/value heads evenly"),
    ],
)
def test_sizes_that_no_model_has_are_refused(size: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message), unchecked_types():
        Layout(**dict[str, Any](n_layers=2, n_heads=2, n_key_value_heads=1) | size)


def test_parallel_layers_and_layers_without_mlp() -> None:
    parallel = ComputationGraph(Layout(n_layers=1, n_heads=1, n_key_value_heads=1, parallel=True))
    assert ("a0.h0", "m0") not in parallel.edges
    alone = ComputationGraph(Layout(n_layers=1, n_heads=1, n_key_value_heads=1, attn_only=True))
    assert alone.nodes == ["input", "a0.h0", "logits"]


@pytest.mark.parametrize("kind", WITHOUT)
def test_what_has_no_graph_is_refused(kind: str) -> None:
    with pytest.raises(BadInput, match=WITHOUT[kind]):
        ComputationGraph(model_of(kind))


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("a0.h7->logits", "no writer 'a0.h7'. Did you mean"),
        ("a0.h1->a1.h1<k>", "no reader 'a1.h1<k>'. Did you mean .*a1.h0<k>"),
        ("a1.h0->m0", "m0 reads the stream before a1.h0 writes"),
        ("a0.h0->a0.h1<q>", "reads the stream before"),
        ("m0", "as 'a0.h1->m1', got 'm0'"),
        (("input", "m0", "m1"), "an edge is"),
        (3, "an edge is"),
    ],
)
def test_an_edge_that_does_not_exist_is_refused(edge: object, message: str) -> None:
    with pytest.raises(BadInput, match=message), unchecked_types():
        SMALL.circuit([edge])  # pyright: ignore[reportArgumentType]


# --------------------------------------------------------------------------------------------------------- positions

PLACED = ComputationGraph(SMALL.layout, ["S1", "S2"])


def test_with_positions_every_edge_is_there_once_for_each_and_for_the_rest() -> None:
    expected = {(w, f"{r}@{label}") for w, r in SMALL.edges for label in ("S1", "S2", "rest")}
    assert set(PLACED.edges) == expected
    assert len(PLACED) == 3 * len(SMALL)
    assert PLACED.readers[:4] == ["a0.h0<q>@S1", "a0.h0<q>@S2", "a0.h0<q>@rest", "a0.h1<q>@S1"]
    assert PLACED.nodes == SMALL.nodes
    assert PLACED.nodes_of("a1.h0<k>@S2") == ["a1.h0", "a1.h1"]
    assert PLACED.edge("m0->a1.h0<k>@S2") == ("m0", "a1.h0<k>@S2")
    of_model = ComputationGraph(model_of("gpt2"), ["S1", "S2"])
    assert of_model == ComputationGraph(of_model.layout) != ComputationGraph(model_of("gpt2"))
    assert SMALL != PLACED != ComputationGraph(SMALL.layout, ["S2", "S1"])
    assert "at S1, S2, rest" in repr(PLACED)
    numbers: Any = torch.tensor([3, -1])
    with unchecked_types():
        assert ComputationGraph(SMALL.layout, numbers).layout.positions == ("3", "-1")


def test_keys_and_values_come_out_anywhere_and_all_else_where_it_is_read() -> None:
    assert PLACED.outlets("a1.h1<q>@S2") == [("a1.h1", "S2")]
    assert PLACED.outlets("m0@rest") == [("m0", "rest")]
    everywhere = {(head, label) for head in ("a1.h0", "a1.h1") for label in ("S1", "S2", "rest")}
    assert set(PLACED.outlets("a1.h0<v>@S1")) == everywhere


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (["S1", "S1"], "positions of different names, got S1, S1"),
        (["rest"], "cannot be called 'rest'"),
        ([""], "cannot be called ''"),
        (["a@b"], "cannot be called 'a@b'"),
        (["a->b"], "cannot be called 'a->b'"),
        ([1.5], "positions must be"),
        ([3, "3"], "positions of different names, got 3, 3"),
        ([True], "a position as an int, got bool True"),
        (torch.tensor([1.5]), "a position as an int"),
    ],
)
def test_positions_that_cannot_be_told_apart_are_refused(positions: list[Any], message: str) -> None:
    with pytest.raises(BadInput, match=message), unchecked_types():
        ComputationGraph(SMALL.layout, positions)


def test_a_reader_without_its_position_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no reader 'a1\.h0<k>'\. Did you mean .*a1.h0<k>@S1"):
        PLACED.circuit(["input->a1.h0<k>"])
    with pytest.raises(BadInput, match="different graphs"):
        PLACED.circuit() - SMALL.circuit()


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


# ---------------------------------------------------------------------------------------------------------- circuits


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
        with pytest.raises(BadInput, match=f"n must be 0 to {len(SMALL)}"):
            SMALL.scored(torch.zeros(SMALL.exists.shape)).top(n)
