"""Histograms as bars: how many numbers lie in each of some bins of equal width, the same for all traces of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from interp_hooks.views.drawing.scales import Undrawable, nice

NORMS = ("", "count", "probability", "percent")


def as_bars(trace: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A histogram as a trace of bars, whose bins are shared with the histograms among these traces.

    Raises:
        Undrawable: a histogram of texts, of sums, with densities or cumulated, or in two directions.
    """
    axis = "y" if trace.get("y") is not None else "x"
    odd = trace.get("histfunc", "count") != "count" or (trace.get("cumulative") or {}).get("enabled")
    if odd or (trace.get("histnorm") or "") not in NORMS or not all(map(_is_number, trace[axis])):
        raise Undrawable("a histogram of something else than counts of numbers")
    together = [one for other in among if other.get("type") == "histogram" for one in other.get(axis) or []]
    first, width, n = _bins(trace, axis, [one for one in together if _is_number(one)])
    counts = [0.0] * n
    for value in trace[axis]:
        counts[min(max(math.floor((value - first) / width + 1e-9), 0), n - 1)] += 1
    whole = {"probability": 1.0, "percent": 100.0}.get(trace.get("histnorm") or "")
    heights = counts if whole is None else [whole * count / max(len(trace[axis]), 1) for count in counts]
    middles = [first + (place + 0.5) * width for place in range(n)]
    other, flat = ("y", False) if axis == "x" else ("x", True)
    made = {"type": "bar", axis: middles, other: heights, "orientation": "h" if flat else "v", "bins": width}
    return {**trace, **made}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _bins(trace: Mapping[str, Any], axis: str, values: Sequence[float]) -> tuple[float, float, int]:
    """Where the first bin begins, how wide bins are, and how many there are."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    given = trace.get(f"{axis}bins") or {}
    most = trace.get(f"nbins{axis}") or max(5, min(40, round(2 * len(values) ** 0.5)))
    width = given.get("size") or nice(((high - low) or 1.0) / most)
    first = given.get("start")
    first = width * math.floor(low / width + 1e-9) if first is None else first
    end = given.get("end")
    return first, width, max(1, math.ceil(((high if end is None else end) - first) / width + (end is None) * 1e-6))
