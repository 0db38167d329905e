"""A whole figure as SVG: its margins, its panels, and what is drawn over what."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import plotly.graph_objects as go

from interp_hooks.views.adapting import FAINT, INK, PAPER
from interp_hooks.views.drawing.columns import lay_out_bars
from interp_hooks.views.drawing.elements import (
    LINE,
    Night,
    marked,
    name_of,
    plain,
    tag,
    width_of,
    words,
    wrapped,
    written,
)
from interp_hooks.views.drawing.marks import MARKS
from interp_hooks.views.drawing.reading import read
from interp_hooks.views.drawing.scales import Axis, Extent, made
from interp_hooks.views.drawing.surroundings import (
    ROW,
    TICK,
    Frame,
    Ink,
    Rows,
    angle_of,
    annotation,
    bar_width,
    below,
    beside,
    colour_bar,
    grid,
    in_legend,
    legend_below,
    legend_beside,
    legend_rows,
    legend_width,
    shape,
    shown_ticks,
    texts_below,
    texts_beside,
    title_of,
)
from interp_hooks.views.drawing.traces import Colouring, Trace
from interp_hooks.views.style import FONT

WIDTH, HEIGHT = 720, 450  # pixels, where a figure does not say
EDGE, HEADING = 12.0, 15.0  # pixels around all; font size of the title
BOLD = 1.1  # how much wider its letters are than others
LEAST = 60.0  # pixels of a plot
NARROW = 520  # pixels; a figure no wider has its legend below
LED = ("autorange", "range", "rangemode", "type")  # of an axis, what those that match it take from it


class Room(NamedTuple):
    """The sides of the plot, and how high the whole is."""

    left: float
    right: float
    top: float
    bottom: float
    height: float


def drawn(figure: go.Figure, width: int | None, height: int | None, told: str) -> str:
    """The figure as SVG; `told` is what it says to those who do not see it.

    Raises:
        Undrawable: it has something that is not drawn here.
    """
    traces, layout = read(figure)
    wide = _width(width or layout.get("width") or WIDTH, layout)
    font = layout.get("font") or {}
    ink = Ink(font.get("color") or "#2a3f5f", FAINT, layout.get("paper_bgcolor") or PAPER)
    night = Night(ink.text == INK and ink.paper == PAPER, (layout.get("meta") or {}).get("night") or {})
    _bars(traces, layout)
    legend, colourings = in_legend(traces, layout), _colourings(traces)
    title = wrapped(plain(title_of(layout)), HEADING * BOLD, wide - 2 * EDGE)
    settings = _axes(traces, layout)
    shapes = [one for one in layout.get("shapes") or [] if one.get("visible", True)]
    taken = _taken(traces, shapes, settings)
    room, rows = Room(80, wide - 80, 40, 340, 400), Rows()
    for _ in range(2):  # a plot that turned out narrower may have its ticks turned, which take more room below it
        axes = _placed(settings, taken, room, layout)
        for name, axis in axes.items():
            if name[0] == "x" and angle_of(axis):
                settings[name]["tickangle"] = angle_of(axis)  # they stay turned, also where there is room again
        room, rows = _room(axes, layout, wide, height, title, legend, colourings)
    axes = _placed(settings, taken, room, layout)
    paper = [made({"range": [0, 1]}, [], ends, strict=True) for ends in (room[:2], (room.bottom, room.top))]
    frame = Frame(axes, (paper[0], paper[1]))
    body = [tag("rect", x=0, y=0, width=wide, height=room.height, fill=ink.paper)]
    body += _panels(traces, shapes, frame, layout, ink, night)
    body += [annotation(one, frame, ink) for one in layout.get("annotations") or [] if one.get("visible", True)]
    left = room.right + 14
    for colouring in colourings:
        body.append(colour_bar(colouring, left, room.bottom, room.top, ink, night))
        left += bar_width(colouring)
    legend_title = title_of(layout.get("legend") or {})
    if rows:
        top = room.height - EDGE - ROW * len(rows)
        body.append(legend_below(rows, legend_title, EDGE, top, ink))
    elif legend:
        body.append(legend_beside(legend, legend_title, left, room.top, ink))
    if title:
        place: dict[str, Any] = dict(size=HEADING, colour=ink.text, anchor="start", middle=0.0, bold=True)
        body.append(words(marked(title), EDGE, EDGE, **place))
    return _whole("".join(body), wide, room.height, str(font.get("family") or FONT), told, night)


def _width(width: float, layout: dict[str, Any]) -> float:
    """The width of a figure, which may be at its narrowest; then it shows what it would on a narrow page."""
    meta = layout.get("meta") or {}
    if width < NARROW and meta.get("tight"):
        layout["xaxis"] = {**layout.get("xaxis", {}), "range": meta["tight"]}
    return max(width, meta.get("narrowest") or 0)


def _whole(body: str, width: float, height: float, family: str, told: str, night: Night) -> str:
    name = name_of(body)
    inside = tag("title", written(told)) + night.style(name, body) + body
    return tag(
        "svg",
        inside,
        xmlns="http://www.w3.org/2000/svg",
        id=name,
        role="img",
        aria_label=written(told).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"),
        viewBox=f"0 0 {width:g} {height:g}",
        width=float(width),
        height=float(height),
        font_family=family,
        style="max-width:100%;height:auto",
    )


# ------------------------------------------------------------------------------------------------------------- axes


def _bars(traces: Sequence[Trace], layout: Mapping[str, Any]) -> None:
    """Place the bars of each panel."""
    panels: dict[tuple[str, str], list[Trace]] = {}
    for trace in traces:
        if trace["type"] == "bar":
            panels.setdefault((trace["xaxis"], trace["yaxis"]), []).append(trace)
    gap = layout.get("bargap")
    for bars in panels.values():
        lay_out_bars(bars, layout.get("barmode") or "group", 0.2 if gap is None else gap)


def _axes(traces: Sequence[Trace], layout: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of every axis that something lies on, by its short name."""
    names = dict.fromkeys(name for trace in traces for name in (trace["xaxis"], trace["yaxis"]))
    settings = {name: dict(layout.get(f"{name[0]}axis{name[1:]}") or {}) for name in names or ("x", "y")}
    for name, one in settings.items():
        one["vertical"] = name[0] == "y"
        if one.get("overlaying") in settings:
            one.setdefault("domain", settings[one["overlaying"]].get("domain") or [0, 1])
        one.setdefault("domain", [0, 1])
        _follow(one, settings)
    return settings


