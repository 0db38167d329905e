"""What a figure of plotly's says, as its own script would read it: with its template, its defaults, and plain lists."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp_hooks.views.drawing.elements import Scale
from interp_hooks.views.drawing.histograms import as_bars
from interp_hooks.views.drawing.marks import MARKS
from interp_hooks.views.drawing.scales import Undrawable
from interp_hooks.views.drawing.traces import Colouring, Trace

COLOURWAY = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
SCALE = [[0.0, "#440154"], [0.25, "#3b528b"], [0.5, "#21918c"], [0.75, "#5ec962"], [1.0, "#fde725"]]
NOT_DRAWN = ("updatemenus", "sliders", "images", "selections")
LINES_UP_TO = 20  # points that a trace of no stated mode marks


def read(figure: go.Figure) -> tuple[list[Trace], dict[str, Any]]:
    """The traces that are visible and the layout, both with what the template adds.

    Raises:
        Undrawable: a trace or a part of the layout that is not drawn here.
    """
    told = _plain(figure.to_plotly_json())
    layout = told.get("layout", {})
    template = layout.pop("template", {})
    layout = _layout(template.get("layout", {}), layout)
    if found := [name for name in NOT_DRAWN if layout.get(name)]:
        raise Undrawable(found[0])
    colours, traces = layout.get("colorway") or COLOURWAY, []
    for order, one in enumerate(told.get("data", [])):
        kind = one.get("type", "scatter")
        defaults = template.get("data", {}).get(kind) or [{}]
        trace = _merged(defaults[order % len(defaults)], one)
        trace["type"] = {"scattergl": "scatter"}.get(kind, kind)
        if kind == "histogram":
            trace = as_bars(trace, told["data"])
            layout.setdefault("bargap", 0.0)
        if trace["type"] not in MARKS:
            raise Undrawable(f"a trace of type {kind!r}")
        if trace.get("visible", True) is True:
            traces.append(_with_defaults(trace, colours[order % len(colours)], layout))
    return traces, layout


def _plain(value: Any) -> Any:
    """Nested dicts and lists of Python's own numbers and texts, also of arrays as plotly packs them; None for nan."""
    if isinstance(value, Mapping) and "bdata" in value:
        array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        shape = [int(size) for size in str(value.get("shape", len(array))).split(",")]
        return _plain(array.reshape(shape))
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _merged(below: Any, above: Any) -> Any:
    """The second, with what only the first has."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: _merged(below.get(key), one) for key, one in above.items()}}
    return below if above is None else above


def _layout(template: Mapping[str, Any], layout: dict[str, Any]) -> dict[str, Any]:
    whole = _merged(template, layout)
    for name in [*whole]:
        kind = name.rstrip("0123456789")
        if kind in ("xaxis", "yaxis", "coloraxis"):
            whole[name] = _merged(template.get(kind, {}), whole[name])
    return whole


def _with_defaults(trace: Trace, colour: str, layout: Mapping[str, Any]) -> Trace:
    trace.setdefault("xaxis", "x")
    trace.setdefault("yaxis", "y")
    trace.setdefault("opacity", None)
    trace["colouring"] = None
    if trace["type"] == "heatmap":
        return _heat_map(trace, layout)
    marker, line = dict(trace.get("marker") or {}), dict(trace.get("line") or {})
    flat = trace.get("orientation") == "h" and trace["type"] == "bar"
    trace["orientation"] = "h" if flat else "v"
    counted, other = ("y", "x") if flat else ("x", "y")
    given = trace.get(other) or []
    trace.setdefault(counted, None)
    if trace[counted] is None:
        begin, step = trace.get(f"{counted}0", 0), trace.get(f"d{counted}", 1)
        trace[counted] = [begin + place * step for place in range(len(given))]
    trace[other] = given or [*range(len(trace[counted]))]
    trace["x"], trace["y"] = zip(*zip(trace["x"], trace["y"], strict=False), strict=True) if given else ([], [])
    trace["x"], trace["y"] = list(trace["x"]), list(trace["y"])
    own = line.get("color") or marker.get("color")
    if marker.get("color") is None:
        marker["color"] = line.get("color") or colour
    line["color"] = line.get("color") or (own if isinstance(own, str) else colour)
    trace["marker"], trace["line"] = marker, line
    few = "lines+markers" if len(trace["x"]) < LINES_UP_TO else "lines"
    trace["mode"] = trace.get("mode") or few
    if isinstance(marker["color"], list) and any(isinstance(one, int | float) for one in marker["color"]):
        numbers = [one for one in marker["color"] if isinstance(one, int | float)]
        trace["colouring"] = _colouring(marker, "c", numbers, layout)
    return trace


def _heat_map(trace: Trace, layout: Mapping[str, Any]) -> Trace:
    z = trace.get("z") or []
    if not z or not z[0]:
        raise Undrawable("a heat map without cells")
    trace["x"] = trace.get("x") or [*range(len(z[0]))]
    trace["y"] = trace.get("y") or [*range(len(z))]
    numbers = [cell for row in z for cell in row if cell is not None]
    trace["colouring"] = _colouring(trace, "z", numbers, layout)
    trace["empty"] = layout.get("plot_bgcolor") or "#ffffff"
    return trace


def _colouring(given: Mapping[str, Any], letter: str, numbers: Sequence[float], layout: Mapping[str, Any]) -> Colouring:
    """How the numbers of a trace are coloured: as the trace says, or its colour axis."""
    name = given.get("coloraxis") or ""
    if name:
        given, letter = layout.get(name, {}), "c"
    stops = given.get("colorscale") or layout.get("colorscale", {}).get("sequential") or SCALE
    if given.get("reversescale"):
        stops = [[1 - place, colour] for place, colour in reversed(stops)]
    low, high = given.get(f"{letter}min"), given.get(f"{letter}max")
    low = min(numbers, default=0.0) if low is None else low
    high = max(numbers, default=1.0) if high is None else high
    middle = given.get(f"{letter}mid")
    if middle is not None:
        reach = max(high - middle, middle - low)
        low, high = middle - reach, middle + reach
    shown = given.get("showscale", bool(name) or letter == "z")
    return Colouring(
        scale=Scale(stops), low=low, high=high, bar=given.get("colorbar") or {} if shown else None, name=name
    )
