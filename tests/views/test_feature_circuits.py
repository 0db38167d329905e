"""Feature circuits: nodes in the row of their hook by effect and kind, edges between them by weight and sign."""

from dataclasses import replace

import pytest
import torch

from interp_hooks.circuits.feature_circuits import FeatureCircuit
from interp_hooks.errors import BadInput
from interp_hooks.views import feature_circuit_figure, picture
from interp_hooks.views.adapting import NEGATIVE, POSITIVE
from interp_hooks.views.curves import WIDTHS

CIRCUIT = FeatureCircuit(
    metric="logit_diff",
    names=["mlp", "stream"],
    hooks=["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"],
    site=torch.tensor([0, 0, 1]),
    pos=torch.tensor([2, 1, 3]),
    feature=torch.tensor([7, -1, 9]),
    effect=torch.tensor([-2.0, 0.5, 1.0]),
    source=torch.tensor([0, 1, 2, 0]),
    target=torch.tensor([2, 2, 3, 3]),
    weight=torch.tensor([4.0, -0.1, 1.0, -2.0]),
    explained=torch.zeros(2),
    changes=torch.zeros(2),
    clean=3.0,
    corrupt=-1.0,
)


def nodes(figure):
    return {
        text: (trace.x[place], trace.y[place], trace.marker.color, trace.marker.symbol, trace.marker.size[place])
        for trace in figure.data
        if trace.mode == "markers+text"
        for place, text in enumerate(trace.text)
    }


def lines(figure):
    """By its two ends, the colour and the width of each edge."""
    found = {}
    for trace in figure.data:
        if trace.mode == "lines":
            points = [*zip(trace.x, trace.y, strict=True)]
            for place in range(0, len(points), 26):
                found[points[place], points[place + 24]] = (trace.line.color, trace.line.width)
    return found


def test_nodes_are_in_the_row_of_their_hook_by_position_with_their_sign_and_kind() -> None:
    found = nodes(feature_circuit_figure(CIRCUIT))
    assert {text: node[1:4] for text, node in found.items()} == {
        "7@2": (0.0, NEGATIVE, "circle"),
        "error@1": (0.0, POSITIVE, "square-open"),
        "9@3": (1.0, POSITIVE, "circle"),
    }
    assert found["error@1"][0] < found["7@2"][0], "position 1 stands left of position 2"
    assert found["7@2"][4] == 2 * found["9@3"][4]


def test_edges_join_their_nodes_in_the_colour_and_width_of_their_weight() -> None:
    figure = feature_circuit_figure(CIRCUIT)
    found = {name: node[:2] for name, node in nodes(figure).items()}
    end = next((trace.x[0], trace.y[0]) for trace in figure.data if trace.marker.symbol == "diamond")
    assert lines(figure) == {
        (found["7@2"], found["9@3"]): (POSITIVE, WIDTHS[4]),
        (found["error@1"], found["9@3"]): (NEGATIVE, WIDTHS[0]),
        (found["9@3"], end): (POSITIVE, WIDTHS[1]),
        (found["7@2"], end): (NEGATIVE, WIDTHS[2]),
    }
    hover = next(trace for trace in figure.data if trace.mode == "markers" and trace.marker.opacity == 0)
    assert "mlp f7 pos 2 to stream f9 pos 3<br>weight 4" in hover.hovertext


def test_only_the_strongest_are_drawn() -> None:
    figure = feature_circuit_figure(CIRCUIT, top=2, edges=1)
    assert set(nodes(figure)) == {"7@2", "9@3"}
    assert [colour for colour, _ in lines(figure).values()] == [POSITIVE]


def test_a_long_row_has_lines_that_a_phone_has_room_for_and_the_names_of_rows_stand_above_them() -> None:
    many = 16
    same = dict(site=torch.zeros(many, dtype=torch.long), pos=torch.arange(many), feature=torch.arange(many))
    none = dict(source=torch.zeros(0, dtype=torch.long), target=torch.zeros(0, dtype=torch.long), weight=torch.zeros(0))
    figure = feature_circuit_figure(replace(CIRCUIT, effect=torch.ones(many), **same, **none))
    assert figure.layout.meta["narrowest"] <= 420 - 2 * 16
    found = nodes(figure)
    order = [name for name, _ in sorted(found.items(), key=lambda node: (node[1][1], node[1][0]))]
    assert order == [f"{place}@{place}" for place in range(many)], "lines are read like text"
    of_line = [sum(node[1] == y for node in found.values()) for y in sorted({node[1] for node in found.values()})]
    assert of_line == [6, 6, 4]
    low, high = figure.layout.xaxis.range
    assert all(low < node[0] < high for node in found.values())
    names = {note.text: note.y for note in figure.layout.annotations}
    assert [*names] == ["mlp", "stream", "logit diff"]
    assert names["mlp"] < min(node[1] for node in found.values()) <= max(node[1] for node in found.values())
    assert max(node[1] for node in found.values()) < names["stream"] < names["logit diff"]


def test_what_cannot_be_drawn_is_refused() -> None:
    none = {
        name: getattr(CIRCUIT, name)[:0] for name in ("site", "pos", "feature", "effect", "source", "target", "weight")
    }
    with pytest.raises(BadInput, match="no nodes: lower node_threshold"):
        feature_circuit_figure(replace(CIRCUIT, **none))
    with pytest.raises(BadInput, match="at least 1"):
        feature_circuit_figure(CIRCUIT, top=0)


def test_it_shows_itself() -> None:
    assert len(nodes(picture(CIRCUIT))) == 3
    assert "<svg" in CIRCUIT._repr_html_()
