"""A training as a figure: a panel for each measure, steps on a logarithmic axis, phase changes as bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.studies.training_runs.changes import PhaseChange, PhaseChanges
from interp_hooks.studies.training_runs.watching import WatchedTraining, curves_of
from interp_hooks.views.adapting import FAINT, INK, MUTED, NEGATIVE, PALE_NEGATIVE, PALE_POSITIVE, POSITIVE
from interp_hooks.views.style import figure, metric_title
from interp_hooks.views.tokens import escaped

PANEL, GAP = 170, 54  # pixels
OTHERS = 200  # grey curves of a panel
LINES = (POSITIVE, NEGATIVE, PALE_POSITIVE, PALE_NEGATIVE, INK)


@checked
def training_figure(
    watched: WatchedTraining,
    changes: PhaseChanges | None = None,
    *,
    measures: Sequence[str] | None = None,
    top: Count = 4,
    title: str | None = None,
) -> go.Figure:
    """Draw what measures gave over a training, a panel below the other, with the phase changes marked.

    Of a grid the `top` cells that moved most are coloured and named, the next 200 grey. A dotted line is where half of
    an event was done; a grey band lies behind the measures that are part of it, from the step where the first of their
    cells began to move to that where the last had. The axis is 1 + step, logarithmic, so that step 0 has a place.

    Raises:
        BadInput: a measure that there is not, none at all, or a `top` outside 1..5.

    >>> from interp_hooks.studies import WeightNorms, watch_training
    >>> from interp_hooks.views import training_figure
    >>> training_figure(watch_training("mod-add", {"norm": WeightNorms()})).write_html("training.html")
    """
    names = list(watched.results if measures is None else measures)
    if not names or not 1 <= top <= len(LINES):
        raise BadInput(f"expected at least one measure and a top of 1..{len(LINES)}, got {names} and {top}")
    traces, x = [], [1 + step for step in watched.steps]
    for panel, name in enumerate(names):
        labels, curves = curves_of(watched[name])
        span = curves.amax(0) - curves.amin(0)
        order = span.argsort(descending=True, stable=True).tolist()
        if len(order) > top:
            traces.append(_others(x, curves[:, order[top : top + OTHERS]], panel))
        for colour, cell in zip(LINES, order[:top], strict=False):
            traces.append(_line(x, watched.steps, curves[:, cell], f"{name} {labels[cell]}".strip(), colour, panel))
    whole = len(names) * PANEL + (len(names) - 1) * GAP
    drawn = figure(
        traces,
        title=title,
        height=whole,
        x_title="1 + step",
        y_title="",
        xaxis=dict(type="log", exponentformat="none", anchor=_axis(len(names) - 1), showgrid=True, gridcolor=FAINT),
        yaxis={},
    )
    ends = [1 - panel * (PANEL + GAP) / whole for panel in range(len(names))]
    for panel, (name, end) in enumerate(zip(names, ends, strict=True)):
        place = dict(domain=[max(0.0, end - PANEL / whole), end], autorange=True, anchor="x", automargin=True)
        drawn.update_layout({f"yaxis{panel + 1 if panel else ''}": place | dict(showgrid=True, gridcolor=FAINT)})
        drawn.add_annotation(
            text=f"<b>{escaped(_titled(watched, name))}</b>",
            **dict(x=0, xref="paper", xanchor="left", y=end, yref="paper", yanchor="bottom", showarrow=False),
        )
    for event in [] if changes is None else changes.events():
        shown = [one for one in event if one.measure in names]
        for panel, name in enumerate(names):
            _band(drawn, [one for one in shown if one.measure == name], panel)
        if shown:
            _middle(drawn, shown[0])
    return drawn.update_layout(showlegend=True, legend=_legend(whole))


def _axis(panel: int) -> str:
    return f"y{panel + 1 if panel else ''}"


def _titled(watched: WatchedTraining, name: str) -> str:
    """A measure and what it gives, with its unit, where that is not the same word."""
    metric = metric_title(watched[name].metric)
    words = name.replace("_", " ")
    return words if metric == words else f"{words}: {metric}"


def _line(x: list[int], steps: Sequence[int], curve: Tensor, name: str, colour: str, panel: int) -> go.Scatter:
    hover = [f"{escaped(name)}<br>step {step}: {value:.4g}" for step, value in zip(steps, curve.tolist(), strict=True)]
    return go.Scatter(
        x=x,
        y=curve.tolist(),
        name=escaped(name),
        mode="lines+markers",
        line=dict(color=colour, width=2),
        marker=dict(size=5),
        hovertext=hover,
        hoverinfo="text",
        yaxis=_axis(panel),
    )


def _others(x: list[int], curves: Tensor, panel: int) -> go.Scatter:
    """The curves of other cells as one grey trace, with gaps between them."""
    places = [place for _ in range(curves.shape[1]) for place in (*x, None)]
    values = [value for curve in curves.T.tolist() for value in (*curve, None)]
    style = dict(mode="lines", line=dict(color=MUTED, width=0.8), opacity=0.5)
    return go.Scatter(x=places, y=values, yaxis=_axis(panel), hoverinfo="skip", showlegend=False, **style)


def _band(drawn: go.Figure, changes: Sequence[PhaseChange], panel: int) -> None:
    """The band in the panel of a measure, behind what changed there."""
    if not changes:
        return
    x = dict(x0=1 + min(one.begin for one in changes), x1=1 + max(one.end for one in changes), xref="x")
    y = dict(y0=0, y1=1, yref=f"{_axis(panel)} domain", layer="below")
    drawn.add_shape(type="rect", fillcolor=FAINT, opacity=0.6, line_width=0, **x, **y)


def _middle(drawn: go.Figure, change: PhaseChange) -> None:
    """The line through all panels where half of a change was done, with the number of its event."""
    x = 1 + change.at
    shape = dict(x0=x, x1=x, xref="x", y0=0, y1=1, yref="paper", layer="below")
    drawn.add_shape(type="line", line=dict(color=INK, width=1, dash="dot"), **shape)
    drawn.add_annotation(
        text=str(change.event),
        hovertext=f"change {change.event}: steps {change.begin} to {change.end}, half done by {change.at:.0f}",
        **dict(x=math.log10(x), xref="x", y=1, yref="paper", yanchor="top", xanchor="left"),
        **dict(showarrow=False, font=dict(size=12)),
    )


def _legend(plot: int) -> dict[str, Any]:
    return dict(orientation="h", y=-58 / plot, yanchor="top", x=0, font=dict(size=11))
