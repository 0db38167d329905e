"""The traces that can be drawn: heat maps, bars, and points with lines; each says how much of its axes it takes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp_hooks.views.adapting import INK, PAPER
from interp_hooks.views.drawing.elements import (
    Night,
    Scale,
    indexed_png,
    marked,
    number,
    plain,
    rgb,
    tag,
    width_of,
    words,
)
from interp_hooks.views.drawing.scales import Axis, Extent, Undrawable

LEVELS = 200  # colours of a scale, and one more; an even number, so that the middle is one of them
MOST_CELLS = 2500  # of a heat map that is drawn cell by cell; a larger one is an image
SMALLEST = 7.0  # font size of numbers in cells; where there is room for less, there are none
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

Trace = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """How numbers become colours: a scale between two numbers, and the colour bar that tells of it, if any."""

    scale: Scale
    low: float
    high: float
    bar: Mapping[str, Any] | None
    name: str  # of the shared colour axis, or ''

    def level(self, value: float) -> int:
        """Which of the scale's colours a number has."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(min(max(share, 0.0), 1.0) * LEVELS)

    def colour(self, level: int, night: Night) -> str:
        """The colour of a level by day; that by night is noted."""
        day = self.scale.at(level / LEVELS)
        if night.adapting:
            night.colours[day] = self.scale.at(level / LEVELS, night=True)
        return day


# ------------------------------------------------------------------------------------------- how much of the axes


def extents(trace: Trace) -> tuple[Extent, Extent]:
    """What a trace takes of its two axes."""
    if trace["type"] == "heatmap":
        return _edges_of(trace["x"]), _edges_of(trace["y"])
    if trace["type"] == "bar":
        return _of_bars(trace)
    markers = "markers" in trace["mode"] or "text" in trace["mode"]
    lower, upper = ([v - e for v, e in _with_errors(trace, "y", end)] for end in ("minus", "plus"))
    zero = trace.get("fill") == "tozeroy"
    y = Extent(values=[*trace["y"], *lower, *upper], air=True, from_zero=zero)
    sideways = [v - e for end in ("minus", "plus") for v, e in _with_errors(trace, "x", end)]
    return Extent(values=[*trace["x"], *sideways], air=markers), y


def _edges_of(values: Sequence[Any]) -> Extent:
    return Extent(values=values, around=0.5 * _apart(values))


def _apart(values: Sequence[Any]) -> float:
    """The smallest distance of two numbers; 1 if there is none."""
    numbers = sorted({float(one) for one in values if isinstance(one, int | float)})
    return min((b - a for a, b in itertools.pairwise(numbers)), default=1.0)


def _of_bars(trace: Trace) -> tuple[Extent, Extent]:
    bars, along = trace["bars"], "x" if trace["orientation"] == "h" else "y"
    ends = [end for bar in bars for end in (bar.base, bar.end)]
    for end in ("minus", "plus"):
        ends += [value - error for value, error in _with_errors(trace, along, end)]
    long = Extent(values=ends, air=True, from_zero=True)
    across = Extent(values=[bar.place for bar in bars], around=0.5 * max((bar.unit for bar in bars), default=1.0))
    return (long, across) if along == "x" else (across, long)


def _with_errors(trace: Trace, axis: str, end: str) -> list[tuple[float, float]]:
    """Values with the length of their error bars, upward ones negative."""
    errors = trace.get(f"error_{axis}") or {}
    if errors.get("visible") is False or errors.get("array") is None:
        return []
    if errors.get("type", "data") != "data":
        raise Undrawable("error bars that are no data")
    minus = errors.get("arrayminus") if errors.get("symmetric") is False else None
    lengths = errors["array"] if end == "plus" or minus is None else minus
    sign = -1 if end == "plus" else 1
    pairs = zip(trace[axis], lengths, strict=False)
    return [(value, sign * error) for value, error in pairs if None not in (value, error)]


# -------------------------------------------------------------------------------------------------------- heat maps


