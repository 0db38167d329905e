"""How sure a mean over prompts is: bootstrap percentile intervals, with the labels of the cells that they belong to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 2**22  # bootstrap means that are held at once; torch.quantile takes no more than 2**24


class _Ends(NamedTuple):
    lower: Float[Tensor, "*grid"]
    upper: Float[Tensor, "*grid"]


class Interval(_Ends):
    """The ends of a confidence interval for each cell, `lower` and `upper` [*axes], and the labels of the axes.

    It unpacks into the two, and prints as its `table()`.

    >>> lower, upper = ablate(model, clean, metric, "mlp_out", over=("layer",), progress=False).interval()
    """

    axes: Mapping[str, Sequence[Any]]

    def __new__(cls, lower: Tensor, upper: Tensor, axes: Mapping[str, Sequence[Any]] | None = None) -> Interval:
        made = super().__new__(cls, lower, upper)
        made.axes = {} if axes is None else axes
        return made

    def table(self) -> pd.DataFrame:
        """A row for each cell: its labels, `lower` and `upper`."""
        import pandas as pd

        cells = list(itertools.product(*self.axes.values()))
        columns: dict[str, Any] = {axis: [cell[i] for cell in cells] for i, axis in enumerate(self.axes)}
        return pd.DataFrame(columns | {end: getattr(self, end).flatten().tolist() for end in self._fields})

    def __repr__(self) -> str:
        return self.table().to_string(index=False)


def bootstrapped(
    values: Float[Tensor, "*grid prompt"],
    scale: Float[Tensor, "2 prompt"] | None,
    level: float,
    samples: int,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"]]:
    """The ends of each cell's interval; with the two baselines of `scale`, of its recovered fraction."""
    n = values.shape[-1]
    drawn = torch.randint(n, (samples, n), generator=generator)
    weights = torch.zeros(samples, n, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / n, dtype=torch.float64))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    found = []
    for cells in values.detach().double().cpu().reshape(-1, n).split(max(1, AT_ONCE // samples)):
        means = cells @ weights.T
        if scale is not None:
            zero, one = scale.double().cpu() @ weights.T
            means = (means - zero) / (one - zero)
        found.append(means.quantile(ends, dim=1))
    lower, upper = torch.cat(found, dim=1).to(values).reshape(2, *values.shape[:-1])
    return lower, upper
