"""Figures of a `Result`: a heat map of two axes, bars of one.

The first axis runs down the page and starts at the top, so layer 0 is the top row and the model is read downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import plotly.graph_objects as go
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.views.adapting import FAINT, INK, NEGATIVE, POSITIVE
from interp_hooks.views.style import (
    DIVERGING,
    TOKEN_AXES,
    axis_title,
    cells,
    figure,
    metric_title,
    plot_height,
    words_below,
)
from interp_hooks.views.tokens import escaped, ticks, visible

Value = Literal["mean", "change", "recovered_fraction"]
Labels = Mapping[str, Sequence[Any]]

SMALLEST_FRACTION = 0.1  # a map of recovered fractions spans at least +-this, so that rounding noise stays pale
NUMBERS_UP_TO = 20  # columns; narrower cells have no room for their number


@checked
def heatmap(
    result: Result, value: Value | None = None, *, labels: Labels | None = None, title: str | None = None
) -> go.Figure:
    """Draw a result with two axes as a heat map. The first axis runs down the page; colours are symmetric around 0.

    `value` says which number each cell shows: "mean" (of the metric, over prompts), "change" (of that mean, from the
    baseline that counts as 0, or from the only baseline) or "recovered_fraction". By default it is the fraction where
    that is defined, else the mean. `labels` name the entries of an axis.

    >>> result = patch(model, clean, corrupt, metric, "resid_pre", progress=False)
    >>> figure = heatmap(result, labels={"pos": pairs.labels})
    >>> figure.write_html("patching.html")

    Raises:
        BadInput: another number of axes, labels that do not fit, or a value that is not defined.
    """
    if len(result.axes) != 2:
        raise BadInput(f"heatmap() draws two axes, this result has {_named(result.axes)}; {_elsewhere(result)}")
    y, x = result.axes
    texts = _texts(result, labels or {})
    numbers, quantity, least = shown_of(result, value)
    z = _numbers(numbers.tolist())
    limit = _limit(z, least)
    hover, number = _hover(result, texts, escaped(quantity), z), "%{z:.2f}" if limit >= 0.1 else "%{z:.0e}"
    look = dict(zmin=-limit, zmax=limit, colorscale=DIVERGING)
    trace = cells(z, hover, quantity, texttemplate=number if len(texts[x]) <= NUMBERS_UP_TO else None, **look)
    return figure(
        trace,
        title=title,
        height=plot_height(len(texts[y])),
        x_title=axis_title(x),
        y_title=axis_title(y),
        xaxis=ticks(texts[x]) | (words_below(len(texts[x])) if x in (labels or {}) else {}),
        yaxis=ticks(texts[y]),
        background=FAINT,  # shows between the cells
    )


@checked
def bars(result: Result, value: Value = "mean", *, top: Positive | None = None, title: str | None = None) -> go.Figure:
    """Draw a result with one axis as bars, with the standard error over prompts.

    `value` is as in `heatmap`; a recovered fraction has no standard error. `top` keeps that many entries, those whose
    change from the baseline is largest in size (without a baseline, whose mean is), and puts the largest first; without
    it all are shown in the result's own order.

    >>> effects = direct_logit_attribution(model, clean, pairs.answer, pairs.wrong, unit="head")
    >>> figure = bars(effects, top=8, title="Which heads write the answer?")

    Raises:
        BadInput: another number of axes, or a `top` below 1.
    """
    if len(result.axes) != 1:
        raise BadInput(f"bars() draws one axis, this result has {_named(result.axes)}; {_elsewhere(result)}")
    axis, entries = next(iter(result.axes.items()))
    shown, quantity, _ = shown_of(result, value)
    means, errors = _numbers(shown.tolist()), _numbers(errors_of(result, value).tolist())
    order = list(range(len(entries)))
    if top is not None:
        sizes = _numbers((result.mean if result.reference is None else result.change).tolist())
        order = sorted(order, key=lambda place: -abs(sizes[place] or 0.0))[:top]
    texts = [_text(axis, entries[place]) for place in order]
    means, errors = [means[place] for place in order], [errors[place] for place in order]
    trace = go.Bar(
        x=means,
        y=list(range(len(order))),
        orientation="h",
        marker=dict(color=[POSITIVE if (mean or 0.0) > 0 else NEGATIVE for mean in means]),
        error_x=dict(type="data", array=errors, color=INK, thickness=1.2, width=3, visible=None not in errors),
        hovertext=[
            f"{escaped(text)}<br>{escaped(quantity)}: {_with_error(mean, error)}"
            for text, mean, error in zip(texts, means, errors, strict=True)
        ],
        hoverinfo="text",
    )
    return figure(
        trace,
        title=title,
        height=plot_height(len(order), row=24),
        x_title=quantity,
        y_title=axis_title(axis),
        xaxis=dict(showgrid=True, zeroline=True, zerolinecolor=INK),
        yaxis=ticks(texts),
    )


def _named(axes: Mapping[str, Any]) -> str:
    return f"{len(axes)} ({', '.join(axes)})"


def _elsewhere(result: Result) -> str:
    other = {1: "bars() draws one axis", 2: "heatmap() draws two axes"}
    return other.get(len(result.axes), "sweep over fewer axes (over=...), or use result.table()")


def shown_of(result: Result, value: Value | None) -> tuple[Tensor, str, float]:
    """The numbers to draw, what they are with their unit, and how large a number must at least be for full colour."""
    defined = result.scale is not None and not result.nothing_to_recover
    value = value or ("recovered_fraction" if defined else "mean")
    metric = metric_title(result.metric)
    if value == "mean":
        return result.mean, metric, 0.0
    if value == "change":
        return result.change, f"change of {metric}", 0.0
    if result.nothing_to_recover:
        raise BadInput(f"the recovered fraction is not defined: {result.note}; use value='mean'")
    return result.recovered_fraction, metric_title(value), SMALLEST_FRACTION


def errors_of(result: Result, value: Value) -> Tensor:
    """The standard error of what is drawn; nan where it is not known. A prompt's change is from its own baseline."""
    if value == "recovered_fraction":
        return result.mean * float("nan")
    reference = result.reference if value == "change" else None
    values = result.values if reference is None else result.values - result.baselines[reference]
    return replace(result, values=values).standard_error


