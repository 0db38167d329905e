"""Edges of graphs as curves: few traces for many, as wide as a weight is large, in the colour of its sign."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

CURVE = 24  # points of a curve
WIDTHS = (1.0, 1.9, 3.1, 4.6, 6.5)  # pixels, for |score| from 0 to the largest in equal steps
OPACITIES = (0.45, 0.6, 0.7, 0.8, 0.9)


class Point(NamedTuple):
    """A place in a figure."""

    x: float
    y: float


def bezier(*corners: Point) -> list[Point]:
    """Points of the cubic curve from the first to the last of four corners."""
    points = []
    for t in (step / CURVE for step in range(CURVE + 1)):
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        points.append(Point(*(sum(w * p[i] for w, p in zip(weights, corners, strict=True)) for i in (0, 1))))
    return points


def upright(begin: Point, end: Point, aside: float = 0.0) -> list[Point]:
    """A curve that leaves and enters upright, and bends to the side on its way."""
    bend = (end.y - begin.y) / 2.4
    return bezier(begin, Point(begin.x + aside, begin.y + bend), Point(end.x + aside, end.y - bend), end)


def told_at(points: Sequence[Point], texts: Sequence[str]) -> go.Scatter:
    """Invisible points that tell, when hovered, what is there."""
    return go.Scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        mode="markers",
        marker=dict(size=10, opacity=0),
        hovertext=list(texts),
        hoverinfo="text",
        showlegend=False,
    )


def size_of(share: float) -> int:
    """Which of `WIDTHS` a share of the largest weight has."""
    return min(int(share * len(WIDTHS)), len(WIDTHS) - 1)


def one_trace(lines: Iterable[Sequence[Point]], look: dict[str, Any], opacity: float) -> go.Scatter:
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
