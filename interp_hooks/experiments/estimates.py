"""How far an estimate of activation patching can be trusted: a random sample of its cells, truly patched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.patching import paired_runs
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import AGREE, Result
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, MetricLike
from interp_hooks.interventions.runs import Intervention, PromptsLike, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Estimated and true effects of patching some cells, [cell], in the metric's units, means over prompts.

    Effects smaller than `rounding` count as 0.
    """

    metric: str
    cells: Sequence[Mapping[str, Any]]
    estimated: Float[Tensor, " cell"]
    patched: Float[Tensor, " cell"]
    rounding: float

    @property
    def spearman(self) -> float:
        """The rank correlation over cells, ties sharing their mean rank; nan if either side is the same everywhere."""
        return float(torch.corrcoef(torch.stack([_ranks(self._rounded(side)) for side in self._sides]))[0, 1])

    @property
    def sign_errors(self) -> int:
        """In how many cells the estimate has the wrong sign: the opposite one of an effect that is not 0."""
        estimated, patched = (self._rounded(side).sign() for side in self._sides)
        return int((estimated * patched < 0).sum())

    @property
    def _sides(self) -> tuple[Tensor, Tensor]:
        return self.estimated, self.patched

    def _rounded(self, effects: Tensor) -> Tensor:
        return effects.where(effects.abs() > self.rounding, effects.new_zeros(()))

    def table(self) -> pd.DataFrame:
        """A row for each cell: its labels, both effects, and the estimate's error."""
        import pandas as pd

        labels = {axis: [cell[axis] for cell in self.cells] for axis in self.cells[0]}
        error = self.estimated - self.patched
        return pd.DataFrame(
            labels
            | {
                f"estimated_{self.metric}": self.estimated.tolist(),
                f"patched_{self.metric}": self.patched.tolist(),
                "error": error.tolist(),
            }
        )

    def __str__(self) -> str:
        return (
            f"{len(self.cells)} cells patched: rank correlation {self.spearman:.3f}, "
            f"{self.sign_errors} with the wrong sign, largest error {(self.estimated - self.patched).abs().max():.4g} "
            f"of effects up to {self.patched.abs().max():.4g} ({self.metric})"
        )


@experiment
def agreement(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: MetricLike,
    result: Result,
    site: str,
    *,
    cells: int = 64,
    generator: torch.Generator | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Agreement:
    """Patch `cells` random cells of an estimate of `patch` (all, if it has no more), and compare the effects.

    `result` is what `attribution_patch` gave for the same prompts, metric and site; its direction is taken from it.

    Raises:
        BadInput: not such a result, or fewer than two cells.

    >>> estimate = attribution_patch(model, clean, corrupt, metric, "z")
    >>> print(agreement(model, clean, corrupt, metric, estimate, "z", cells=4, progress=False))
    4 cells patched: ...
    """
    if result.scale not in (("corrupt", "clean"), ("clean", "corrupt")) or "layer" not in result.axes:
        raise BadInput("agreement compares an estimate of patch: a result of attribution_patch")
    if cells < 2:
        raise BadInput(f"a comparison needs at least two cells, got cells={cells}")
    name = metric.name if isinstance(metric, Metric) else result.metric
    if name != result.metric:
        raise BadInput(f"the result is in {result.metric}, but the metric gives {name}")
    runs = paired_runs(model, clean, corrupt, ("clean", "corrupt"))
    base, source = runs if result.scale[0] == "clean" else runs[::-1]
    every = [dict(zip(result.axes, labels, strict=True)) for labels in itertools.product(*result.axes.values())]
    sampled = torch.randperm(len(every), generator=generator)[:cells].sort().values.tolist()
    chosen = [every[place] for place in sampled]
    patched = [Run(base.tokens, [Intervention(at(site, **cell), source)], base.attention_mask) for cell in chosen]
    scores = evaluate(model, [base, *patched], metric, max_memory=max_memory, progress=progress)
    scores = scores.reshape(len(scores), -1)
    if scores.shape[-1] != result.values.shape[-1]:
        raise BadInput(f"the result is for {result.values.shape[-1]} prompts, but the metric gives {scores.shape[-1]}")
    means = scores.mean(-1)
    return Agreement(
        metric=result.metric,
        cells=chosen,
        estimated=(result.mean.flatten()[sampled] - result.baselines[result.scale[0]].mean()).to(means),
        patched=means[1:] - means[0],
        rounding=AGREE * float(scores.abs().max()),
    )


def _ranks(values: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """0 for the smallest; equal values get the mean of their ranks."""
    below, same = values[:, None] > values, values[:, None] == values
    return below.sum(1) + (same.sum(1).double() - 1) / 2
