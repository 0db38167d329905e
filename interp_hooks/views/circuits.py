"""A circuit as a picture: its nodes in rows, a row for each layer, and its edges as curves between them.

    input      the embeddings
    layer 0    heads in the order of their numbers, then the MLP (a little lower, if it reads what they write)
    ...
    logits

Like all figures here it is read downwards, and so are the edges. Position by position, if the circuit tells them apart:
each has a column, and what a head moves from one to another is a thin line between its boxes.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import plotly.graph_objects as go

from interp_hooks.circuits.graph import Circuit, EdgeName
from interp_hooks.circuits.layout import ARROW, AT, Reader
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.style import FAINT, INK, NEGATIVE, PAPER, POSITIVE, figure
from interp_hooks.views.tokens import escaped, ticks

MOST_EDGES = 300  # more cannot be told apart
ROW = 88  # pixels from one layer to the next
LOWER = 0.45  # rows that an MLP is below the heads that it reads
HALF_BOX = 0.13  # rows
NARROWEST = 12  # boxes side by side that a figure has room for at least
LONG_NAMES_UP_TO = 16  # boxes side by side; narrower ones say "h1" for "a5.h1"
CURVE = 24  # points of a curve

ENDS = ("input", "logits")
MUTED = "#8c959f"
DASHES = {"q": "2px,3px", "k": "8px,4px", "v": "solid", "": "solid"}
PORTS = {"q": -0.24, "k": 0.0, "v": 0.24, "": 0.0}  # where edges enter a box, in boxes from its middle
INTO = {"q": "into queries", "k": "into keys", "v": "into values (and MLPs, logits)"}
WIDTHS = (1.0, 1.9, 3.1, 4.6, 6.5)  # pixels, for |score| from 0 to the largest in equal steps
OPACITIES = (0.45, 0.6, 0.7, 0.8, 0.9)

Box = tuple[str, str]  # a node, at a position ("" if the circuit does not tell them apart)


class Point(NamedTuple):
    x: float
    y: float


class Curve(NamedTuple):
    """An edge as it is drawn: its score, if it has one, what it leads into ("q", "k", "v" or ""), and where it runs."""

    edge: EdgeName
    score: float | None
    into: str
    points: list[Point]


@checked
def circuit_figure(circuit: Circuit, *, top: int | None = None, title: str | None = None) -> go.Figure:
    """Nodes in rows from "input" at the top to "logits" at the bottom, and edges, read downwards.

    An edge is as wide as its score is large, blue if that is positive (the edge helps) and red if negative; all are
    grey if there are no scores. Edges into queries are dotted, into keys dashed, and enter a head from the left and in
    the middle; those into values are solid, from the right. With grouped heads an edge into keys or values leads to
    every head that reads them. `top` draws the edges with the largest scores by size alone.

    Raises:
        BadInput: no edges, a `top` below 1 or of a circuit without scores, more edges than can be told apart, or an
            infinite score.
    """
    if top is not None and top < 1:
        raise BadInput(f"top must be at least 1, got {top}")
    drawn = circuit if top is None else circuit.top(min(top, len(circuit)), absolute=True)
    if not len(drawn):
        raise BadInput("the circuit has no edges, so there is nothing to draw")
    if len(drawn) > MOST_EDGES:
        some = "circuit.at_node(name) or circuit.pruned()" if circuit.scores is None else "top=50"
        raise BadInput(f"of {len(drawn)} edges none could be seen; {MOST_EDGES} can be drawn: try {some}")
    if infinite := [edge for edge, score in (drawn.scores or {}).items() if not math.isfinite(score)]:
        raise BadInput(
            f"the score of {ARROW.join(infinite[0])} is infinite, so no width can show it; pass "
            "circuit.graph.circuit(circuit.edges) to draw the edges alone"
        )
    places = _Places.of(drawn)
    curves = _curves(drawn, places)
    traces = [*_moved(drawn, places), *_lines(curves), _hover(curves), *_legend(curves)]
    made = figure(
        traces,
        title=title,
        height=(len(places.rows) - 1) * ROW + (70 if drawn.graph.layout.positions else 20),
        x_title="token position" if drawn.graph.layout.positions else "",
        y_title="",
        xaxis=places.columns,
        yaxis=ticks(places.rows),
    )
    return made.update_layout(
        yaxis=dict(autorange=False, range=[len(places.rows) - 0.6, -0.4], fixedrange=True),
        xaxis=dict(range=places.range),
        annotations=[*_boxes(drawn, places)],
        hovermode="closest",
        showlegend=True,
        legend=dict(orientation="h", y=1.0, yanchor="bottom", x=0, font=dict(size=11), itemclick=False),
        margin=dict(t=64 if title is None else 90, b=60 if drawn.graph.layout.positions else 10),
    )


# ----------------------------------------------------------------------------------------------------- where things are


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where every box is; `rows` are their names, `columns` the settings of the x axis, `room` boxes side by side."""

    of_box: Mapping[Box, Point]
    rows: list[str]
    columns: dict[str, Any]
    range: tuple[float, float]
    room: int

    @classmethod
    def of(cls, circuit: Circuit) -> _Places:
        layers = sorted({_layer(node) for node in circuit.nodes if node not in ENDS})
        rows = ["input", *(f"layer {layer}" for layer in layers), "logits"]
        row_of = dict(zip(ENDS, (0, len(rows) - 1), strict=True))
        row_of |= {node: 1 + layers.index(_layer(node)) for node in circuit.nodes if node not in ENDS}
        order = {node: place for place, node in enumerate(circuit.graph.nodes)}
        boxes = sorted({box for edge in circuit.edges for box in _ends(circuit, edge)}, key=lambda box: order[box[0]])
        columns: dict[str, dict[int, list[Box]]] = {}
        for label in circuit.graph.layout.labels:
            column: dict[int, list[Box]] = defaultdict(list)
            for box in boxes:
                if box[1] == label:
                    column[row_of[box[0]]].append(box)
            if column:
                columns[label] = column
        below = 0.0 if circuit.graph.layout.parallel else LOWER
        of_box, left, middles = dict[Box, Point](), 0.0, list[float]()
        for column in columns.values():
            width = max(map(len, column.values()))
            middles.append(left + (width - 1) / 2)
            for row, side_by_side in column.items():
                for place, box in enumerate(side_by_side):
                    x = middles[-1] + place - (len(side_by_side) - 1) / 2
                    of_box[box] = Point(x, row + (below if box[0].startswith("m") and len(side_by_side) > 1 else 0.0))
            left += width + 0.6
        room, middle = max(NARROWEST, round(left - 0.6)), (left - 1.6) / 2
        axis = dict(tickmode="array", tickvals=middles, ticktext=[escaped(label) for label in columns])
        axis = axis if circuit.graph.layout.positions else dict(showticklabels=False)
        half = room / 2 + 0.1
        return cls(of_box=of_box, rows=rows, columns=axis, range=(middle - half, middle + half), room=room)


