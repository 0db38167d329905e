"""How results show themselves in a notebook: words, a picture, and a table, as HTML that needs nothing from outside.

The picture is an SVG of a few kilobytes that `views.pictures` draws, from numbers that are there. `views` stands above
and is asked only when a notebook shows something, so that results can be computed and printed without it: the second of
the two exceptions to the order of the rooms.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20  # of the table


class Shown:
    """What has a table: it prints as it, and shows itself in a notebook by it and by a picture if there is one.

    `_printed` is how many rows are printed at most; None prints all.
    """

    _printed: ClassVar[int | None] = 20

    def _words(self) -> Sequence[str]:
        """What is said above picture and table, and printed below the table."""
        return ()

    def __repr__(self) -> str:
        told: Any = self
        return "\n".join([told.table().to_string(index=False, max_rows=self._printed), *self._words()])

    def _repr_html_(self) -> str:
        told: Any = self
        return as_html(self, self._words(), told.table())


def as_html(shown: Any, words: Sequence[str], table: pd.DataFrame) -> str:
    """Words, a picture and the table of a thing as HTML; where it cannot be drawn, the reason stands in its place."""
    try:
        from interp_hooks.views.pictures import inline

        picture, why = inline(shown)
    except Exception:  # a picture that fails must not take away the numbers
        picture, why = "", ""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in (*words, why) if text)
    return paragraphs + picture + table.to_html(index=False, max_rows=ROWS, show_dimensions=len(table) > ROWS)