def heat_map(trace: Trace, x: Axis, y: Axis, night: Night) -> str:
    """The cells of a heat map, with the texts in them where there is room."""
    z, colouring = trace["z"], trace["colouring"]
    columns, rows = _spans(x, trace["x"], trace.get("xgap") or 0), _spans(y, trace["y"], trace.get("ygap") or 0)
    if len(columns) * len(rows) > MOST_CELLS:
        return _image(z, columns, rows, colouring, night, trace["empty"])
    cells, texts = [], _cell_texts(trace)
    size = _text_size(texts, columns, rows, trace)
    for row, (top, height) in enumerate(rows):
        for column, (left, width) in enumerate(columns):
            value = z[row][column]
            if value is None or not math.isfinite(value):
                continue
            colour = colouring.colour(colouring.level(value), night)
            cells.append(tag("rect", x=left, y=top, width=width, height=height, fill=colour))
            if size and (text := texts[row][column]):
                middle = left + width / 2, top + height / 2
                cells.append(words(_cut(text, size, width - 4), *middle, size=size, colour=_on(colour)))
    return "".join(cells)


def _spans(axis: Axis, values: Sequence[Any], gap: float) -> list[tuple[float, float]]:
    """Where each row or column begins and how wide it is, in pixels."""
    half = 0.5 if axis.kind == "category" else 0.5 * _apart(values)
    spans = []
    for value in values:
        place = axis.categories.index(value) if axis.kind == "category" else float(value)
        low, high = sorted((axis.at(place - half) or 0.0, axis.at(place + half) or 0.0))
        spans.append((low + gap / 2, max(high - low - gap, 0.5)))
    return spans


def _cell_texts(trace: Trace) -> list[list[str]]:
    template = trace.get("texttemplate")
    if not template:
        return []
    given = trace.get("text")
    return [
        [
            "" if cell is None else filled(template, {"z": cell, "text": given[row][column] if given else ""})
            for column, cell in enumerate(line)
        ]
        for row, line in enumerate(trace["z"])
    ]


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A text template of plotly's, filled in: `%{z:.2f}`."""

    def value(found: re.Match[str]) -> str:
        name, form = found.group(1), found.group(2) or ""
        try:
            text = format(values[name], form.removeprefix(":"))
            return _signed(text) if form else text
        except (KeyError, ValueError) as error:
            raise Undrawable(f"the text template {template!r}") from error

    return re.sub(r"%\{(\w+)(:[^}]*)?\}", value, template)


def _signed(text: str) -> str:
    """A number with a minus that is one, and without it if all its digits are 0."""
    if not text.startswith("-"):
        return text
    return text[1:] if not text.strip("-0.%") else f"−{text[1:]}"


def _text_size(texts: Sequence[Sequence[str]], columns: Any, rows: Any, trace: Trace) -> float | None:
    """The largest font size at which all numbers fit into their cells, None if it is too small to be read.

    Words are cut instead, of which the beginning tells something.
    """
    if not any(map(any, texts)):
        return None
    width, height = min(width for _, width in columns), min(height for _, height in rows)
    wanted = (trace.get("textfont") or {}).get("size") or 12
    longest = max(width_of(plain(text), 1.0) for row in texts for text in row)
    size = min(wanted, height / 1.3, (width - 4) / longest if longest else wanted)
    if "%{text}" in trace["texttemplate"] and min(width, height) > 2 * SMALLEST:
        return max(size, min(SMALLEST + 1, height / 1.3))
    return size if size >= SMALLEST else None


def _cut(text: str, size: float, room: float) -> str:
    """Text, cut to what fits into so many pixels; nothing, if these are not two letters."""
    whole = plain(text)
    if width_of(whole, size) <= room:
        return text
    kept = next((end for end in range(len(whole), 1, -1) if width_of(whole[:end] + "…", size) <= room), 0)
    return marked(whole[:kept] + "…") if kept else ""


def _on(colour: str) -> str:
    """The colour of writing on another: dark, or that of the paper."""
    red, green, blue = rgb(colour)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def _image(
    z: Sequence[Sequence[float | None]], columns: Any, rows: Any, colouring: Colouring, night: Night, empty: str
) -> str:
    """A heat map of many cells as an image, and another one for the night."""
    across = range(len(columns)) if columns[0][0] <= columns[-1][0] else range(len(columns))[::-1]
    down = range(len(rows)) if rows[0][0] <= rows[-1][0] else range(len(rows))[::-1]
    levels = [
        [LEVELS + 1 if z[r][c] is None else colouring.level(z[r][c]) for c in across]  # pyright: ignore[reportArgumentType]
        for r in down
    ]
    left, top = min(columns)[0], min(rows)[0]
    place: dict[str, Any] = dict(x=left, y=top, width=sum(max(columns)) - left, height=sum(max(rows)) - top)
    place |= dict(preserveAspectRatio="none", style="image-rendering:pixelated")
    days = [colouring.scale.at(level / LEVELS) for level in range(LEVELS + 1)]
    images = tag("image", href=indexed_png(levels, [*days, empty]), **place, **{"class": "day"})
    if night.adapting:
        nights = [colouring.scale.at(level / LEVELS, night=True) for level in range(LEVELS + 1)]
        dark = indexed_png(levels, [*nights, night.colours.get(empty, empty)])
        images += tag("image", href=dark, display="none", **place, **{"class": "night"})
    return images


