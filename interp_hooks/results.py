"""What experiments and analyses return: a number for each cell of a labelled grid and each prompt.

result.values [layer, pos, prompt]   result.mean [layer, pos]   result.table(): a row for each cell
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

AGREE = 1e-6  # relative difference below which two baselines count as equal


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Values [*axes, prompt] of a metric, with the labels of every axis.

    `baselines` are the metric's values [prompt] without the experiment, by name. `scale`, if given, names the two
    baselines that count as 0 and as 1 in `recovered_fraction`.
    """

    metric: str
    axes: Mapping[str, Sequence[Any]]
    values: Float[Tensor, "*grid prompt"]
    baselines: Mapping[str, Float[Tensor, " prompt"]] = field(default_factory=dict)
    scale: tuple[str, str] | None = None

    @property
    def mean(self) -> Float[Tensor, "*grid"]:
        """The mean over prompts."""
        return self.values.mean(-1)

    @property
    def standard_error(self) -> Float[Tensor, "*grid"]:
        """The standard error of that mean; nan for a single prompt."""
        n = self.values.shape[-1]
        return self.values.std(-1) / n**0.5 if n > 1 else self.values[..., 0] * float("nan")

    @property
    def recovered_fraction(self) -> Float[Tensor, "*grid"]:
        """Where each cell lies between the two baselines of `scale`: (mean - zero) / (one - zero), of means.

        All nan if the baselines agree, since nothing can then be recovered; `note` says so.
        """
        zero, one = self._scale()
        if self.note:
            return self.mean * float("nan")
        return (self.mean - zero) / (one - zero)

    @property
    def note(self) -> str:
        """Why `recovered_fraction` is nan, or ''."""
        if self.scale is None:
            return ""
        zero, one = self._scale()
        if abs(one - zero) > AGREE * max(abs(one), abs(zero)):
            return ""
        names = " and ".join(self.scale)
        return f"{names} give the same mean {self.metric} ({zero:.4g}), so there is no difference to recover"

    def _scale(self) -> tuple[float, float]:
        if self.scale is None:
            raise BadInput("this result has no two baselines to compare with")
        zero, one = (float(self.baselines[name].mean()) for name in self.scale)
        return zero, one

    def table(self) -> pd.DataFrame:
        """A row for each cell: its labels, the mean over prompts, its standard error, and the recovered fraction."""
        import pandas as pd

        cells = list(itertools.product(*self.axes.values()))
        columns: dict[str, Any] = {axis: [cell[i] for cell in cells] for i, axis in enumerate(self.axes)}
        columns[self.metric] = self.mean.flatten().tolist()
        columns["standard_error"] = self.standard_error.flatten().tolist()
        if self.scale is not None:
            columns["recovered_fraction"] = self.recovered_fraction.flatten().tolist()
        return pd.DataFrame(columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows of the table whose metric (recovered fraction, if there is one) is largest in size."""
        table = self.table()
        by = self.metric if self.scale is None else "recovered_fraction"
        return table.loc[table[by].abs().sort_values(ascending=False, kind="stable").index[:k]].reset_index(drop=True)
