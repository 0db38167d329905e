"""A picture of one head's attention: how much every token looks at every token before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.adapting import FAINT
from interp_hooks.views.style import SEQUENTIAL, axis_title, cells, figure, plot_height, words_below
from interp_hooks.views.tokens import escaped, ticks, visible

ACROSS = 3  # patterns side by side


@checked
def attention_pattern(
    pattern: Tensor, tokens: Sequence[str], *, heads: Sequence[Any] | None = None, title: str | None = None
) -> go.Figure:
    """Draw the attention of one head on one prompt: each row shows what one token attends to, and sums to 1.

    Rows run downwards, so that the last token is the bottom row. `heads` are the names of several heads, whose patterns
    [head, query, key] are drawn beside each other.

    >>> _, cache = model.run_with_cache(clean[0])
    >>> words = model.to_str_tokens(clean[0])
    >>> figure = attention_pattern(cache["pattern", 2][0, 1], words, title="L2H1")
    >>> figure = attention_pattern(cache["pattern", 2][0], words, heads=["L2H0", "L2H1", "L2H2", "L2H3"])

    Raises:
        BadInput: more than one pattern without `heads`, another number of heads than patterns, or not as many tokens as
            a pattern has positions.
    """
    if pattern.ndim != 2 + (heads is not None) or pattern.shape[-1] != pattern.shape[-2]:
        wanted = "one pattern [query, key]" if heads is None else "patterns [head, query, key]"
        raise BadInput(
            f"expected {wanted}, got shape {list(pattern.shape)}; "
            'pick a prompt and a head: cache["pattern", layer][prompt, head]; or a prompt, and name its heads in heads='
        )
    if heads is not None and not 0 < len(heads) == len(pattern):
        raise BadInput(f"heads must name each of {len(pattern)} patterns, got {len(heads)}")
    if len(tokens) != pattern.shape[-1]:
        raise BadInput(f"the pattern has {pattern.shape[-1]} positions, got {len(tokens)} tokens")
    texts = [visible(token) for token in tokens]
    across = 1 if heads is None else 2 if len(heads) == 4 else min(len(heads), ACROSS)
    down = 1 if heads is None else -(-len(heads) // across)
    drawn = figure(
        [],
        title=title,
        height=down * plot_height(len(texts), row=28 if across == 1 else 18) + 110 * (down - 1),
        x_title=axis_title("key"),
        y_title=axis_title("query"),
        xaxis=ticks(texts) | words_below(len(texts)),
        yaxis=ticks(texts),
        background=FAINT,  # shows between the cells
    )
    if heads is None:
        return drawn.add_trace(_map(pattern, texts))
    return _beside(drawn, [_map(one, texts) for one in pattern], [str(head) for head in heads], across, down)


def _map(pattern: Float[Tensor, "query key"], texts: Sequence[str]) -> go.Heatmap:
    z, names = pattern.tolist(), [escaped(f"{text} ({place})") for place, text in enumerate(texts)]
    hover = [
        [f"{query} attends to {key}<br>with probability {cell:.4g}" for key, cell in zip(names, row, strict=True)]
        for query, row in zip(names, z, strict=True)
    ]
    return cells(z, hover, "attention probability", zmin=0, zmax=1, colorscale=SEQUENTIAL)


def _beside(drawn: go.Figure, maps: Sequence[go.Heatmap], heads: Sequence[str], across: int, down: int) -> go.Figure:
    """Maps in rows of `across`, each with the axes of the figure and one name above; tokens are written once a row."""
    x, y = (drawn.layout[axis].to_plotly_json() for axis in ("xaxis", "yaxis"))
    untitled: dict[str, Any] = dict(title=None)
    gap = 0.25 / down if down > 1 else 0.0
    drawn.set_subplots(down, across, subplot_titles=[escaped(head) for head in heads], vertical_spacing=gap)
    for place, one in enumerate(maps):
        row, column = divmod(place, across)
        at: dict[str, Any] = dict(row=row + 1, col=column + 1)
        drawn.add_trace(one.update(showscale=place == 0), **at)
        drawn.update_xaxes(x if place + across >= len(maps) else x | untitled, **at)
        drawn.update_yaxes(y if column == 0 else y | untitled | dict(showticklabels=False), **at)
    return drawn.update_layout(meta=dict(narrowest=260 * across + 120))