# ------------------------------------------------------------------------------------------------------------- bars


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar: its place on the axis, how far it is moved and how wide it is there, and from where to where it runs."""

    place: Any
    shift: float
    width: float
    base: float
    end: float
    unit: float


def lay_out_bars(traces: Sequence[Trace], mode: str, gap: float) -> None:
    """Give every trace of bars its `bars`: beside each other, on each other, or over each other."""
    across = ["y" if trace["orientation"] == "h" else "x" for trace in traces]
    unit = _apart([value for trace, axis in zip(traces, across, strict=True) for value in trace[axis]])
    beside = len(traces) if mode == "group" else 1
    width, reached = unit * (1 - gap) / beside, dict[tuple[Any, bool], float]()
    for order, (trace, axis) in enumerate(zip(traces, across, strict=True)):
        shift = (order - (beside - 1) / 2) * width if beside > 1 else 0.0
        trace["bars"], bases = [], trace.get("base")
        for place, (at, size) in enumerate(zip(trace[axis], trace["y" if axis == "x" else "x"], strict=True)):
            if size is None:
                continue
            base = 0.0 if bases is None else bases if isinstance(bases, int | float) else bases[place]
            if mode in ("stack", "relative"):
                base = reached.get((at, size < 0), 0.0)
                reached[at, size < 0] = base + size
            trace["bars"].append(Bar(place=at, shift=shift, width=width, base=base, end=base + size, unit=unit))


def bars(trace: Trace, x: Axis, y: Axis, night: Night) -> str:
    """Bars with their error bars and texts."""
    flat = trace["orientation"] == "h"
    long, across = (x, y) if flat else (y, x)
    pixels = (across.pixels[1] - across.pixels[0]) / (across.ends[1] - across.ends[0])
    drawn = []
    for order, bar in enumerate(trace["bars"]):
        middle = across.place(bar.place)
        begin, end = long.at(bar.base), long.at(bar.end)
        if None in (middle, begin, end):
            continue
        middle += bar.shift * pixels  # pyright: ignore[reportOptionalOperand]
        half = abs(bar.width * pixels) / 2
        low, high = sorted((begin, end))  # pyright: ignore[reportArgumentType]
        box: dict[str, Any] = dict(x=low, y=middle - half, width=high - low, height=2 * half)
        if not flat:
            box = dict(x=middle - half, y=low, width=2 * half, height=high - low)
        drawn.append(tag("rect", **box, fill=colour_of(trace, order, night), opacity=opacity_of(trace, order)))
        if text := bar_text(trace, order, bar):
            drawn.append(_beside(text, end, middle, flat, bar.end < bar.base))  # pyright: ignore[reportArgumentType]
    return "".join(drawn) + error_bars(trace, x, y)


def bar_text(trace: Trace, order: int, bar: Bar) -> str:
    """What is written at a bar, or ''."""
    text = trace.get("text")
    text = text[order] if isinstance(text, list) else text
    if template := trace.get("texttemplate"):
        along = bar.end - bar.base
        return filled(template, {"x": along, "y": along, "value": along, "text": text})
    return "" if text is None or trace.get("textposition") == "none" else str(text)


def _beside(text: str, end: float, middle: float, flat: bool, negative: bool) -> str:
    look: dict[str, Any] = dict(size=10.0, colour=INK)
    if flat:
        return words(text, end + (-4 if negative else 4), middle, anchor="end" if negative else "start", **look)
    return words(text, middle, end + (3 if negative else -3), middle=0.0 if negative else 1.0, **look)


def error_bars(trace: Trace, x: Axis, y: Axis) -> str:
    """The error bars of bars and points, with their ends."""
    drawn = []
    for axis, own in (("x", x), ("y", y)):
        errors = trace.get(f"error_{axis}") or {}
        if not _with_errors(trace, axis, "plus"):
            continue
        minus = errors.get("arrayminus") if errors.get("symmetric") is False else errors["array"]
        cap = (errors.get("width") or 4) if errors.get("width") != 0 else 0
        look: dict[str, Any] = dict(stroke=errors.get("color") or INK, stroke_width=errors.get("thickness") or 1.5)
        for order, (a, b, up, down) in enumerate(
            zip(trace["x"], trace["y"], errors["array"], minus or errors["array"], strict=False)
        ):
            if None in (a, b, up, down) or not all(map(math.isfinite, (up, down))):
                continue
            value, other = (a, y.place(b)) if axis == "x" else (b, x.place(a))
            if other is not None and trace["type"] == "bar":
                other += _shift(trace, order, y if axis == "x" else x)
            ends = own.place(value - down), own.place(value + up)
            if other is None or None in ends:
                continue
            drawn += [tag("path", d=_capped(*ends, other, cap, axis == "x"), fill="none", **look)]  # pyright: ignore[reportArgumentType]
    return "".join(drawn)


def _shift(trace: Trace, order: int, axis: Axis) -> float:
    shift = trace["bars"][order].shift if order < len(trace["bars"]) else 0.0
    return shift * (axis.pixels[1] - axis.pixels[0]) / (axis.ends[1] - axis.ends[0])


def _capped(low: float, high: float, other: float, cap: float, flat: bool) -> str:
    lines = [((low, other), (high, other)), *(((end, other - cap), (end, other + cap)) for end in (low, high))]
    pairs = (pair if flat else tuple((b, a) for a, b in pair) for pair in lines)
    return "".join(f"M{number(a)} {number(b)}L{number(c)} {number(d)}" for (a, b), (c, d) in pairs)


# ------------------------------------------------------------------------------------------------ points and lines


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
    kind, hollow = str(_one(marker.get("symbol", "circle"), order)), False
    if kind.endswith("-open"):
        kind, hollow = kind.removesuffix("-open"), True
    line = marker.get("line") or {}
    stroke, wide = _one(line.get("color"), order), _one(line.get("width", 0), order)
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
    size = _one(marker.get("size", 6), order) or 0.0
    if not isinstance(marker.get("size"), list):
        return size
    share = max(size, 0.0) / marker.get("sizeref", 1)
    return max(share**0.5 if marker.get("sizemode") == "area" else share, marker.get("sizemin", 0))


def _label(trace: Trace, order: int, a: float, b: float, text: Any) -> str:
    """The text at a point, on the side where it belongs."""
    where = _one(trace.get("textposition") or "middle center", order)
    font = trace.get("textfont") or {}
    gap = 4 + (_diameter(trace["marker"], order) / 2 if "markers" in trace["mode"] else -4)
    side = {"left": ("end", -gap), "right": ("start", gap)}
    anchor, shift = next((found for name, found in side.items() if name in where), ("middle", 0.0))
    middle = 1.0 if "top" in where else 0.0 if "bottom" in where else 0.5
    up = {1.0: -gap, 0.0: gap}.get(middle, 0.0) if anchor == "middle" else 0.0
    look: dict[str, Any] = dict(size=_one(font.get("size", 11), order), colour=_one(font.get("color", INK), order))
    return words(text, a + shift, b + up, anchor=anchor, middle=middle, **look)


def colour_of(trace: Trace, order: int, night: Night) -> str:
    """The colour of a bar or a point."""
    value = _one(trace["marker"]["color"], order)
    if trace.get("colouring") is not None and isinstance(value, int | float):
        return trace["colouring"].colour(trace["colouring"].level(value), night)
    return str(value)


def opacity_of(trace: Trace, order: int) -> float | None:
    """How opaque a bar or a point is; None is wholly."""
    own = _one(trace["marker"].get("opacity"), order)
    if own is None and trace["opacity"] is None:
        return None
    return (1.0 if own is None else own) * (1.0 if trace["opacity"] is None else trace["opacity"])


def _one(values: Any, order: int) -> Any:
    return values[order] if isinstance(values, list) else values


DRAW = {"heatmap": heat_map, "bar": bars, "scatter": scatter}
