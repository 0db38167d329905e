"""The graph against the order of a forward pass, and what is refused."""

import itertools
from typing import Any

import pytest
import torch

from interp_hooks import ComputationGraph, HookPoint
from interp_hooks.circuits.layout import Layout
from interp_hooks.errors import BadInput
from tests.experiments.by_hand import ALSO, KINDS, TOKENS, model_of
from tests.tiny import unchecked_types

WITHOUT = {
    "post-norm": "no sum",
    "latent": "latent attention",
    "indexed": "latent attention",
    "streams": "carries 3 streams",
    "borrowed-keys": "keys and values that an earlier layer made",
}
HAS_GRAPH = [kind for kind in dict.fromkeys([*KINDS, *ALSO]) if kind not in WITHOUT]
SMALL = ComputationGraph(Layout(n_layers=2, n_heads=2, n_key_value_heads=1))
GPT2_SMALL = ComputationGraph(Layout(n_layers=12, n_heads=12, n_key_value_heads=12))


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
    ("name", "everywhere", "into", "label"),
    [
        ("a1.h0<k>@S2", "a1.h0<k>", "k", "S2"),
        ("a0.h1<q>@rest", "a0.h1<q>", "q", "rest"),
        ("m1@<b>", "m1", "", "<b>"),
        ("logits@S2", "logits", "", "S2"),
    ],
)
def test_what_is_known_of_a_reader(name: str, everywhere: str, into: str, label: str) -> None:
    graph = ComputationGraph(SMALL.layout, ["S2", "<b>"])
    reader = graph.read[graph.reader_index[name]]
    assert (reader.name, reader.into, reader.label, str(reader)) == (everywhere, into, label, name)


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
        (("input", "m0", "m1"), "edges must be a list of text or a tuple"),
        (3, r"edges must be a list of text or a tuple \(text, text\), got list \[3\]"),
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


def outlets(graph: ComputationGraph, reader: str) -> set[tuple[str, str]]:
    """The nodes and positions where what a reader reads may come out."""
    (part,) = [part for part in graph.reader_parts if graph.reader_index[reader] in part.rows]
    labels = graph.layout.labels
    read = torch.tensor([place == graph.reader_index[reader] for place in part.rows]).unflatten(0, (-1, len(labels)))
    found = torch.zeros(len(graph.nodes), len(labels), dtype=torch.bool)
    found[part.nodes] = part.come_out(read)
    of_nodes = torch.rand(found.shape)
    assert part.highest(of_nodes[part.nodes])[read].tolist() == [float(of_nodes[found].max())]
    return {(graph.nodes[node], labels[label]) for node, label in found.nonzero().tolist()}


def test_keys_and_values_come_out_anywhere_and_all_else_where_it_is_read() -> None:
    assert outlets(PLACED, "a1.h1<q>@S2") == {("a1.h1", "S2")}
    assert outlets(PLACED, "m0@rest") == {("m0", "rest")}
    everywhere = {(head, label) for head in ("a1.h0", "a1.h1") for label in ("S1", "S2", "rest")}
    assert outlets(PLACED, "a1.h0<v>@S1") == everywhere


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
        ([True], "positions must be a list of text or an int"),
        (torch.tensor([1.5]), "positions must be a list of text or an int"),
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