def _texts(result: Result, labels: Labels) -> dict[str, list[str]]:
    """The text that stands at each entry of each axis: tokens with visible whitespace, other labels as they are.

    Raises:
        BadInput: labels for an axis that there is not, or too many or few.
    """
    unknown = [axis for axis in labels if axis not in result.axes]
    if unknown:
        raise BadInput(
            f"labels= names the axis {unknown[0]!r}; this result has {', '.join(result.axes)}."
            f"{nearest(unknown[0], result.axes)}"
        )
    texts = {}
    for axis, entries in result.axes.items():
        given = labels.get(axis, entries)
        if len(given) != len(entries):
            raise BadInput(f"labels for {axis!r}: expected {len(entries)}, got {len(given)}")
        texts[axis] = [_text(axis, one) for one in given]
    return texts


def _text(axis: str, label: Any) -> str:
    return visible(str(label)) if axis in TOKEN_AXES else str(label)


def _hover(result: Result, texts: Mapping[str, Sequence[str]], quantity: str, z: list[list[float | None]]) -> list[Any]:
    (y, y_entries), (x, x_entries) = result.axes.items()
    y_names = [_entry(y, entry, text) for entry, text in zip(y_entries, texts[y], strict=True)]
    x_names = [_entry(x, entry, text) for entry, text in zip(x_entries, texts[x], strict=True)]
    errors = _numbers(result.standard_error.tolist())
    metric = escaped(metric_title(result.metric))
    return [
        [
            f"{row_name}<br>{column_name}<br>"
            + (f"{quantity}: {_number(cell)}<br>" if quantity != metric else "")
            + f"{metric}: {_with_error(mean, error)}"
            for column_name, cell, mean, error in zip(x_names, row, means, row_errors, strict=True)
        ]
        for row_name, row, means, row_errors in zip(y_names, z, _numbers(result.mean.tolist()), errors, strict=True)
    ]


def _entry(axis: str, entry: Any, text: str) -> str:
    """An entry as hover text names it: 'layer 3', or 'token position 5: ·Mary' where labels were given."""
    name = f"{axis_title(axis).partition(' (')[0]} {entry}"
    return escaped(name if text == str(entry) else f"{name}: {text}")


def _with_error(mean: float | None, error: float | None) -> str:
    return _number(mean) if error is None else f"{_number(mean)} ± {error:.2g} (standard error)"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4g}"


def _numbers(nested: Any) -> Any:
    """The same nested lists with None for numbers that are not finite: an empty cell, and null in JSON."""
    if isinstance(nested, list):
        return [_numbers(one) for one in nested]
    return nested if math.isfinite(nested) else None


def _limit(z: list[list[float | None]], least: float) -> float:
    """The largest absolute value in z, at least `least`; 1 if both are 0."""
    sizes = [abs(cell) for row in z for cell in row if cell is not None]
    return max([least, *sizes]) or 1.0
