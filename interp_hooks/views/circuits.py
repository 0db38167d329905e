"""A circuit as a picture: its nodes are boxes, in a row for each layer, and its edges are curves between them.

    input      the embeddings
    layer 0    heads in the order of their numbers, then the MLP (a little lower, if it reads what they write)
    ...
    logits

Like all figures here it is read downwards, and so are its edges. If the circuit tells positions apart, each position
has a column, and a thin line between two boxes of a head shows what the head moves from one position to another.

How stable a circuit is, is a picture of bars: how often each edge is found again, and which ablations find it too.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.graph import Graph, Reader
from interp_hooks.circuits.layout import ARROW, AT
from interp_hooks.circuits.stability import Stability
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.views.adapting import FAINT, INK, MUTED, NEGATIVE, PAPER, POSITIVE
from interp_hooks.views.curves import CURVE, OPACITIES, WIDTHS, Point, bezier, one_trace, size_of, told_at, upright
from interp_hooks.views.style import figure, plot_height
from interp_hooks.views.tokens import escaped, ticks

MOST_EDGES = 300  # more cannot be told apart
ROW = 88  # pixels from one layer to the next
LOWER = 0.45  # rows that an MLP is below the heads that it reads
HALF_BOX = 0.13  # rows
NARROWEST = 12  # boxes side by side that a figure has room for at least
BOX = 46  # pixels that a box needs, with the gap to the next one
WIDEST = 88  # pixels from the middle of a box to that of the next one; more, and edges would enter beside boxes
LONG_NAMES_UP_TO = 16  # boxes side by side; narrower ones say "h1" for "a5.h1"
SHORT = 28  # pixels of the text of a box with a short name, which so is as wide as others

DASHES = {"q": "2px,3px", "k": "8px,4px", "v": "solid", "": "solid"}
PORTS = {"q": -0.18, "k": 0.0, "v": 0.18, "": 0.0}  # where edges enter a box, in boxes from its middle
INTO = {"q": "into queries", "k": "into keys", "v": "into values (and MLPs, logits)"}

Box = tuple[str, str]  # a node, at a position ("" if the circuit does not tell them apart)


class Edge(NamedTuple):
    """An edge that is drawn: from the first of `boxes` to each of the others, which are several if heads share keys."""

    name: str
    score: float | None
    reader: Reader
    boxes: list[Box]


Curve = tuple[Edge, list[Point]]  # an edge, and where it runs to one of the boxes that it enters


@checked
def circuit_figure(circuit: Circuit, *, top: Positive | None = None, title: str | None = None) -> go.Figure:
    """A circuit as a figure: nodes in rows from "input" at the top to "logits" at the bottom, edges read downwards.

        >>> circuit = eap(model, clean, corrupt, metric)
        >>> circuit_figure(circuit, top=30, title="IOI").write_html("circuit.html")

    An edge is as wide as its score is large, blue if the score is positive (the edge helps) and red if it is negative;
    all edges are grey if there are no scores. Edges into queries are dotted and enter a head on the left, those into
    keys are dashed and enter it in the middle, and those into values are solid and enter it on the right. With grouped
    heads an edge into keys or values leads to every head that reads them. With `top`, only so many edges are drawn:
    those with the largest scores by size.

    Raises:
        BadInput: no edges, a `top` below 1 or of a circuit without scores, more edges than can be told apart, or an
            infinite score.
    """
    drawn = circuit if top is None else circuit.top(min(top, len(circuit)), absolute=True)
    if not len(drawn):
        raise BadInput("the circuit has no edges, so there is nothing to draw")
    if len(drawn) > MOST_EDGES:
        some = "circuit.at_node(name) or circuit.pruned()" if circuit.scores is None else "top=50"
        raise BadInput(f"of {len(drawn)} edges none could be seen; {MOST_EDGES} can be drawn: try {some}")
    edges = _edges(drawn)
    if infinite := [edge.name for edge in edges if math.isinf(edge.score or 0.0)]:
        raise BadInput(
            f"the score of {infinite[0]} is infinite, so no width can show it; pass "
            "circuit.graph.circuit(circuit.edges) to draw the edges alone"
        )
    graph, at_positions = drawn.graph, bool(drawn.graph.layout.positions)
    places = _places(graph, {box for edge in edges for box in edge.boxes})
    curves = _curves(edges, places)
    columns = dict(tickmode="array", tickvals=[*places.columns.values()], ticktext=[*map(escaped, places.columns)])
    plot = (len(places.rows) - 1) * ROW + (70 if at_positions else 20)
    made = figure(
        [*_moved(edges, places), *_lines(curves), _hover(curves), *_legend(edges)],
        title=title,
        height=plot,
        x_title="token position" if at_positions else "",
        y_title="",
        xaxis=columns if at_positions else dict(showticklabels=False),
        yaxis=ticks(places.rows),
    )
    below, half, needed = 58 if at_positions else 8, places.room / 2 + 0.1, places.needed / 2 + 0.1
    return made.update_layout(
        yaxis=dict(autorange=False, range=[len(places.rows) - 0.6, -0.4], fixedrange=True),
        xaxis=dict(range=(places.middle - half, places.middle + half)),
        annotations=_boxes(edges, places),
        hovermode="closest",
        showlegend=True,
        legend=dict(orientation="h", y=-below / plot, yanchor="top", x=0, font=dict(size=11), itemclick=False),
        margin=dict(b=below + 30),
        meta=dict(
            narrowest=round(2 * needed * BOX) + 90,
            tight=[places.middle - needed, places.middle + needed],
            widest=WIDEST,
        ),
    )


def _edges(circuit: Circuit) -> list[Edge]:
    graph, places = circuit.graph, circuit.kept.T.nonzero().tolist()
    scores = [None] * len(places) if circuit.scores is None else circuit.scores.listed.tolist()
    edges = []
    for (column, row), score in zip(places, scores, strict=True):
        writer, reader = graph.writers[row], graph.read[column]
        boxes = [(node, reader.label) for node in (writer, *graph.nodes[reader.nodes])]
        edges.append(Edge(f"{writer}{ARROW}{reader}", score, reader, boxes))
    return edges


# ----------------------------------------------------------------------------------------------------- where things are


class Places(NamedTuple):
    """Where the boxes are: the names of the rows, the middle of each column, and how many boxes fit side by side.

    `needed` is how many boxes stand side by side; `room` is at least as much, so that small circuits have no huge gaps.
    """

    of_box: dict[Box, Point]
    rows: list[str]
    columns: dict[str, float]
    needed: float
    room: float
    middle: float


def _places(graph: Graph, used: set[Box]) -> Places:
    """Places for these boxes: rows by layer, columns by position, and in each row of a column the graph's order."""

    def layer(node: str) -> int:
        return {"input": -1, "logits": last}.get(node) or int(node[1:].partition(".")[0])

    last = graph.layout.n_layers
    layers = sorted({-1, last, *(layer(node) for node, _ in used)})
    of_box, columns, left = dict[Box, Point](), dict[str, float](), 0.0
    for label in graph.layout.labels:
        column = [node for node in graph.nodes if (node, label) in used]
        rows = [(layers.index(place), [*nodes]) for place, nodes in itertools.groupby(column, layer)]
        if not rows:
            continue
        width = max(len(nodes) for _, nodes in rows)
        columns[label] = left + (width - 1) / 2
        for row, nodes in rows:
            for place, node in enumerate(nodes):
                below = LOWER if node[0] == "m" and len(nodes) > 1 and not graph.layout.parallel else 0.0
                of_box[node, label] = Point(columns[label] + place - (len(nodes) - 1) / 2, row + below)
        left += width + 0.6
    names = ["input", *(f"layer {one}" for one in layers[1:-1]), "logits"]
    return Places(of_box, names, columns, left - 0.6, max(NARROWEST, round(left - 0.6)), (left - 1.6) / 2)