def _layer(node: str) -> int:
    """5 for "a5.h1" and "m5"."""
    return int(node[1:].partition(".")[0])


def _ends(circuit: Circuit, edge: EdgeName) -> list[Box]:
    """The box that an edge leaves, and those that it enters."""
    label = Reader.of(edge[1]).label
    return [(edge[0], label), *((node, label) for node in circuit.graph.nodes_of(edge[1]))]


def _curves(circuit: Circuit, places: _Places) -> list[Curve]:
    """Small scores first, so that large ones are drawn over them."""
    found = []
    for edge in circuit.listed:
        score, into = None if circuit.scores is None else circuit.scores[edge], Reader.of(edge[1]).into
        begin, *ends = (places.of_box[box] for box in _ends(circuit, edge))
        for end in ends:
            port = Point(end.x + PORTS[into], end.y - HALF_BOX)
            found.append(Curve(edge, score, into, _curve(Point(begin.x, begin.y + HALF_BOX), port, places)))
    return sorted(found, key=lambda curve: abs(curve.score or 0.0))


def _curve(begin: Point, end: Point, places: _Places) -> list[Point]:
    """A curve that leaves and enters upright, and makes way for the boxes of layers that it passes."""
    down = end.y - begin.y
    outward = 1 if begin.x + end.x >= sum(places.range) else -1
    aside = outward * 0.55 * min(max(down - 1, 0.0), 3.0)
    bends = Point(begin.x + aside, begin.y + down / 2.4), Point(end.x + aside, end.y - down / 2.4)
    return _bezier(begin, *bends, end)


def _bezier(*corners: Point) -> list[Point]:
    """Points of the cubic curve from the first to the last of four corners."""
    points = []
    for t in (step / CURVE for step in range(CURVE + 1)):
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        points.append(Point(*(sum(w * p[i] for w, p in zip(weights, corners, strict=True)) for i in (0, 1))))
    return points


# ------------------------------------------------------------------------------------------------------- what is drawn


def _lines(curves: Sequence[Curve]) -> list[go.Scatter]:
    """A trace for each look that some edges have."""
    largest = max((abs(curve.score) for curve in curves if curve.score is not None), default=0.0) or 1.0
    alike: dict[tuple[str, str, int], list[Curve]] = defaultdict(list)
    for curve in curves:
        share = 0.25 if curve.score is None else abs(curve.score) / largest
        alike[_colour(curve.score), curve.into, min(int(share * len(WIDTHS)), len(WIDTHS) - 1)].append(curve)
    return [
        _line(
            (curve.points for curve in alike[colour, into, size]),
            dict(color=colour, width=WIDTHS[size], dash=DASHES[into]),
            OPACITIES[size],
        )
        for colour, into, size in sorted(alike, key=lambda look: look[2])
    ]


