"""A picture of one head's attention: how much every token looks at every token before it."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.style import FAINT, SEQUENTIAL, axis_title, colour_bar, figure, gaps, plot_height, words_below
from interp_hooks.views.tokens import escaped, ticks, visible


@checked
def attention_pattern(pattern: Tensor, tokens: Sequence[str], *, title: str | None = None) -> go.Figure:
    """Draw the attention of one head on one prompt: each row shows what one token attends to, and sums to 1.

    Rows run downwards, so that the last token is the bottom row.

    >>> _, cache = model.run_with_cache(clean[0])
    >>> figure = attention_pattern(cache["pattern", 2][0, 1], model.to_str_tokens(clean[0]), title="L2H1")

    Raises:
        BadInput: more than one pattern, or not as many tokens as the pattern has positions.
    """
    if pattern.ndim != 2 or pattern.shape[0] != pattern.shape[1]:
        raise BadInput(
            f"expected one pattern [query, key], got shape {list(pattern.shape)}; "
            'pick a prompt and a head: cache["pattern", layer][prompt, head]'
        )
    if len(tokens) != len(pattern):
        raise BadInput(f"the pattern has {len(pattern)} positions, got {len(tokens)} tokens")
    texts, z = [visible(token) for token in tokens], pattern.tolist()
    names = [escaped(f"{text} ({place})") for place, text in enumerate(texts)]
    trace = go.Heatmap(
        z=z,
        x=list(range(len(texts))),
        y=list(range(len(texts))),
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar=colour_bar("attention probability"),
        hovertext=[
            [f"{query} attends to {key}<br>with probability {cell:.4g}" for key, cell in zip(names, row, strict=True)]
            for query, row in zip(names, z, strict=True)
        ],
        hoverinfo="text",
        **gaps(len(texts), len(texts)),
    )
    return figure(
        trace,
        title=title,
        height=plot_height(len(texts), row=28),
        x_title=axis_title("key"),
        y_title=axis_title("query"),
        xaxis=ticks(texts) | words_below(len(texts)),
        yaxis=ticks(texts),
        background=FAINT,  # shows between the cells
    )