def _curves(edges: Sequence[Edge], places: Places) -> list[Curve]:
    """Curves of the edges, those with small scores first, so that large ones are drawn over them."""
    found = []
    for edge in sorted(edges, key=lambda edge: abs(edge.score or 0.0)):
        begin, *ends = (places.of_box[box] for box in edge.boxes)
        for end in ends:
            port = Point(end.x + PORTS[edge.reader.into], end.y - HALF_BOX)
            found.append((edge, _curve(Point(begin.x, begin.y + HALF_BOX), port, places.middle)))
    return found


def _curve(begin: Point, end: Point, middle: float) -> list[Point]:
    """A curve that leaves and enters upright, and bends away from the middle, around the boxes of layers between."""
    outward = 1 if begin.x + end.x >= 2 * middle else -1
    aside = outward * 0.55 * min(max(end.y - begin.y - 1, 0.0), 3.0)
    return upright(begin, end, aside)


# ------------------------------------------------------------------------------------------------------- what is drawn


def _lines(curves: Sequence[Curve]) -> list[go.Scatter]:
    """A trace for each combination of width, colour and dash that some edges have."""
    largest = max(abs(edge.score or 0.0) for edge, _ in curves) or 1.0
    alike: dict[tuple[int, str, str], list[list[Point]]] = defaultdict(list)
    for edge, points in curves:
        share = 0.25 if edge.score is None else abs(edge.score) / largest
        size = size_of(share)
        colour = MUTED if edge.score is None else NEGATIVE if edge.score < 0 else POSITIVE
        alike[size, colour, DASHES[edge.reader.into]].append(points)
    return [
        one_trace(lines, dict(color=colour, width=WIDTHS[size], dash=dash), OPACITIES[size])
        for (size, colour, dash), lines in sorted(alike.items(), key=lambda look: look[0][0])
    ]