def _line(lines: Iterable[Sequence[Point]], look: dict[str, Any], opacity: float) -> go.Scatter:
    """Several lines as one trace, with gaps between them."""
    points = [*itertools.chain.from_iterable([*line, None] for line in lines)]
    return go.Scatter(
        x=[None if point is None else round(point.x, 3) for point in points],
        y=[None if point is None else round(point.y, 3) for point in points],
        mode="lines",
        line=look | dict(simplify=False),
        opacity=opacity,
        hoverinfo="skip",
        showlegend=False,
    )


def _colour(score: float | None) -> str:
    if score is None:
        return MUTED
    return NEGATIVE if score < 0 else POSITIVE


def _moved(circuit: Circuit, places: _Places) -> list[go.Scatter]:
    """From where a head's keys and values are read to where its output is."""
    reads = {box for edge in circuit.edges if Reader.of(edge[1]).moves for box in _ends(circuit, edge)[1:]}
    writes = {_ends(circuit, edge)[0] for edge in circuit.edges}
    pairs = [(a, b) for a, b in itertools.product(sorted(reads), sorted(writes)) if a[0] == b[0] and a != b]
    lines = [_sagging(places.of_box[a], places.of_box[b]) for a, b in pairs]
    return [_line(lines, dict(color=INK, width=1.2), 0.4)] if lines else []


def _sagging(begin: Point, end: Point) -> list[Point]:
    below = begin.y + 0.45
    return _bezier(begin, Point(begin.x, below), Point(end.x, below), end)


def _hover(curves: Sequence[Curve]) -> go.Scatter:
    """Points along the edges, not to be seen, that tell which edge it is."""
    texts = [escaped(ARROW.join(c.edge)) + ("" if c.score is None else f"<br>score {c.score:.4g}") for c in curves]
    places = (CURVE // 4, CURVE // 2, 3 * CURVE // 4)
    points = [(curve.points[place], text) for curve, text in zip(curves, texts, strict=True) for place in places]
    return go.Scatter(
        x=[point.x for point, _ in points],
        y=[point.y for point, _ in points],
        mode="markers",
        marker=dict(size=10, opacity=0),
        hovertext=[text for _, text in points],
        hoverinfo="text",
        showlegend=False,
    )


def _legend(curves: Sequence[Curve]) -> list[go.Scatter]:
    def entry(name: str, **look: Any) -> go.Scatter:
        return go.Scatter(x=[None], y=[None], mode="lines", name=name, line=dict(width=2.5) | look, hoverinfo="skip")

    scores = [curve.score for curve in curves if curve.score is not None]
    entries = []
    if scores:
        largest = f"up to {max(map(abs, scores)):.3g}"
        entries += [entry(f"helps ({largest})", color=POSITIVE)] * (max(scores) >= 0)
        entries += [entry(f"hurts ({largest})" if max(scores) < 0 else "hurts", color=NEGATIVE)] * (min(scores) < 0)
    used = {curve.into for curve in curves} - {""}
    return entries + [entry(INTO[into], color=MUTED, dash=DASHES[into]) for into in INTO if into in used]


def _boxes(circuit: Circuit, places: _Places) -> list[dict[str, Any]]:
    """Annotations with the names of nodes; hovering tells how many edges there are and what they sum to."""
    entering, leaving = defaultdict(list), defaultdict(list)
    for edge in circuit.edges:
        begin, *ends = _ends(circuit, edge)
        leaving[begin].append(edge)
        for end in ends:
            entering[end].append(edge)

    def told(edges: Sequence[EdgeName], what: str) -> str:
        sums = "" if circuit.scores is None or not edges else f" (sum {sum(circuit.scores[e] for e in edges):.4g})"
        return f"<br>{what}: {len(edges)}{sums}"

    found = []
    for box, place in places.of_box.items():
        node = box[0]
        short = node if places.room <= LONG_NAMES_UP_TO or node[0] != "a" else node.partition(".")[2]
        end = node in ENDS
        found.append(
            dict(
                x=place.x,
                y=place.y,
                text=short,
                showarrow=False,
                bgcolor=INK if end else PAPER if node.startswith("a") else FAINT,
                bordercolor=INK if end else MUTED,
                borderwidth=1,
                borderpad=3,
                font=dict(size=10, color=PAPER if end else INK),
                hovertext=escaped(AT.join(filter(None, box)))
                + told(entering[box], "edges in")
                + told(leaving[box], "edges out"),
                captureevents=True,
            )
        )
    return found
