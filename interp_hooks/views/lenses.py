"""A picture of what a lens says: tokens across, points of the stream down the page, and what is likeliest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import plotly.graph_objects as go
import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, checked, refuse_outside
from interp_hooks.model.token_text import names_of
from interp_hooks.studies.lenses.reading import LensResult
from interp_hooks.views.adapting import FAINT
from interp_hooks.views.style import SEQUENTIAL, axis_title, cells, figure, plot_height, words_below
from interp_hooks.views.tokens import escaped, shortened, ticks, visible

Colour = Literal["kl", "rank", "prob"]
TITLES: dict[str, str] = {
    "kl": "KL(model || point) (nats)",
    "rank": "log10(1 + rank of the model's token)",
    "prob": "probability of the likeliest token",
}
WIDTH = 9  # characters of a token in a cell
WORDS_UP_TO = 24  # columns; narrower cells have no room for their token


@checked
def lens_figure(
    result: LensResult,
    prompt: int = 0,
    *,
    colour: Colour = "kl",
    k: Count = 5,
    stride: Positive = 1,
    title: str | None = None,
) -> go.Figure:
    """Draw what a lens says of every position of one prompt: a lens' result with `pos=None`.

    Each cell shows the likeliest token there (of prompts of up to 24 tokens), and on hover the `k` likeliest with their
    probabilities, the KL in nats, and the rank of the token that the model itself finds likeliest in the end. `colour`
    is the "kl", that "rank" (0 is white: the point says what the model says), or the "prob" of the token in the cell.
    `stride` leaves points out: it keeps every second one, say, and the last. Padding is not drawn.

    >>> from interp_hooks.views import lens_figure
    >>> figure = lens_figure(logit_lens(model, clean, pos=None), colour="rank")
    >>> figure.write_html("lens.html")

    Raises:
        BadInput: a result of one position only, a prompt that it does not have, or another colour.
    """
    if result.tokens is None or "pos" not in result.axes:
        raise BadInput("the picture needs every position: read the prompts with pos=None")
    refuse_outside("prompt", prompt, 0, len(result.tokens) - 1)
    real = torch.ones(result.tokens.shape[1]).bool() if result.real is None else result.real[prompt]
    last = len(result.labels) - 1
    rows = sorted({*range(last, -1, -stride)} | {last})
    ids, log_probs = result.top_tokens(k)
    rank = result.rank(ids[-1, ..., 0].T)
    chosen = [one[rows][:, :, prompt][:, real.to(one.device)].cpu() for one in (ids, log_probs, result.kl, rank)]
    ids, log_probs, kl, rank = chosen
    z = {"kl": kl, "rank": (1 + rank.double()).log10(), "prob": log_probs[..., 0].exp()}[colour]
    texts = [visible(names_of(result.model)(id)) for id in result.tokens[prompt][real].tolist()]
    labels = [result.labels[row] for row in rows]
    places = real.nonzero()[:, 0].tolist()
    hover = _hover(names_of(result.model), labels, texts, places, ids, log_probs.exp(), kl, rank)
    trace = cells(
        z.tolist(),
        hover,
        TITLES[colour],
        zmin=0,
        zmax=1 if colour == "prob" else float(z.max()) or 1.0,
        colorscale=SEQUENTIAL,
        text=[[_word(names_of(result.model)(id), WIDTH) for id in row] for row in ids[..., 0].tolist()],
        texttemplate="%{text}" if len(texts) <= WORDS_UP_TO else None,
        textfont=dict(size=10),  # of its own accord plotly leaves all texts out where one does not fit
    )
    return figure(
        trace,
        title=title,
        height=plot_height(len(labels)),
        x_title=axis_title("pos"),
        y_title=axis_title("point"),
        xaxis=ticks(texts) | words_below(len(texts)),
        yaxis=ticks(labels),
        background=FAINT,  # shows between the cells
    )


def _word(token: str, longest: int) -> str:
    return escaped(shortened(visible(token), longest))


def _hover(
    text_of: Callable[[int], str],
    labels: list[str],
    texts: list[str],
    places: list[int],
    ids: Tensor,
    probs: Tensor,
    kl: Tensor,
    rank: Tensor,
) -> list[list[str]]:
    """For every cell: where it is, the likeliest tokens with their probabilities, the KL and the rank."""

    def cell(row: int, column: int) -> str:
        likeliest: list[Any] = [
            f"{_word(text_of(id), 24)}  {prob:.3g}"
            for id, prob in zip(ids[row, column].tolist(), probs[row, column].tolist(), strict=True)
        ]
        where = f"{escaped(labels[row])}, position {places[column]}: {escaped(texts[column])}"
        said = f"KL {float(kl[row, column]):.4g} nats, rank of the model's token {int(rank[row, column])}"
        return "<br>".join([where, *likeliest, said])

    return [[cell(row, column) for column in range(len(texts))] for row in range(len(labels))]
