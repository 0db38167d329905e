"""Two measures of the same parts against each other: each a point, those that stand out with their name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.views.adapting import FAINT, INK, MUTED, POSITIVE
from interp_hooks.views.figures import Value, errors_of, shown_of
from interp_hooks.views.style import axis_title, figure
from interp_hooks.views.tokens import escaped

PLOT = 380  # pixels


@checked
def head_scatter(
    across: Result,
    down: Result,
    value: Value | None = None,
    *,
    measures: tuple[str, str] | None = None,
    names: Sequence[str] | None = None,
    label: Count = 6,
    title: str | None = None,
) -> go.Figure:
    """Draw two results over the same cells against each other, heads mostly: the first across, the second upwards.

    `value` is as in `heatmap`. The `label` cells that lie farthest from the median, in standard deviations of both
    measures, are blue, have their name, and bars of one standard error where there are several prompts. `measures` are
    words for the two, which stand before what their axes show; `names` are the names of all cells in the table's order,
    by default "L1H2" for layer 1 and head 2.

    >>> from interp_hooks.views import head_scatter
    >>> patched = patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False)
    >>> lost = ablate(model, clean, metric, "z", progress=False)
    >>> figure = head_scatter(patched, lost, "change", measures=("patched", "ablated"), title="Brought back, and lost")
    >>> figure.data[1].text[0][:1]
    'L'

    Raises:
        BadInput: results of different cells, or as many names as there are no cells.
    """
    if {axis: list(labels) for axis, labels in across.axes.items()} != {
        axis: list(labels) for axis, labels in down.axes.items()
    }:
        told = [", ".join(f"{len(labels)} {axis}" for axis, labels in one.axes.items()) for one in (across, down)]
        raise BadInput(f"expected two results over the same labelled cells, got {told[0]} and {told[1]}")
    texts = _names(across) if names is None else list(names)
    if len(texts) != across.mean.numel():
        raise BadInput(f"names must name each of {across.mean.numel()} cells, got {len(texts)}")
    (x, x_title, _), (y, y_title, _) = (shown_of(one, value) for one in (across, down))
    x, y = x.flatten(), y.flatten()
    if measures is not None:
        x_title, y_title = f"{measures[0]}: {x_title}", f"{measures[1]}: {y_title}"
    errors = [errors_of(one, value or "mean").flatten() for one in (across, down)]
    far = _distance(x, y).argsort(descending=True, stable=True)[:label].tolist()
    rest = [place for place in range(len(texts)) if place not in far]
    hover = [
        f"{escaped(text)}<br>{escaped(x_title)}: {float(a):.4g}<br>{escaped(y_title)}: {float(b):.4g}"
        for text, a, b in zip(texts, x, y, strict=True)
    ]

    def points(places: Sequence[int], **look: Any) -> go.Scatter:
        told = dict(hovertext=[hover[place] for place in places], hoverinfo="text")
        return go.Scatter(x=x[list(places)].tolist(), y=y[list(places)].tolist(), **told, **look)

    bars = [dict(type="data", array=one[far].tolist(), color=INK, thickness=1, width=2) for one in errors]
    known = [bool(one[far].isfinite().all()) for one in errors]
    drawn = figure(
        [
            points(rest, mode="markers", marker=dict(color=MUTED, size=6), name="others"),
            points(
                far,
                mode="markers+text",
                marker=dict(color=POSITIVE, size=8),
                text=[escaped(texts[place]) for place in far],
                textposition="top right",
                textfont=dict(size=11, color=INK),
                error_x=bars[0] | dict(visible=known[0]),
                error_y=bars[1] | dict(visible=known[1]),
                name="farthest from the median",
            ),
        ],
        title=title,
        height=PLOT,
        x_title=x_title,
        y_title=y_title,
        xaxis=dict(showgrid=True, gridcolor=FAINT, zeroline=True, zerolinecolor=MUTED),
        yaxis=dict(showgrid=True, gridcolor=FAINT, zeroline=True, zerolinecolor=MUTED),
    )
    return drawn.update_layout(yaxis=dict(autorange=True), showlegend=False)


def _names(result: Result) -> list[str]:
    """The names of all cells."""
    if [*result.axes] == ["layer", "head"]:
        return [f"L{layer}H{head}" for layer in result.axes["layer"] for head in result.axes["head"]]
    rows = result.table()[[*result.axes]].itertuples(index=False)
    if len(result.axes) == 1:
        return [str(row[0]) for row in rows]
    return [", ".join(f"{axis_title(a)} {one}" for a, one in zip(result.axes, row, strict=True)) for row in rows]


def _distance(x: Float[Tensor, " cell"], y: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """How far each cell is from the median of both measures, in their standard deviations; 0 of what is no number."""
    parts = [((one - one.nanmedian()) / one.std().clamp(min=1e-30)).nan_to_num(0.0) for one in (x.double(), y.double())]
    return torch.stack(parts).square().sum(0)
