"""What experiments and analyses return: a number for each cell of a labelled grid and each prompt.

result.values [layer, pos, prompt]   result.mean [layer, pos]   result.table(): a row for each cell
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

AGREE = 1e-6  # relative difference below which two baselines count as equal
AT_ONCE = 2**22  # bootstrap means that are held at once; torch.quantile takes no more than 2**24


class Interval(NamedTuple):
    """The ends of a confidence interval for each cell."""

    lower: Float[Tensor, "*grid"]
    upper: Float[Tensor, "*grid"]


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
        zero, one = (float(baseline.mean()) for baseline in self._scale())
        if self.note:
            return self.mean * float("nan")
        return (self.mean - zero) / (one - zero)

    @property
    def recovered_by_prompt(self) -> Float[Tensor, "*grid prompt"]:
        """The same for every prompt between its own two baselines; nan for prompts whose baselines agree.

        Their mean is not `recovered_fraction`: prompts with a small difference between the baselines weigh as much
        here as the others, and are as noisy as it is small.
        """
        zero, one = self._scale()
        fraction = (self.values - zero) / (one - zero)
        return fraction.masked_fill(_agree(zero, one), float("nan"))

    @property
    def note(self) -> str:
        """Why `recovered_fraction` is nan, or ''."""
        if self.scale is None:
            return ""
        zero, one = (baseline.mean() for baseline in self._scale())
        if not bool(_agree(zero, one)):
            return ""
        names = " and ".join(self.scale)
        return f"{names} give the same mean {self.metric} ({float(zero):.4g}), so there is no difference to recover"

    def interval(
        self,
        level: float = 0.95,
        samples: int = 1000,
        generator: torch.Generator | None = None,
        *,
        recovered: bool = False,
    ) -> Interval:
        """A bootstrap percentile interval of each cell's mean, or of its recovered fraction.

        Prompts are drawn with replacement `samples` times, the same ones for all cells and baselines, so that the
        uncertainty of the baselines is part of that of the fraction. All nan for a single prompt; with few prompts such
        intervals are too narrow (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).

        Raises:
            BadInput: a level outside 0..1, no samples, or a fraction without a scale.
        """
        if not 0 < level < 1:
            raise BadInput(f"level must lie between 0 and 1, got {level}")
        if samples < 1:
            raise BadInput(f"samples must be at least 1, got {samples}")
        scale = torch.stack(self._scale()).double().cpu() if recovered else None
        n = self.values.shape[-1]
        if n == 1 or (recovered and self.note):
            return Interval(self.mean * float("nan"), self.mean * float("nan"))
        drawn = torch.randint(n, (samples, n), generator=generator)
        weights = torch.zeros(samples, n, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / n, dtype=torch.float64))
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        found = []
        for cells in self.values.detach().double().cpu().reshape(-1, n).split(max(1, AT_ONCE // samples)):
            means = cells @ weights.T
            if scale is not None:
                zero, one = scale @ weights.T
                means = (means - zero) / (one - zero)
            found.append(means.quantile(ends, dim=1))
        lower, upper = torch.cat(found, dim=1).to(self.values).reshape(2, *self.values.shape[:-1])
        return Interval(lower, upper)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """The two baselines [prompt] that count as 0 and as 1."""
        if self.scale is None:
            raise BadInput("this result has no two baselines to compare with")
        zero, one = (self.baselines[name] for name in self.scale)
        return zero, one

    def table(
        self, interval: float | None = None, samples: int = 1000, generator: torch.Generator | None = None
    ) -> pd.DataFrame:
        """A row for each cell: its labels, the mean over prompts, its standard error, and the recovered fraction.

        With `interval` (a level such as 0.95) also the ends of the bootstrap intervals: `lower` and `upper` of the
        mean, `recovered_lower` and `recovered_upper` of the fraction.
        """
        import pandas as pd

        cells = list(itertools.product(*self.axes.values()))
        columns: dict[str, Any] = {axis: [cell[i] for cell in cells] for i, axis in enumerate(self.axes)}
        columns[self.metric] = self.mean.flatten().tolist()
        columns["standard_error"] = self.standard_error.flatten().tolist()
        if interval is not None:
            ends = self.interval(interval, samples, generator)
            columns |= {"lower": ends.lower.flatten().tolist(), "upper": ends.upper.flatten().tolist()}
        if self.scale is not None:
            columns["recovered_fraction"] = self.recovered_fraction.flatten().tolist()
            if interval is not None:
                ends = self.interval(interval, samples, generator, recovered=True)
                columns["recovered_lower"] = ends.lower.flatten().tolist()
                columns["recovered_upper"] = ends.upper.flatten().tolist()
        return pd.DataFrame(columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows of the table whose metric (recovered fraction, if there is one) is largest in size."""
        table = self.table()
        by = self.metric if self.scale is None else "recovered_fraction"
        return table.loc[table[by].abs().sort_values(ascending=False, kind="stable").index[:k]].reset_index(drop=True)


def _agree(zero: Tensor, one: Tensor) -> Tensor:
    """Where two baselines are too close for anything to lie between them."""
    return (one - zero).abs() <= AGREE * torch.maximum(one.abs(), zero.abs())