def _follow(one: dict[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """An axis that matches another takes its direction and range from it; its scale, from the axis it stands at."""
    led_by = settings.get(one.get("matches") or "", {})
    one |= {name: led_by[name] for name in LED if name in led_by}
    if led_by.get("scaleanchor"):
        one["scaleanchor"] = one.get("anchor")


def _taken(
    traces: Sequence[Trace], shapes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, list[Extent]]:
    """What traces, and shapes between numbers, take of every axis; axes that match have the same."""
    groups: dict[str, list[Extent]] = {}
    of = {name: one["matches"] if one.get("matches") in settings else name for name, one in settings.items()}
    for trace in traces:
        for name, extent in zip((trace["xaxis"], trace["yaxis"]), MARKS[trace["type"]].takes(trace), strict=True):
            groups.setdefault(of[name], []).append(extent)
    for one, side in itertools.product(shapes, "xy"):
        own = groups.get(of.get(one.get(f"{side}ref") or side, ""), [])
        ends = [one.get(f"{side}{end}") for end in (0, 1)]
        values = [*ends, *itertools.chain.from_iterable(extent.values for extent in own)]
        if own and None not in ends and not any(isinstance(value, str) for value in values):
            own.append(Extent(values=ends))
    return {name: groups.get(of[name], []) for name in settings}


def _placed(
    settings: Mapping[str, dict[str, Any]], taken: Mapping[str, list[Extent]], room: Room, layout: Mapping[str, Any]
) -> dict[str, Axis]:
    strict, axes = layout.get("autotypenumbers") == "strict", {}
    for name, one in settings.items():
        begin, end = (room.left, room.right) if name[0] == "x" else (room.bottom, room.top)
        low, high = one["domain"]
        axes[name] = made(one, taken[name], (begin + low * (end - begin), begin + high * (end - begin)), strict=strict)
    for name, one in settings.items():
        if (other := one.get("scaleanchor")) in axes:
            axes[name], axes[other] = _alike(axes[name], axes[other], one.get("scaleratio") or 1)
    return axes


def _alike(one: Axis, other: Axis, ratio: float) -> tuple[Axis, Axis]:
    """Two axes of the same scale: the one with the larger units is made shorter, around its middle."""
    unit = min(one.length / _range(one) / ratio, other.length / _range(other))

    def shorter(axis: Axis, length: float) -> Axis:
        middle, half = sum(axis.pixels) / 2, length / 2
        sign = 1 if axis.pixels[1] > axis.pixels[0] else -1
        return replace(axis, pixels=(middle - sign * half, middle + sign * half))

    return shorter(one, unit * ratio * _range(one)), shorter(other, unit * _range(other))


def _range(axis: Axis) -> float:
    return abs(axis.ends[1] - axis.ends[0])


# --------------------------------------------------------------------------------------------------------- margins


def _room(
    axes: Mapping[str, Axis],
    layout: Mapping[str, Any],
    width: float,
    height: float | None,
    title: str,
    legend: Sequence[Trace],
    colourings: Sequence[Colouring],
) -> tuple[Room, Rows]:
    """The sides of the plot, so that all texts have room; and the rows of a legend below it, if it is there."""
    named = layout.get("legend") or {}
    flat = bool(legend) and (named.get("orientation") == "h" or width <= NARROW)
    rows = legend_rows(legend, title_of(named), width - 2 * EDGE) if flat else []
    across, down = ([axis for name, axis in axes.items() if name[0] == side] for side in "xy")
    at_left = [beside(axis) for axis in down if _first(axis, axes)]
    at_right = [beside(axis) for axis in down if axis.settings.get("side") == "right"]
    left = EDGE + max(at_left, default=0.0)
    lasts = [
        width_of(plain(ticks[-1][1]), TICK) / 2 for one in across if (ticks := shown_ticks(one)) and not angle_of(one)
    ]
    right = width - EDGE - max([*at_right, *lasts, 6.0]) - sum(map(bar_width, colourings))
    right -= 0.0 if flat else legend_width(legend, title_of(named))
    margin = {"t": 100, "b": 80} | (layout.get("margin") or {})
    plot = max((layout.get("height") or HEIGHT) - margin["t"] - margin["b"], LEAST)
    top = EDGE + (len(title.split("\n")) * HEADING * LINE + 10 if title else 6)
    lowest = max(map(below, across), default=0.0)
    top += _above(layout)
    under = lowest + EDGE + (ROW * len(rows) + 8 if rows else 0)
    if height is not None:
        plot = max(height - top - under, LEAST)
    return Room(left, max(right, left + LEAST), top, top + plot, top + plot + under), rows


def _first(axis: Axis, axes: Mapping[str, Axis]) -> bool:
    """Whether an axis that runs down stands at the left of the whole."""
    anchor = axes.get(axis.settings.get("anchor") or "x")
    return axis.settings.get("side") != "right" and (anchor is None or anchor.settings["domain"][0] == 0)


def _above(layout: Mapping[str, Any]) -> float:
    """How many pixels annotations need above the plot, the names of its panels."""
    for one in layout.get("annotations") or []:
        if one.get("yref") == "paper" and (one.get("y") or 0) > 0.999 and one.get("yanchor") == "bottom":
            return 18.0
    return 0.0


def _colourings(traces: Sequence[Trace]) -> list[Colouring]:
    """Those that have a colour bar, a shared one once."""
    found: dict[Any, Colouring] = {}
    for order, trace in enumerate(traces):
        one = trace["colouring"]
        if one is not None and one.bar is not None:
            found.setdefault(one.name or order, one)
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------- panels


def _panels(
    traces: Sequence[Trace],
    shapes: Sequence[Mapping[str, Any]],
    frame: Frame,
    layout: Mapping[str, Any],
    ink: Ink,
    night: Night,
) -> list[str]:
    """The panels one after the other: ground, shapes below, grid, marks, texts; then the shapes above all."""
    body, axes = [], frame.axes
    pairs = dict.fromkeys((trace["xaxis"], trace["yaxis"]) for trace in traces) or [("x", "y")]
    for x, y in ((axes[a], axes[b]) for a, b in pairs):
        ground = layout.get("plot_bgcolor")
        if ground and "overlaying" not in y.settings:
            (left, right), (top, bottom) = sorted(x.pixels), sorted(y.pixels)
            body.append(tag("rect", x=left, y=top, width=right - left, height=bottom - top, fill=ground))
    body += [shape(one, frame) for one in shapes if one.get("layer") == "below"]
    for a, b in pairs:
        x, y = axes[a], axes[b]
        own = _below_known([one for one in traces if (one["xaxis"], one["yaxis"]) == (a, b)], x, y)
        body.append(grid(x, y, ink))
        marks = [mark.draw(one, x, y, night) for kind, mark in MARKS.items() for one in own if one["type"] == kind]
        body.append(_within("".join(marks), x, y))
    body += [shape(one, frame) for one in shapes if one.get("layer") != "below"]
    for name, axis in axes.items():
        settings = axis.settings
        anchor = axes.get(settings.get("anchor") or ("y" if name[0] == "x" else "x"))
        across = frame.paper[name[0] == "x"] if anchor is None else anchor
        if name[0] == "x":
            body.append(texts_below(axis, max(across.pixels), ink))
        else:
            right = settings.get("side") == "right"
            body.append(texts_beside(axis, max(across.pixels) if right else min(across.pixels), ink, right=right))
    return body


def _below_known(traces: Sequence[Trace], x: Axis, y: Axis) -> Sequence[Trace]:
    """The traces, of which those that fill down to the one before know its points."""
    before: Trace | None = None
    for trace in traces:
        if trace.get("fill") == "tonexty" and before is not None:
            points = [(x.place(a), y.place(b)) for a, b in zip(before["x"], before["y"], strict=True)]
            trace["below"] = [one for one in points if None not in one]
        before = trace if trace["type"] == "scatter" else before
    return traces


def _within(marks: str, x: Axis, y: Axis) -> str:
    """Marks that are cut off at the sides of the panel, if its ends were asked for."""
    if not any(axis.settings.get("range") for axis in (x, y)):
        return marks
    (left, right), (top, bottom) = sorted(x.pixels), sorted(y.pixels)
    box: dict[str, Any] = dict(x=left, y=top, width=right - left, height=bottom - top)
    view = f"{left:g} {top:g} {right - left:g} {bottom - top:g}"
    return tag("svg", marks, **box, viewBox=view)