def _moved(edges: Sequence[Edge], places: Places) -> list[go.Scatter]:
    """Thin lines from where a head reads keys and values to where its output is read."""
    reads = sorted({box for edge in edges if edge.reader.into in ("k", "v") for box in edge.boxes[1:]})
    writes = sorted({edge.boxes[0] for edge in edges})
    pairs = [(a, b) for a, b in itertools.product(reads, writes) if a[0] == b[0] and a != b]
    lines = [_sagging(places.of_box[a], places.of_box[b]) for a, b in pairs]
    return [one_trace(lines, dict(color=INK, width=1.2), 0.4)] if lines else []


def _sagging(begin: Point, end: Point) -> list[Point]:
    below = begin.y + 0.45
    return bezier(begin, Point(begin.x, below), Point(end.x, below), end)


def _hover(curves: Sequence[Curve]) -> go.Scatter:
    """Invisible points along the edges that tell, when hovered, which edge it is."""
    scores = ["" if edge.score is None else f"<br>score {edge.score:.4g}" for edge, _ in curves]
    texts = [escaped(edge.name) + score for (edge, _), score in zip(curves, scores, strict=True) for _ in range(3)]
    return told_at([points[CURVE * quarter // 4] for _, points in curves for quarter in (1, 2, 3)], texts)


def _legend(edges: Sequence[Edge]) -> list[go.Scatter]:
    """Entries for the colours and dashes that are drawn."""

    def entry(name: str, **look: Any) -> go.Scatter:
        return go.Scatter(x=[None], y=[None], mode="lines", name=name, line=dict(width=2.5) | look, hoverinfo="skip")

    scores = [edge.score for edge in edges if edge.score is not None]
    entries = []
    if scores:
        largest = f"up to {max(map(abs, scores)):.3g}"
        entries += [entry(f"helps ({largest})", color=POSITIVE)] * (max(scores) >= 0)
        entries += [entry(f"hurts ({largest})" if max(scores) < 0 else "hurts", color=NEGATIVE)] * (min(scores) < 0)
    used = {edge.reader.into for edge in edges} - {""}
    return entries + [entry(INTO[into], color=MUTED, dash=DASHES[into]) for into in INTO if into in used]


def _boxes(edges: Sequence[Edge], places: Places) -> list[dict[str, Any]]:
    """Annotations with the names of nodes, which tell, when hovered, how many edges there are and what they sum to."""

    def told(some: Sequence[Edge], what: str) -> str:
        scores = [edge.score for edge in some if edge.score is not None]
        return f"<br>{what}: {len(some)}" + (f" (sum {sum(scores):.4g})" if scores else "")

    def box(box: Box, place: Point) -> dict[str, Any]:
        node, at_an_end = box[0], box[0] in ("input", "logits")
        text = node if places.room <= LONG_NAMES_UP_TO or node[0] != "a" else node.partition(".")[2]
        entering, leaving = [edge for edge in edges if box in edge.boxes[1:]], [e for e in edges if box == e.boxes[0]]
        return dict(
            x=place.x,
            y=place.y,
            text=text,
            width=SHORT if len(text) < len("a5.h1") else None,
            showarrow=False,
            bgcolor=INK if at_an_end else PAPER if node.startswith("a") else FAINT,
            bordercolor=INK if at_an_end else MUTED,
            borderwidth=1,
            borderpad=3,
            font=dict(size=10, color=PAPER if at_an_end else INK),
            hovertext=escaped(AT.join(filter(None, box))) + told(entering, "edges in") + told(leaving, "edges out"),
            captureevents=True,
        )

    return [box(one, place) for one, place in places.of_box.items()]


@checked
def stability_figure(stability: Stability, *, top: Positive = 40, title: str | None = None) -> go.Figure:
    """A bar for each edge that was found: the share of bootstrap samples that find it, in the order of `table()`.

    Edges of the circuit are blue, others grey; a dashed line is what random circuits of as many edges would give. The
    title says what halves of the prompts have in common, and other ablations, and what exchanged answers still find.

        >>> from interp_hooks.circuits import circuit_stability
        >>> from interp_hooks.views import stability_figure
        >>> stable = circuit_stability(model, pairs, method="eap", n_edges=30, nulls=2, progress=False)
        >>> stability_figure(stable, top=50).write_html("stability.html")

    Raises:
        BadInput: a `top` below 1.
    """
    table = stability.table().head(top)
    names = [ARROW.join(ends) for ends in zip(table["writer"], table["reader"], strict=True)]
    also = [
        ", ".join(one.removeprefix("in ") for one in table.columns if one.startswith("in ") and row[one]) or "none"
        for _, row in table.iterrows()
    ]
    trace = go.Bar(
        x=table["inclusion"].tolist(),
        y=list(range(len(table))),
        orientation="h",
        marker=dict(color=[POSITIVE if inside else MUTED for inside in table["circuit"]]),
        hovertext=[
            f"{escaped(name)}<br>found in {share:.0%} of samples<br>other ablations that find it: {escaped(found)}"
            for name, share, found in zip(names, table["inclusion"], also, strict=True)
        ],
        hoverinfo="text",
    )
    drawn = figure(
        trace,
        title=title or _words(stability),
        height=plot_height(len(table), row=18),
        x_title=f"share of {stability.samples} samples of {stability.prompts} prompts that find the edge",
        y_title="",
        xaxis=dict(range=[0, 1.02], showgrid=True, gridcolor=FAINT, tickformat=".0%"),
        yaxis=ticks(names),
    )
    by_chance = len(stability.circuit) / len(stability.circuit.graph)
    return drawn.add_vline(x=by_chance, line=dict(color=INK, dash="dash", width=1))


def _words(stability: Stability) -> str:
    """What the other questions say, in a line."""
    said = [f"Jaccard of halves {float(stability.halves.mean()):.2f}"]
    said += [f"with {ablation} {shared:.2f}" for ablation, shared in stability.overlap.items()]
    return ", ".join([*said, f"exchanged answers {float(stability.null_strength.mean()):.2f}"])
