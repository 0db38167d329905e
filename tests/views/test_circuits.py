"""Figures of circuits: every edge is drawn once, between its boxes, as its score says."""

import itertools
import math
import random
from typing import Any

import pytest

from interp_hooks import Circuit, ComputationGraph, circuit_figure
from interp_hooks.circuits.layout import Layout
from interp_hooks.errors import BadInput
from interp_hooks.views.adapting import NEGATIVE, POSITIVE
from interp_hooks.views.circuits import DASHES, MOST_EDGES, MUTED, WIDTHS
from tests.views.small import HOSTILE

LAYOUT = Layout(n_layers=3, n_heads=4, n_key_value_heads=4)
GRAPH = ComputationGraph(LAYOUT)
SCORES = {"input->a0.h1<v>": 0.1, "a0.h1->a2.h0<k>": -4.0, "a2.h0->logits": 2.0, "input->m0": 0.0, "m0->a2.h0<q>": 1.0}


def scored(scores: dict[str, float] = SCORES, graph: ComputationGraph = GRAPH) -> Circuit:
    by_edge = {graph.edge(edge): score for edge, score in scores.items()}
    return Circuit(graph=graph, edges=frozenset(by_edge), scores=by_edge)


def some(graph: ComputationGraph, n: int) -> Circuit:
    return graph.circuit(random.Random(0).sample(graph.edges, n))


def boxes(figure: Any) -> dict[str, Any]:
    """By what they say when hovered, up to the first line."""
    return {note.hovertext.partition("<br>")[0]: note for note in figure.layout.annotations}


def lines(figure: Any) -> list[tuple[Any, list[tuple[float, float]]]]:
    """Every line with the trace it is part of."""
    found = []
    for trace in figure.data:
        if trace.mode == "lines" and trace.x != (None,):
            points = [*zip(trace.x, trace.y, strict=True)]
            found += [
                (trace, [*part])
                for gap, part in itertools.groupby(points, lambda point: point == (None, None))
                if not gap
            ]
    return found


def edges_drawn(figure: Any) -> dict[str, Any]:
    """For each pair of boxes the trace of the line between them: it begins below one and ends above the other."""

    def near(point: tuple[float, float], side: int) -> str:
        def distance(name: str) -> float:
            box = boxes(figure)[name]
            away = side * (point[1] - box.y)
            return abs(point[0] - box.x) + abs(point[1] - box.y) + (9 if away < 0 else 0)

        return min(boxes(figure), key=distance)

    return {f"{near(line[0], 1)}->{near(line[-1], -1)}": trace for trace, line in lines(figure)}


def test_edges_run_between_their_boxes() -> None:
    figure = circuit_figure(scored())
    expected = {edge.partition("<")[0] for edge in SCORES}
    assert {*edges_drawn(figure)} == expected
    assert {*boxes(figure)} == {"input", "a0.h1", "m0", "a2.h0", "logits"}
    assert len(lines(figure)) == len(SCORES)


def test_width_is_size_colour_is_sign_and_dashes_tell_queries_and_keys() -> None:
    drawn = edges_drawn(circuit_figure(scored()))
    looks = {edge: (trace.line.color, trace.line.width, trace.line.dash) for edge, trace in drawn.items()}
    assert looks == {
        "input->a0.h1": (POSITIVE, WIDTHS[0], DASHES["v"]),
        "a0.h1->a2.h0": (NEGATIVE, WIDTHS[4], DASHES["k"]),
        "a2.h0->logits": (POSITIVE, WIDTHS[2], DASHES[""]),
        "input->m0": (POSITIVE, WIDTHS[0], DASHES[""]),
        "m0->a2.h0": (POSITIVE, WIDTHS[1], DASHES["q"]),
    }
    assert len({DASHES[what] for what in "qkv"}) == 3


def test_layers_run_down_the_page_and_empty_ones_are_left_out() -> None:
    figure = circuit_figure(scored())
    assert figure.layout.yaxis.ticktext == ("input", "layer 0", "layer 2", "logits")
    low, high = figure.layout.yaxis.range
    assert low > high, "the first row is the top one"
    heights = {name: box.y for name, box in boxes(figure).items()}
    assert heights["input"] < heights["a0.h1"] < heights["m0"] < heights["a2.h0"] < heights["logits"]


def test_in_parallel_layers_the_mlp_stands_beside_the_heads() -> None:
    graph = ComputationGraph(Layout(n_layers=1, n_heads=2, n_key_value_heads=2, parallel=True))
    found = boxes(circuit_figure(graph.circuit()))
    assert found["m0"].y == found["a0.h1"].y
    assert found["a0.h0"].x < found["a0.h1"].x < found["m0"].x


