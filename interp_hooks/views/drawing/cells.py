"""Heat maps: cells with their texts, or an image of very many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from interp_hooks.views.drawing.elements import Night, indexed_png, marked, plain, tag, text_on, width_of, words
from interp_hooks.views.drawing.scales import Axis, Extent
from interp_hooks.views.drawing.traces import LEVELS, Colouring, Trace, apart, filled

MOST_CELLS = 900  # of a heat map that is drawn cell by cell; a larger one is an image
SMALLEST = 7.0  # font size of numbers in cells; where there is room for less, there are none


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
            colour: str = colouring.colour(colouring.level(value), night)
            cells.append(tag("rect", x=left, y=top, width=width, height=height, fill=colour))
            if size and (text := texts[row][column]):
                middle = left + width / 2, top + height / 2
                read = text_on(colour, night.colours.get(colour, colour))
                cells.append(words(_cut(text, size, width - 4), *middle, size=size, colour=read))
    return "".join(cells)


def cells_take(trace: Trace) -> tuple[Extent, Extent]:
    """What a heat map takes of its axes: half a cell more than its places on both sides."""
    x, y = (Extent(values=trace[axis], around=0.5 * apart(trace[axis])) for axis in "xy")
    return x, y


def _spans(axis: Axis, values: Sequence[Any], gap: float) -> list[tuple[float, float]]:
    """Where each row or column begins and how wide it is, in pixels."""
    half = 0.5 if axis.kind == "category" else 0.5 * apart(values)
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
