"""How results show themselves: interventions in words; in a notebook words, a picture, and a table, as HTML.

The picture is an SVG of a few kilobytes that `views.pictures` draws, from numbers that are there. `views` stands above
and is asked only when a notebook shows something, so that results can be computed and printed without it: the second of
the two exceptions to the order of the rooms.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from interp_hooks.experiments.results.archive import name_of
from interp_hooks.interventions.runs import Intervention, Mean, Resample, Run, SourceLike
from interp_hooks.interventions.sites import Site

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


# ----------------------------------------------------------------------------------------------- interventions in words


def made_by(arguments: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """For every run of a recorded call, its interventions in words: where, and what is put there."""
    names = {
        one.key: name
        for name, baseline in arguments["baselines"].items()
        for one in ([baseline] if isinstance(baseline, Run) else baseline)
    }
    return [[_in_words(made, names) for made in run.interventions] for run in arguments["runs"]]


def _in_words(made: Intervention, names: Mapping[Any, str]) -> dict[str, Any]:
    told = {"hook": made.site.hook, "selection": _selection(made.site), "source": _source(made.source, names)}
    if made.into is not None:
        told["into"] = f"{made.into.hook} {_selection(made.into)}".strip()
    if made.along is not None:
        told["along"] = f"{made.along.numel() // made.along.shape[-1]} directions"
    return told


def _selection(site: Site) -> str:
    listed = {axis: index.tolist() if isinstance(index, Tensor) else index for axis, index in site.select.items()}
    return ", ".join(f"{axis}={index}" for axis, index in listed.items())


def _source(source: SourceLike, names: Mapping[Any, str]) -> str:
    if isinstance(source, Run):
        return names.get(source.key, f"another run with {len(source.interventions)} interventions")
    if isinstance(source, Mean | Resample):
        return f"{type(source).__name__.lower()} of {_source(source.run, names)}"
    if isinstance(source, Tensor):
        return f"a tensor {list(source.shape)}"
    if isinstance(source, Mapping):
        return "recorded activations"
    return str(source) if isinstance(source, int | float) else name_of(source).rpartition(".")[2]
