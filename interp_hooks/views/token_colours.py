"""Text with a number behind each token: words in lines, each on the colour of its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.drawing.elements import Scale, text_on, width_of
from interp_hooks.views.style import DIVERGING, SEQUENTIAL, colour_bar, figure
from interp_hooks.views.tokens import escaped, visible

WIDTH, ROW, SIZE = 620, 30, 13  # pixels of a line, of its height, of its letters
PADDING = 4  # pixels around a token
MOST_TOKENS = 600  # more are not read


@checked
def coloured_tokens(
    tokens: Sequence[str],
    values: Float[Tensor, " pos"] | Sequence[float],
    *,
    what: str = "activation",
    title: str | None = None,
) -> go.Figure:
    """Draw text whose tokens have the colour of a number each: an activation, a loss, an attribution.

    Without negative numbers 0 is white and the largest dark blue; with some the scale is symmetric around a white 0,
    blue above and red below. `what` names the numbers, with their unit. Whitespace is visible, and a token with a line
    break ends its line.

    >>> from interp_hooks.views import coloured_tokens
    >>> words = model.to_str_tokens(clean[0])
    >>> loss = model(clean[:1], return_type="loss", loss_per_token=True)[0]
    >>> figure = coloured_tokens(words[1:], loss, what="loss (nats)", title="What is hard to foresee?")

    Raises:
        BadInput: another number of values than of tokens, none, or more than 600 tokens.
    """
    numbers = [float(one) for one in (values.tolist() if isinstance(values, Tensor) else values)]
    if not 0 < len(tokens) == len(numbers):
        raise BadInput(f"expected a number for each token, got {len(tokens)} tokens and {len(numbers)} numbers")
    if len(tokens) > MOST_TOKENS:
        raise BadInput(f"{len(tokens)} tokens are more than can be read; draw {MOST_TOKENS} at most")
    finite = [one for one in numbers if math.isfinite(one)]
    high = max(map(abs, finite), default=0.0) or 1.0
    low, stops = (-high, DIVERGING) if min(finite, default=0.0) < 0 else (0.0, SEQUENTIAL)
    texts, places = [visible(token) for token in tokens], _places(tokens)
    rows = 1 + max(row for _, row, _ in places)
    shares = [(one - low) / (high - low) if math.isfinite(one) else -low / (high - low) for one in numbers]
    colours, at_night = ([Scale(stops).at(share, night=night) for share in shares] for night in (False, True))
    middle = dict(x=[left + wide / 2 for left, _, wide in places], y=[row for _, row, _ in places])
    told = [
        f"{escaped(text)} ({place})<br>{escaped(what)}: {one:.4g}"
        for place, (text, one) in enumerate(zip(texts, numbers, strict=True))
    ]
    marker = dict(size=14, symbol="square", opacity=0, color=numbers, colorscale=stops, cmin=low, cmax=high)
    marker |= dict(showscale=True, colorbar=colour_bar(what))
    drawn = figure(
        go.Scatter(mode="markers", hovertext=told, hoverinfo="text", marker=marker, **middle),
        title=title,
        height=max(rows * ROW, 110),
        x_title="",
        y_title="",
        xaxis=dict(range=[0, WIDTH], visible=False),
        yaxis=dict(visible=False),
    )
    boxes = [_box(place, colour) for place, colour in zip(places, colours, strict=True)]
    night = dict(zip(colours, at_night, strict=True))
    inks = map(text_on, colours, at_night)
    words = [_word(text, place, ink) for text, place, ink in zip(texts, places, inks, strict=True)]
    bottom = max(rows, 110 / ROW) - 0.5
    axis = dict(autorange=False, range=[bottom, -0.5])
    return drawn.update_layout(
        shapes=boxes, annotations=words, yaxis=axis, meta=dict(narrowest=WIDTH + 130, night=night)
    )


def _places(tokens: Sequence[str]) -> list[tuple[float, int, float]]:
    """Where each token begins, in which line, and how wide it is, in pixels."""
    places, left, row = list[tuple[float, int, float]](), 0.0, 0
    for token in tokens:
        wide = min(width_of(visible(token), SIZE) + 2 * PADDING, float(WIDTH))
        if left and left + wide > WIDTH:
            left, row = 0.0, row + 1
        places.append((left, row, wide))
        left += wide + 1
        if "\n" in token:
            left, row = 0.0, row + 1
    return places


def _box(place: tuple[float, int, float], colour: str) -> dict[str, Any]:
    left, row, wide = place
    ends = dict(x0=left, x1=left + wide, y0=row - 0.42, y1=row + 0.42)
    return dict(type="rect", layer="below", fillcolor=colour, line=dict(width=0), **ends)


def _word(text: str, place: tuple[float, int, float], colour: str) -> dict[str, Any]:
    left, row, wide = place
    font = dict(size=SIZE, color=colour)
    return dict(x=left + wide / 2, y=row, text=escaped(text), showarrow=False, font=font)
