"""Points and lines, the areas below these, and texts at points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from interp_hooks.views.adapting import INK
from interp_hooks.views.drawing.elements import Night, number, tag, words
from interp_hooks.views.drawing.scales import Axis, Extent, Undrawable
from interp_hooks.views.drawing.traces import Trace, colour_of, error_bars, one_of, opacity_of, with_errors

DASHES = {"dot": "2 3", "dash": "7 4", "longdash": "11 5", "dashdot": "7 3 2 3", "longdashdot": "11 4 2 4"}
OUTLINES = {  # of symbols, as corners in radii
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle-up": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "triangle-down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    "star": tuple(
        (r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k, r in enumerate([1.4, 0.55] * 5)
    ),
}
CROSSES = {"cross": ((-1, 0, 1, 0), (0, -1, 0, 1)), "x": ((-0.8, -0.8, 0.8, 0.8), (-0.8, 0.8, 0.8, -0.8))}


def scatter(trace: Trace, x: Axis, y: Axis, night: Night) -> str:
    """Lines, the areas below them, points, their error bars and texts."""
    points = [(x.place(a), y.place(b)) for a, b in zip(trace["x"], trace["y"], strict=True)]
    mode, drawn = trace["mode"], []
    if trace.get("fill") not in (None, "none"):
        drawn.append(_area(trace, points, y))
    line = trace["line"]
    if "lines" in mode:
        look: dict[str, Any] = dict(
            stroke=line["color"], stroke_width=line.get("width", 2), fill="none", stroke_linejoin="round"
        )
        path = "".join(f"M{'L'.join(pairs)}" for pairs in _runs(points, line.get("shape")))
        drawn.append(tag("path", d=path, **look, stroke_dasharray=dashes(line.get("dash")), opacity=trace["opacity"]))
    drawn.append(error_bars(trace, x, y))
    texts = trace.get("text")
    for order, (a, b) in enumerate(points):
        if a is None or b is None:
            continue
        if "markers" in mode and (opacity := opacity_of(trace, order)) != 0:
            drawn.append(symbol(trace, order, a, b, colour_of(trace, order, night), opacity))
        text = texts[order] if isinstance(texts, list) else texts
        if "text" in mode and text not in (None, ""):
            drawn.append(_label(trace, order, a, b, text))
    return "".join(drawn)


def points_take(trace: Trace) -> tuple[Extent, Extent]:
    """What points and lines take of their axes, with their error bars."""
    markers = "markers" in trace["mode"] or "text" in trace["mode"]
    lower, upper = ([v - e for v, e in with_errors(trace, "y", end)] for end in ("minus", "plus"))
    zero = trace.get("fill") == "tozeroy"
    y = Extent(values=[*trace["y"], *lower, *upper], air=True, from_zero=zero)
    sideways = [v - e for end in ("minus", "plus") for v, e in with_errors(trace, "x", end)]
    return Extent(values=[*trace["x"], *sideways], air=markers), y


def _runs(points: Sequence[tuple[float | None, float | None]], shape: str | None) -> list[list[str]]:
    """The points of a line, in parts where there are gaps, with corners where it goes in steps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for a, b in points:
        if a is None or b is None:
            runs.append([])
        else:
            if runs[-1] and shape in ("hv", "vh"):
                before = runs[-1][-1]
                runs[-1].append((a, before[1]) if shape == "hv" else (before[0], b))
            runs[-1].append((a, b))
    return [[f"{number(a)} {number(b)}" for a, b in run] for run in runs if run]


def _area(trace: Trace, points: Sequence[tuple[float | None, float | None]], y: Axis) -> str:
    fill = trace["fill"]
    around: list[tuple[Any, Any]] = [(a, b) for a, b in points if a is not None and b is not None]
    if fill == "tonexty" and trace.get("below"):
        around += list(reversed(trace["below"]))
    elif fill == "tozeroy" and around:
        zero = y.place(0.0)
        around += [(around[-1][0], zero), (around[0][0], zero)]
    elif fill != "toself":
        raise Undrawable(f"fill={fill!r}")
    path = "M" + "L".join(f"{number(a)} {number(b)}" for a, b in around) + "Z"
    given = trace.get("fillcolor")
    return tag("path", d=path, fill=given or trace["line"]["color"], fill_opacity=None if given else 0.3)


def dashes(dash: str | None) -> str | None:
    """A dash of plotly's as SVG has it."""
    if dash in (None, "solid"):
        return None
    return DASHES.get(dash) or dash.replace("px", "").replace(",", " ")


def symbol(trace: Trace, order: int, a: float, b: float, colour: str, opacity: float | None) -> str:
    """The mark of a point."""
    marker = trace["marker"]
    radius = _diameter(marker, order) / 2
    kind, hollow = str(one_of(marker.get("symbol", "circle"), order)), False
    if kind.endswith("-open"):
        kind, hollow = kind.removesuffix("-open"), True
    line = marker.get("line") or {}
    stroke, wide = one_of(line.get("color"), order), one_of(line.get("width", 0), order)
    look: dict[str, Any] = dict(fill="none" if hollow else colour, opacity=opacity)
    look |= dict(stroke=colour, stroke_width=1.5) if hollow else {}
    look |= dict(stroke=stroke, stroke_width=wide) if stroke and wide and not hollow else {}
    if kind in CROSSES:
        parts = ([a + radius * p, b + radius * q, a + radius * r, b + radius * s] for p, q, r, s in CROSSES[kind])
        path = "".join("M{} {}L{} {}".format(*map(number, part)) for part in parts)
        return tag("path", d=path, fill="none", stroke=colour, stroke_width=max(1.6, radius / 2), opacity=opacity)
    if kind in OUTLINES:
        corners = (f"{number(a + radius * p)} {number(b + radius * q)}" for p, q in OUTLINES[kind])
        return tag("path", d="M" + "L".join(corners) + "Z", **look)
    return tag("circle", cx=a, cy=b, r=radius, **look)


def _diameter(marker: Mapping[str, Any], order: int) -> float:
    """How wide the mark of a point is: as told, or so that its area or its width is as its number."""
    size = one_of(marker.get("size", 6), order) or 0.0
    if not isinstance(marker.get("size"), list):
        return size
    share = max(size, 0.0) / marker.get("sizeref", 1)
    return max(share**0.5 if marker.get("sizemode") == "area" else share, marker.get("sizemin", 0))


def _label(trace: Trace, order: int, a: float, b: float, text: Any) -> str:
    """The text at a point, on the side where it belongs."""
    where = one_of(trace.get("textposition") or "middle center", order)
    font = trace.get("textfont") or {}
    gap = 4 + (_diameter(trace["marker"], order) / 2 if "markers" in trace["mode"] else -4)
    side = {"left": ("end", -gap), "right": ("start", gap)}
    anchor, shift = next((found for name, found in side.items() if name in where), ("middle", 0.0))
    middle = 1.0 if "top" in where else 0.0 if "bottom" in where else 0.5
    up = {1.0: -gap, 0.0: gap}.get(middle, 0.0) if anchor == "middle" else 0.0
    look: dict[str, Any] = dict(size=one_of(font.get("size", 11), order), colour=one_of(font.get("color", INK), order))
    return words(text, a + shift, b + up, anchor=anchor, middle=middle, **look)
