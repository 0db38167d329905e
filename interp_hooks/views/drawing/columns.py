"""Bars: beside each other, on each other, or over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp_hooks.views.adapting import INK
from interp_hooks.views.drawing.elements import Night, tag, words
from interp_hooks.views.drawing.scales import Axis, Extent
from interp_hooks.views.drawing.traces import Trace, apart, colour_of, error_bars, filled, opacity_of, with_errors


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
    unit = apart([value for trace, axis in zip(traces, across, strict=True) for value in trace[axis]])
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


def bars_take(trace: Trace) -> tuple[Extent, Extent]:
    """What bars take of their axes: from 0 to their ends, with their error bars, and their widths."""
    bars, along = trace["bars"], "x" if trace["orientation"] == "h" else "y"
    ends = [end for bar in bars for end in (bar.base, bar.end)]
    for end in ("minus", "plus"):
        ends += [value - error for value, error in with_errors(trace, along, end)]
    long = Extent(values=ends, air=True, from_zero=True)
    across = Extent(values=[bar.place for bar in bars], around=0.5 * max((bar.unit for bar in bars), default=1.0))
    return (long, across) if along == "x" else (across, long)


def bars(trace: Trace, x: Axis, y: Axis, night: Night) -> str:
    """Bars with their error bars and texts."""
    flat = trace["orientation"] == "h"
    long, across = (x, y) if flat else (y, x)
    pixels = (across.pixels[1] - across.pixels[0]) / (across.ends[1] - across.ends[0])
    drawn = []
    for order, bar in enumerate(trace["bars"]):
        middle = across.place(bar.place)
        begin, end = _foot(long, bar.base), long.place(bar.end)
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


def _foot(axis: Axis, base: float) -> float | None:
    """The pixel at which a bar begins: its base, or the end of a logarithmic axis, which has no 0."""
    return axis.share(0.0) if axis.kind == "log" and base <= 0 else axis.place(base)


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
