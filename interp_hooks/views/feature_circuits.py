"""A sparse feature circuit as a picture: features and errors in a row for each hook, edges read downwards."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import plotly.graph_objects as go

from interp_hooks.circuits.feature_circuits import ERROR, EVERY, FeatureCircuit
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.views.adapting import INK, MUTED, NEGATIVE, PAPER, POSITIVE
from interp_hooks.views.curves import CURVE, OPACITIES, WIDTHS, Point, one_trace, size_of, told_at, upright
from interp_hooks.views.style import figure, metric_title
from interp_hooks.views.tokens import escaped

ASIDE = 0.22  # nodes; so that edges pass between the nodes of the next line
ROW, BOX = 96, 44  # pixels from row to row, and of a node with its label
ACROSS, LINE = 7, 0.6  # nodes side by side, as a phone has room for them; rows from one line of a long row to the next
SIDE = 18.0  # pixels of the largest node
SMALLEST = 7.0


@checked
def feature_circuit_figure(
    circuit: FeatureCircuit, *, top: Positive = 30, edges: Positive = 80, title: str | None = None
) -> go.Figure:
    """Draw the features and errors with the largest effects, and the strongest edges between these and to the metric.

    There is a row for each hook, in the order of the pass, and the metric below; in a row nodes stand by position, or
    by their number where positions are summed. More than seven stand in several lines, for which a phone has room. A
    node is as large as its effect, blue if the metric rises as the node becomes what it is in the corrupt run, red if
    it falls; features are circles, errors hollow squares. An edge is as wide as its weight is large, and blue or red by
    its sign. `top` nodes and `edges` edges between them are drawn.

    Raises:
        BadInput: a circuit without nodes, or a `top` or `edges` below 1.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.circuits import feature_circuit
    >>> from interp_hooks.views import feature_circuit_figure
    >>> saes = {"stream": dictionaries.load("ioi-tiny/sae")}
    >>> circuit = feature_circuit(model, clean, corrupt, metric, saes, steps=2, progress=False)
    >>> feature_circuit_figure(circuit, title="Features").write_html("features.html")
    """
    if not len(circuit):
        raise BadInput("the circuit has no nodes: lower node_threshold in feature_circuit()")
    shown = sorted(circuit.effect.abs().argsort(descending=True, stable=True)[:top].tolist())
    places, rows = _places(circuit, shown)
    lines, hover = _edges(circuit, places, edges)
    names = dict(zip([*circuit.names, circuit.metric.replace("_", " ")], rows, strict=True))
    drawn = figure(
        [*lines, hover, *_nodes(circuit, places)],
        title=title,
        height=round(rows[-1] * ROW) + 80,
        x_title="by token position, from left to right" if circuit.by_position else "",
        y_title="",
        xaxis=dict(showticklabels=False),
        yaxis=dict(showticklabels=False),
    )
    return drawn.update_layout(
        yaxis=dict(autorange=False, range=[rows[-1] + 0.25, -0.6]),
        xaxis=dict(range=[-0.6, ACROSS - 0.4]),
        annotations=[_name(name, row) for name, row in names.items()],
        hovermode="closest",
        showlegend=True,
        legend=dict(orientation="h", y=-0.08, yanchor="top", x=0, font=dict(size=11), itemclick=False),
        margin=dict(l=20),
        meta=dict(narrowest=ACROSS * BOX + 40),
    )


def _name(name: str, row: float) -> dict[str, Any]:
    """The name of a row, above its left end."""
    place = dict(x=0, xref="paper", xanchor="left", y=row - 0.42, yref="y", showarrow=False)
    return place | dict(text=escaped(name), font=dict(size=11, color=INK))


def _places(circuit: FeatureCircuit, shown: list[int]) -> tuple[dict[int, Point], list[float]]:
    """Where each node is, and each row: down by hook, across by position and number, errors last; below all the metric.

    More nodes than have room side by side stand in lines of about as many each.
    """
    of_hook: dict[int, list[int]] = defaultdict(list)
    for node in shown:
        of_hook[int(circuit.site[node])].append(node)
    places, rows, down = dict[int, Point](), list[float](), 0.0
    for hook in range(len(circuit.names)):
        nodes = of_hook[hook]
        feature = {node: int(circuit.feature[node]) for node in nodes}
        nodes.sort(key=lambda node: (int(circuit.pos[node]), feature[node] == ERROR, feature[node]))
        lines = max(math.ceil(len(nodes) / ACROSS), 1)
        long = math.ceil(len(nodes) / lines)
        for place, node in enumerate(nodes):
            line, across = divmod(place, long)
            left = (ACROSS - min(long, len(nodes) - line * long)) / 2 + ASIDE * (-1) ** line * (lines > 1)
            places[node] = Point(left + across, round(down + line * LINE, 2))
        rows.append(down)
        down = round(down + 1 + (lines - 1) * LINE, 2)
    places[len(circuit)] = Point((ACROSS - 1) / 2, down)
    return places, [*rows, down]


def _edges(circuit: FeatureCircuit, places: dict[int, Point], most: int) -> tuple[list[go.Scatter], go.Scatter]:
    """Curves of the strongest edges, weak ones first, and invisible points on them that tell of them."""
    ends = [*zip(circuit.source.tolist(), circuit.target.tolist(), strict=True)]
    order = circuit.weight.abs().argsort(descending=True, stable=True).tolist()
    drawn = [edge for edge in order if ends[edge][0] in places and ends[edge][1] in places][:most][::-1]
    largest = max((abs(float(circuit.weight[edge])) for edge in drawn), default=1.0) or 1.0
    alike: dict[tuple[int, str], list[list[Point]]] = defaultdict(list)
    told, where = list[str](), list[Point]()
    for edge in drawn:
        weight, (begin, end) = float(circuit.weight[edge]), (places[one] for one in ends[edge])
        curve = upright(begin, end)
        alike[size_of(abs(weight) / largest), NEGATIVE if weight < 0 else POSITIVE].append(curve)
        source, target = (circuit.name(node) for node in ends[edge])
        told += [f"{escaped(source)} to {escaped(target)}<br>weight {weight:.4g}"] * 2
        where += [curve[CURVE // 3], curve[2 * CURVE // 3]]
    lines = [
        one_trace(curves, dict(color=colour, width=WIDTHS[size]), OPACITIES[size])
        for (size, colour), curves in sorted(alike.items())
    ]
    return lines, told_at(where, told)


def _nodes(circuit: FeatureCircuit, places: dict[int, Point]) -> list[go.Scatter]:
    """The nodes: a trace for each of the looks that there are, which the legend names, and the metric."""
    largest = float(circuit.effect.abs().max()) or 1.0
    looks: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for node in places:
        if node < len(circuit):
            effect, error = float(circuit.effect[node]), int(circuit.feature[node]) == ERROR
            name = f"{'error' if error else 'feature'}, {'falls' if effect < 0 else 'rises'} with it"
            looks[name, NEGATIVE if effect < 0 else POSITIVE, "square-open" if error else "circle"].append(node)
    traces = [
        go.Scatter(
            x=[places[node].x for node in nodes],
            y=[places[node].y for node in nodes],
            mode="markers+text",
            name=f"{metric_title(circuit.metric)}: {name}",
            marker=dict(
                color=colour,
                symbol=symbol,
                size=[max(SMALLEST, SIDE * abs(float(circuit.effect[node])) / largest) for node in nodes],
                line=dict(color=PAPER, width=1),
            ),
            text=[_label(circuit, node) for node in nodes],
            textposition="top center",
            textfont=dict(size=10, color=INK),
            hovertext=[f"{escaped(circuit.name(node))}<br>effect {float(circuit.effect[node]):.4g}" for node in nodes],
            hoverinfo="text",
        )
        for (name, colour, symbol), nodes in sorted(looks.items())
    ]
    end = places[len(circuit)]
    told = f"{escaped(metric_title(circuit.metric))}: clean {circuit.clean:.4g}, corrupt {circuit.corrupt:.4g}"
    mark = dict(size=SIDE, symbol="diamond", color=MUTED)
    metric = go.Scatter(x=[end.x], y=[end.y], mode="markers", marker=mark, hovertext=[told], showlegend=False)
    return [*traces, metric.update(hoverinfo="text")]


def _label(circuit: FeatureCircuit, node: int) -> str:
    """What stands at a node: the feature's number, or "error", and its position."""
    feature, pos = int(circuit.feature[node]), int(circuit.pos[node])
    return ("error" if feature == ERROR else str(feature)) + ("" if pos == EVERY else f"@{pos}")
