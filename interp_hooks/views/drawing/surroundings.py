"""What stands around the marks of a figure: ticks and titles of axes, legends, colour bars, annotations and shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from interp_hooks.views.drawing.elements import LINE, Night, marked, plain, tag, width_of, words, wrapped
from interp_hooks.views.drawing.points import dashes, symbol
from interp_hooks.views.drawing.scales import Axis, Extent, Undrawable, made
from interp_hooks.views.drawing.traces import LEVELS, Colouring, Trace

TICK, TITLE, LEGEND = 11.0, 12.0, 11.0  # font sizes
ROW = 18.0  # of a legend
CLOSEST = 11.0  # pixels from one tick to the next
SHAPES = ("line", "rect", "circle")
BAR = 12.0  # width of a colour bar

Rows = list[list[tuple[float, Trace | None]]]  # of a legend: where each entry begins; None is its title


class Ink(NamedTuple):
    """Colours of text, of faint lines, and of the paper."""

    text: str
    faint: str
    paper: str


def title_of(settings: Mapping[str, Any]) -> str:
    """The title of an axis, a legend, a colour bar or a figure, or ''."""
    title = settings.get("title") or ""
    return str(title.get("text") or "") if isinstance(title, Mapping) else str(title)


# ------------------------------------------------------------------------------------------------------------ axes


def angle_of(axis: Axis) -> float:
    """How the texts below an axis are turned: as asked, or so that they do not overlap."""
    asked = axis.settings.get("tickangle")
    if isinstance(asked, int | float):
        return float(asked)
    ticks = axis.ticks()
    room = axis.length / max(len(ticks), 1)
    flat = axis.kind != "category" and all(map(_is_number, (text for _, text in ticks)))
    return 0.0 if flat or all(width_of(plain(text), TICK) + 4 < room for _, text in ticks) else -45.0


def _is_number(text: str) -> bool:
    return text.strip("−.,%0123456789e+") == ""


def below(axis: Axis) -> float:
    """How many pixels the texts below an axis are high, with its title."""
    angle = abs(angle_of(axis))
    longest = max((width_of(plain(text), TICK) for _, text in shown_ticks(axis)), default=0.0)
    high = {0.0: TICK * 1.3 if longest else 0.0, 90.0: longest}.get(angle, longest * 0.71 + TICK * 0.8)
    title = _title_below(axis)
    return high + 8 + (TITLE * (0.4 + LINE * len(title.split("\n"))) if title else 0.0)


def _title_below(axis: Axis) -> str:
    """The title of an axis in lines that are not much wider than it."""
    return wrapped(plain(title_of(axis.settings)), TITLE, max(axis.length + 20, 80))


def beside(axis: Axis) -> float:
    """How many pixels the texts beside an axis are wide, with its title."""
    longest = max((width_of(plain(text), TICK) for _, text in shown_ticks(axis)), default=0.0)
    return longest + 10 + (TITLE * 1.7 if title_of(axis.settings) else 0.0)


def shown_ticks(axis: Axis) -> list[tuple[float, str]]:
    """The ticks that are written: where they would overlap, every second one, or fewer."""
    hidden = axis.settings.get("showticklabels") is False or not axis.settings.get("visible", True)
    ticks = [] if hidden else axis.ticks()
    apart = min((abs(b - a) for (a, _), (b, _) in itertools.pairwise(ticks)), default=math.inf)
    needed = CLOSEST
    if not axis.settings.get("vertical") and not angle_of(axis):
        needed = max([CLOSEST, *(width_of(plain(text), TICK) + 5 for _, text in ticks)]) if len(ticks) > 1 else CLOSEST
    return ticks[:: max(1, math.ceil(needed / max(apart, 0.1)))]


def grid(x: Axis, y: Axis, ink: Ink) -> str:
    """Lines across a panel where the axes ask for them, and the lines at 0 and along its sides."""
    drawn, (left, right), (bottom, top) = [], sorted(x.pixels), sorted(y.pixels, reverse=True)
    for axis, line in ((x, lambda p: (p, bottom, p, top)), (y, lambda p: (left, p, right, p))):
        settings = axis.settings
        if not settings.get("visible", True):
            continue
        if settings.get("showgrid", axis.kind != "category"):
            look: dict[str, Any] = dict(
                stroke=settings.get("gridcolor") or ink.faint, stroke_width=settings.get("gridwidth") or 1
            )
            drawn += [_line(*line(place), **look) for place, _ in axis.ticks()]
        zero = axis.at(0.0) if axis.kind == "linear" and min(axis.ends) <= 0 <= max(axis.ends) else None
        if settings.get("zeroline", True) and zero is not None and axis.kind == "linear":
            look: dict[str, Any] = dict(stroke=settings.get("zerolinecolor") or ink.faint, stroke_width=1)
            drawn.append(_line(*line(zero), **look))
        if settings.get("showline"):
            edge = bottom if axis is x else left
            ends = (left, edge, right, edge) if axis is x else (edge, bottom, edge, top)
            drawn.append(_line(*ends, stroke=settings.get("linecolor") or ink.text, stroke_width=1))
    return "".join(drawn)


def _line(x1: float, y1: float, x2: float, y2: float, **look: Any) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **look)


def texts_below(axis: Axis, edge: float, ink: Ink) -> str:
    """The ticks and the title of an axis that runs across, below `edge`."""
    angle, drawn = angle_of(axis), []
    for place, text in shown_ticks(axis):
        look: dict[str, Any] = dict(anchor="end" if angle else "middle", middle=0.5 if angle else 0.0, angle=angle)
        drawn.append(words(text, place, edge + (9 if angle else 4), size=TICK, colour=ink.text, **look))
    if title := _title_below(axis):
        middle = sum(axis.pixels) / 2
        drawn.append(words(marked(title), middle, edge + below(axis), size=TITLE, colour=ink.text, middle=1.0))
    return "".join(drawn)


def texts_beside(axis: Axis, edge: float, ink: Ink, *, right: bool = False) -> str:
    """The ticks and the title of an axis that runs down, at the left of `edge` or at its right."""
    sign, anchor = (1, "start") if right else (-1, "end")
    drawn = [
        words(text, edge + 6 * sign, place, size=TICK, colour=ink.text, anchor=anchor)
        for place, text in shown_ticks(axis)
    ]
    if title := title_of(axis.settings):
        x, y = edge + sign * (beside(axis) - TITLE * 0.7), sum(axis.pixels) / 2
        drawn.append(words(title, x, y, size=TITLE, colour=ink.text, angle=-90))
    return "".join(drawn)


# ---------------------------------------------------------------------------------------------------------- legends


def in_legend(traces: Sequence[Trace], layout: Mapping[str, Any]) -> list[Trace]:
    """The traces that the legend names: of a group that is shown once, one."""
    named = [one for one in traces if one.get("name") and one.get("showlegend", True) and one["type"] != "heatmap"]
    asked = any(trace.get("showlegend") for trace in traces)
    shown = layout.get("showlegend", len(named) > 1 or asked)
    return named if shown else []


def legend_width(entries: Sequence[Trace], title: str) -> float:
    """How wide a legend beside a figure is."""
    longest = max((width_of(plain(trace["name"]), LEGEND) for trace in entries), default=0.0)
    return max(longest + 34, width_of(plain(title), LEGEND)) + 14 if entries else 0.0


def legend_beside(entries: Sequence[Trace], title: str, left: float, top: float, ink: Ink) -> str:
    """A legend in a column."""
    look: dict[str, Any] = dict(size=LEGEND, colour=ink.text, anchor="start", bold=True)
    drawn = [words(title, left, top + ROW / 2, **look)] if title else []
    for row, trace in enumerate(entries, start=len(drawn)):
        drawn.append(_entry(trace, left, top + (row + 0.5) * ROW, ink))
    return "".join(drawn)


def legend_rows(entries: Sequence[Trace], title: str, room: float) -> Rows:
    """A legend in rows of that width."""
    rows, left = [[]], 0.0
    for one in [*([None] if title else []), *entries]:
        wide = width_of(plain(title if one is None else one["name"]), LEGEND) + (14 if one is None else 48)
        if left and left + wide > room:
            rows.append([])
            left = 0.0
        rows[-1].append((left, one))
        left += wide
    return rows if rows[0] else []


def legend_below(rows: Rows, title: str, left: float, top: float, ink: Ink) -> str:
    """A legend in rows."""
    drawn = []
    for row, entries in enumerate(rows):
        y = top + (row + 0.5) * ROW
        for place, trace in entries:
            if trace is None:
                drawn.append(words(title, left + place, y, size=LEGEND, colour=ink.text, anchor="start", bold=True))
            else:
                drawn.append(_entry(trace, left + place, y, ink))
    return "".join(drawn)


def _entry(trace: Trace, left: float, y: float, ink: Ink) -> str:
    """The mark of a trace with its name."""
    colour = trace["marker"]["color"]
    colour = colour if isinstance(colour, str) else trace["line"]["color"]
    line, drawn = trace["line"], []
    if trace["type"] == "bar":
        drawn.append(tag("rect", x=left + 6, y=y - 5, width=12, height=10, fill=colour))
    else:
        if "lines" in trace["mode"]:
            look: dict[str, Any] = dict(stroke=line["color"], stroke_width=line.get("width", 2))
            drawn.append(_line(left, y, left + 24, y, stroke_dasharray=dashes(line.get("dash")), **look))
        if "markers" in trace["mode"]:
            drawn.append(symbol(trace | {"marker": trace["marker"] | {"size": 8}}, 0, left + 12, y, colour, None))
    return "".join(drawn) + words(trace["name"], left + 29, y, size=LEGEND, colour=ink.text, anchor="start")


# ------------------------------------------------------------------------------------------------------ colour bars


def bar_axis(colouring: Colouring, bottom: float, top: float) -> Axis:
    """The axis beside a colour bar."""
    half = 0.5 * (colouring.high <= colouring.low)  # of a single value
    settings = {**(colouring.bar or {}), "vertical": True, "range": [colouring.low - half, colouring.high + half]}
    return made(settings, [Extent(values=[])], (bottom, top), strict=False)


def bar_width(colouring: Colouring) -> float:
    """How wide a colour bar is with its numbers and its title."""
    return 14 + BAR + beside(bar_axis(colouring, 300, 0))


def colour_bar(colouring: Colouring, left: float, bottom: float, top: float, ink: Ink, night: Night) -> str:
    """A colour bar from `top` down to `bottom`."""
    axis, steps = bar_axis(colouring, bottom, top), LEVELS // 4
    high = (bottom - top) / steps
    drawn = [
        tag(
            "rect",
            x=left,
            y=bottom - (step + 1) * high,
            width=BAR,
            height=high + (0.5 if step else 0),
            fill=colouring.colour(round((step + 0.5) / steps * LEVELS), night),
        )
        for step in range(steps)
    ]
    return "".join(drawn) + texts_beside(axis, left + BAR, ink, right=True)


# --------------------------------------------------------------------------------------------- shapes and annotations


class Frame(NamedTuple):
    """Where shapes and annotations are placed: the axes by name, and the whole plot as two axes from 0 to 1."""

    axes: Mapping[str, Axis]
    paper: tuple[Axis, Axis]

    def place(self, reference: str | None, value: Any, default: str, *, logged: bool = False) -> float | None:
        """The pixel of a value of an axis, of a share of its domain, or of the paper. `logged`: is a power of ten."""
        reference = reference or default
        if reference == "paper":
            return self.paper[default == "y"].share(value)
        name, _, domain = reference.partition(" ")
        if name not in self.axes:
            raise Undrawable(f"the reference {reference!r}")
        axis = self.axes[name]
        if domain:
            return axis.share(value)
        return axis.at(value) if logged and axis.kind == "log" else axis.place(value)


def shape(given: Mapping[str, Any], frame: Frame) -> str:
    """A line, a rectangle or an ellipse."""
    kind = given.get("type", "rect")
    if kind not in SHAPES:
        raise Undrawable(f"a shape of type {kind!r}")
    x0, x1 = (frame.place(given.get("xref"), given.get(end), "x") for end in ("x0", "x1"))
    y0, y1 = (frame.place(given.get("yref"), given.get(end), "y") for end in ("y0", "y1"))
    if x0 is None or x1 is None or y0 is None or y1 is None:
        return ""
    line = given.get("line") or {}
    wide = 2 if line.get("width") is None else line["width"]
    look: dict[str, Any] = dict(
        stroke=line.get("color") or "#444444", stroke_width=wide, stroke_dasharray=dashes(line.get("dash"))
    )
    look: dict[str, Any] = dict(opacity=given.get("opacity")) | (look if wide else {})
    if kind == "line":
        return _line(x0, y0, x1, y1, **look)
    look |= dict(fill=given.get("fillcolor") or "none")
    if kind == "rect":
        return tag("rect", x=min(x0, x1), y=min(y0, y1), width=abs(x1 - x0), height=abs(y1 - y0), **look)
    half = abs(x1 - x0) / 2, abs(y1 - y0) / 2
    return tag("ellipse", cx=(x0 + x1) / 2, cy=(y0 + y1) / 2, rx=half[0], ry=half[1], **look)


def annotation(given: Mapping[str, Any], frame: Frame, ink: Ink) -> str:
    """Text at a place, in a box if it has one, at the end of an arrow if it points at something."""
    x = frame.place(given.get("xref"), given.get("x"), "x", logged=True)
    y = frame.place(given.get("yref"), given.get("y"), "y", logged=True)
    if x is None or y is None:
        return ""
    text, font = str(given.get("text") or ""), given.get("font") or {}
    size, drawn = font.get("size") or TITLE, []
    x, y = x + (given.get("xshift") or 0), y - (given.get("yshift") or 0)
    if given.get("showarrow", True):
        tip = x, y
        x, y = x + given.get("ax", -10), y + given.get("ay", -30)
        drawn.append(
            _line(x, y, *tip, stroke=given.get("arrowcolor") or ink.text, stroke_width=given.get("arrowwidth") or 1)
        )
    lines = plain(text).split("\n")
    wide, high = given.get("width") or width_of(plain(text), size), len(lines) * size * 1.25
    anchor = {"left": "start", "right": "end"}.get(given.get("xanchor") or "", "middle")
    middle = {"bottom": 1.0, "top": 0.0}.get(given.get("yanchor") or "", 0.5)
    if given.get("bgcolor") or given.get("bordercolor"):
        pad = given.get("borderpad") or 1
        left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        box: dict[str, Any] = dict(x=left - pad, y=y - high * middle - pad, width=wide + 2 * pad, height=high + 2 * pad)
        look: dict[str, Any] = dict(fill=given.get("bgcolor") or "none", stroke=given.get("bordercolor"))
        drawn.append(
            tag("rect", **box, **look, stroke_width=given.get("borderwidth"), rx=2, opacity=given.get("opacity"))
        )
    look: dict[str, Any] = dict(size=size, colour=font.get("color") or ink.text, anchor=anchor, middle=middle)
    return "".join(drawn) + words(text, x, y, angle=given.get("textangle") or 0.0, **look)
