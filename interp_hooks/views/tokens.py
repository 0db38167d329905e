"""How text from outside (tokens, labels, titles) is shown in a figure.

plotly reads tick texts, titles and hover texts as a small HTML, and as TeX between two dollar signs where MathJax is
loaded; so all of them pass through `escaped`. Tokens also have their whitespace made visible: " Mary" is "·Mary".
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

MOST_TICKS = 64  # more tick labels than this would overlap
LONGEST_TICK = 16  # characters

_VISIBLE = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥"}


def escaped(text: Any) -> str:
    """Text escaped so that plotly shows it literally. (Quotes stay: it does not know `&quot;`, and would show that.)"""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token with its whitespace and unprintable characters made visible; not escaped."""
    if not token:
        return "∅"
    return "".join(_VISIBLE.get(char) or (char if char.isprintable() else _code(char)) for char in token)


def _code(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shortened(text: str, longest: int = LONGEST_TICK) -> str:
    """Text cut to at most `longest` characters, with "…" for what was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def ticks(texts: Sequence[str]) -> dict[str, Any]:
    """Axis settings that write `texts` at 0, 1, 2, ...; a long axis shows only every n-th."""
    every = -(-len(texts) // MOST_TICKS) or 1
    places = range(0, len(texts), every)
    return dict(
        tickmode="array",
        tickvals=list(places),
        ticktext=[escaped(shortened(texts[place])) for place in places],
    )
