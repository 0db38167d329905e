"""The traces that can be drawn: of each kind how much it takes of its axes, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from interp_hooks.views.drawing.cells import cells_take, heat_map
from interp_hooks.views.drawing.columns import bars, bars_take
from interp_hooks.views.drawing.elements import Night
from interp_hooks.views.drawing.points import points_take, scatter
from interp_hooks.views.drawing.scales import Axis, Extent
from interp_hooks.views.drawing.traces import Trace


class Mark(NamedTuple):
    """What a trace of one kind takes of its x and y axis, and its drawing on these."""

    takes: Callable[[Trace], tuple[Extent, Extent]]
    draw: Callable[[Trace, Axis, Axis, Night], str]


MARKS = {  # in the order in which they lie over each other
    "heatmap": Mark(cells_take, heat_map),
    "bar": Mark(bars_take, bars),
    "scatter": Mark(points_take, scatter),
}
