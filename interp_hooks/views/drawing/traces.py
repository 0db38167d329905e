"""What all marks of a figure need: colours of numbers, values one by one, error bars, templates of texts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp_hooks.views.adapting import INK
from interp_hooks.views.drawing.elements import Night, Scale, number, tag
from interp_hooks.views.drawing.scales import Axis, Undrawable

Trace = dict[str, Any]  # as `reading.read` gives it

LEVELS = 200  # colours of a scale, and one more; an even number, so that the middle is one of them


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


def colour_of(trace: Trace, order: int, night: Night) -> str:
    """The colour of a bar or a point."""
    value = one_of(trace["marker"]["color"], order)
    if trace.get("colouring") is not None and isinstance(value, int | float):
        return trace["colouring"].colour(trace["colouring"].level(value), night)
    return str(value)


def opacity_of(trace: Trace, order: int) -> float | None:
    """How opaque a bar or a point is; None is wholly."""
    own = one_of(trace["marker"].get("opacity"), order)
    if own is None and trace["opacity"] is None:
        return None
    return (1.0 if own is None else own) * (1.0 if trace["opacity"] is None else trace["opacity"])


def one_of(values: Any, order: int) -> Any:
    return values[order] if isinstance(values, list) else values


def apart(values: Sequence[Any]) -> float:
    """The smallest distance of two numbers; 1 if there is none."""
    numbers = sorted({float(one) for one in values if isinstance(one, int | float)})
    return min((b - a for a, b in itertools.pairwise(numbers)), default=1.0)


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


def with_errors(trace: Trace, axis: str, end: str) -> list[tuple[float, float]]:
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


def error_bars(trace: Trace, x: Axis, y: Axis) -> str:
    """The error bars of bars and points, with their ends."""
    drawn = []
    for axis, own in (("x", x), ("y", y)):
        errors = trace.get(f"error_{axis}") or {}
        if not with_errors(trace, axis, "plus"):
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