def test_keys_of_a_group_are_read_by_all_its_heads() -> None:
    graph = ComputationGraph(Layout(n_layers=1, n_heads=4, n_key_value_heads=2))
    figure = circuit_figure(graph.circuit(["input->a0.h1<k>"]))
    assert {*edges_drawn(figure)} == {"input->a0.h2", "input->a0.h3"}


def test_hovering_tells_the_edge_and_its_score() -> None:
    figure = circuit_figure(scored())
    (hover,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert set(hover.hovertext) == {
        f"{edge.replace('>', '&gt;').replace('<', '&lt;')}<br>score {score:.4g}" for edge, score in SCORES.items()
    }
    on_lines = {point for _, line in lines(figure) for point in line}
    assert {(round(x, 3), round(y, 3)) for x, y in zip(hover.x, hover.y, strict=True)} <= on_lines
    assert boxes(figure)["a2.h0"].hovertext == "a2.h0<br>edges in: 2 (sum -3)<br>edges out: 1 (sum 2)"


def test_without_scores_all_edges_look_alike_but_for_dashes() -> None:
    figure = circuit_figure(GRAPH.circuit(SCORES))
    assert {(trace.line.color, trace.line.width) for trace, _ in lines(figure)} == {(MUTED, WIDTHS[1])}
    names = [trace.name for trace in figure.data if trace.x == (None,)]
    assert names == ["into queries", "into keys", "into values (and MLPs, logits)"]
    with pytest.raises(BadInput, match="no scores to rank"):
        circuit_figure(GRAPH.circuit(SCORES), top=2)


def test_the_legend_tells_of_what_is_drawn_alone() -> None:
    names = [trace.name for trace in circuit_figure(scored()).data if trace.x == (None,)]
    assert names[:2] == ["helps (up to 4)", "hurts"]
    only = [trace.name for trace in circuit_figure(scored({"input->m0": -0.5})).data if trace.x == (None,)]
    assert only == ["hurts (up to 0.5)"]


def test_the_top_is_by_size() -> None:
    assert {*edges_drawn(circuit_figure(scored(), top=2))} == {"a0.h1->a2.h0", "a2.h0->logits"}
    assert len(lines(circuit_figure(scored(), top=99))) == len(SCORES)


def test_many_edges_are_few_traces() -> None:
    graph = ComputationGraph(Layout(n_layers=12, n_heads=12, n_key_value_heads=12))
    edges = some(graph, 200).edges
    rng = random.Random(1)
    circuit = Circuit(graph=graph, edges=edges, scores={edge: rng.gauss(0, 1) for edge in edges})
    figure = circuit_figure(circuit)
    assert len(lines(figure)) == 200
    assert len(figure.data) < 50
    assert len({(box.x, box.y) for box in figure.layout.annotations}) == len(figure.layout.annotations)


def test_positions_are_columns_and_what_heads_move_runs_between_them() -> None:
    graph = ComputationGraph(LAYOUT, ["S2", "end"])
    figure = circuit_figure(graph.circuit(["input->a0.h1<v>@S2", "a0.h1->logits@end", "input->logits@rest"]))
    found = boxes(figure)
    assert {*found} == {"input@S2", "a0.h1@S2", "a0.h1@end", "logits@end", "input@rest", "logits@rest"}
    assert figure.layout.xaxis.ticktext == ("S2", "end", "rest")
    for label, middle in zip(("S2", "end", "rest"), figure.layout.xaxis.tickvals, strict=True):
        assert {box.x for name, box in found.items() if name.endswith(label)} == {middle}
    ends = [(line[0], line[-1]) for _, line in lines(figure)]
    moved = tuple((found[f"a0.h1@{label}"].x, found[f"a0.h1@{label}"].y) for label in ("S2", "end"))
    assert moved in ends
    assert len(ends) == 4


def test_titles_and_positions_are_shown_literally() -> None:
    figure = circuit_figure(
        ComputationGraph(LAYOUT, [HOSTILE[3]]).circuit([f"input->m0@{HOSTILE[3]}"]), title=HOSTILE[4]
    )
    assert figure.layout.title.text == "&#36;x^2&#36;"
    assert figure.layout.xaxis.ticktext == ("&lt;b&gt;",)


def test_what_cannot_be_drawn_is_refused() -> None:
    for message, circuit, top in (
        ("no edges", GRAPH.circuit([]), None),
        ("top must be at least 1, got 0", scored(), 0),
        ("score of input->m0 is infinite", scored({"input->m0": math.inf, "m0->logits": 1.0}), None),
        (rf"of {MOST_EDGES + 1} edges none could be seen; {MOST_EDGES} can be drawn: try .*pruned", many(1), None),
    ):
        with pytest.raises(BadInput, match=message):
            circuit_figure(circuit, top=top)
    assert len(lines(circuit_figure(many(0)))) == MOST_EDGES


def many(more: int) -> Circuit:
    return some(ComputationGraph(Layout(n_layers=6, n_heads=8, n_key_value_heads=8)), MOST_EDGES + more)
