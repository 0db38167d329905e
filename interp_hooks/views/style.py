"""What all figures share: colours, fonts, spacing, and the words for axes and metrics.

Blue is towards the answer (positive), red away from it (negative), white is exactly 0. Every figure gets all of this as
its own template, so that plotly's global settings are neither read nor changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from interp_hooks.views.adapting import ALONE, DEEP, FAINT, INK, NEGATIVE, PALE_NEGATIVE, PALE_POSITIVE, PAPER, POSITIVE
from interp_hooks.views.alt_texts import alt_text
from interp_hooks.views.tokens import escaped

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DIVERGING = [[0.0, NEGATIVE], [0.25, PALE_NEGATIVE], [0.5, PAPER], [0.75, PALE_POSITIVE], [1.0, POSITIVE]]
SEQUENTIAL = [[0.0, PAPER], [0.5, PALE_POSITIVE], [1.0, DEEP]]

NO_BUTTONS = ("sendChartToCloud", "select2d", "lasso2d")  # the first uploads the chart to plotly's server
TOKEN_AXES = ("pos", "query", "key")
AXIS_TITLES = {
    "pos": "token position",
    "query": "query (the token that attends)",
    "key": "key (the token attended to)",
}
METRIC_TITLES = {
    "logit": "logit (nats)",
    "logit_diff": "logit difference (nats)",
    "logit_before_cap": "logit before the soft cap (nats)",
    "logit_diff_before_cap": "logit difference before the soft cap (nats)",
    "logprob_nats": "log-probability (nats)",
    "loss_nats": "loss (nats per token)",
    "in_context_score_nats": "in-context score (nats)",
    "recovered_fraction": "recovered fraction",
}

CONFIG = {"responsive": True, "displaylogo": False}  # the logo would lead to plotly's page
UNITS = ("nats", "bits")  # at the end of the name of a metric
ROW, FEWEST_PIXELS, MOST_PIXELS = 34, 190, 900  # height of a row, and of the rows together


class Figure(go.Figure):
    """A figure whose pages of its own suit a phone and dark mode, as reports do."""

    def to_html(self, config: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        """As plotly's; a page of its own follows its width and the reader's colour scheme."""
        config = {**CONFIG, **(config or {})}
        return super().to_html(config, *args, **_adapting(self, config, kwargs))

    def write_html(self, file: Any, config: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> None:
        """As plotly's; a page of its own follows its width and the reader's colour scheme."""
        config = {**CONFIG, **(config or {})}
        super().write_html(file, config, *args, **_adapting(self, config, kwargs))


def _adapting(figure: go.Figure, config: Mapping[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with the script that adapts a page; a part of another page is left to that page."""
    if not kwargs.get("full_html", True):
        return kwargs
    given = kwargs.get("post_script") or []
    told = json.dumps(alt_text(figure)).replace("<", "\\u003c")
    script = ALONE.replace("__CONFIG__", json.dumps(config)).replace("__WORDS__", told)
    return kwargs | {"post_script": [*([given] if isinstance(given, str) else given), script]}


def axis_title(axis: str) -> str:
    """An axis of a result in words."""
    return AXIS_TITLES.get(axis, axis.replace("_", " "))


def metric_title(metric: str) -> str:
    """A metric in words, with its unit."""
    words, _, unit = metric.rpartition("_")
    told = f"{words} ({unit})" if words and unit in UNITS else metric
    return METRIC_TITLES.get(metric, told.replace("_", " "))


def plot_height(rows: int, row: int = ROW) -> int:
    """The height in pixels of a plot of so many rows, without its surroundings."""
    return min(max(rows * row, FEWEST_PIXELS), MOST_PIXELS)


def words_below(count: int) -> dict[str, Any]:
    """Axis settings that turn the words below `count` columns, so that they do not overlap."""
    return dict(tickangle=-45) if count <= 32 else dict(tickangle=-90, tickfont=dict(size=10))


def cells(z: Sequence[Sequence[float | None]], hover: Sequence[Any], quantity: str, **look: Any) -> go.Heatmap:
    """A heat map of such cells, with a text for each and a bar that says what colours mean."""
    rows, columns = len(z), len(hover[0]) if hover else 0
    return go.Heatmap(
        z=z,
        x=list(range(columns)),
        y=list(range(rows)),
        colorbar=colour_bar(quantity),
        hovertext=hover,
        hoverinfo="text",
        xgap=int(columns <= 100),  # a thin line between cells, where there is room for it
        ygap=int(rows <= 100),
        **look,
    )


def colour_bar(title: str) -> dict[str, Any]:
    return dict(title=dict(text=escaped(title), side="right"), thickness=12, outlinewidth=0, ticks="", len=1.0)


def figure(
    trace: Any,
    *,
    title: str | None,
    height: int,
    x_title: str,
    y_title: str,
    xaxis: Mapping[str, Any],
    yaxis: Mapping[str, Any],
    background: str = PAPER,
) -> go.Figure:
    """A figure of one trace in the style of this package. `height` is that of the plot alone; titles are no markup."""
    heading = {} if title is None else dict(title=_heading(title))
    top = 34 if title is None else 60  # room for the buttons
    return Figure(
        trace,
        layout=dict(
            template=_template(),
            height=height + top + 90,
            margin=dict(l=60, r=20, t=top, b=60),
            plot_bgcolor=background,
            bargap=0.3,
            modebar=dict(remove=list(NO_BUTTONS)),
            xaxis=dict(title=dict(text=escaped(x_title)), **xaxis),
            yaxis=dict(title=dict(text=escaped(y_title)), autorange="reversed", **yaxis),
            **heading,
        ),
    )


def _heading(title: str) -> dict[str, Any]:
    """A title at the very top, so that a legend or the plot below it may grow."""
    place = dict(x=0, xref="paper", y=1, yref="container", yanchor="top", pad=dict(t=16))
    return place | dict(text=escaped(title), font=dict(size=15))


def _template() -> go.layout.Template:
    axis = dict(
        automargin=True,
        showgrid=False,
        zeroline=False,
        ticks="",
        ticklabelstandoff=5,
        title=dict(standoff=12),
        gridcolor=FAINT,
    )
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=12, color=INK),
            paper_bgcolor=PAPER,
            xaxis=axis,
            yaxis=axis,
            hoverlabel=dict(bgcolor=PAPER, bordercolor=FAINT, font=dict(family=FONT, color=INK), align="left"),
        )
    )
