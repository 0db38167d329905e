"""How far an estimate of activation patching can be trusted: some of its cells, truly patched.

Effects are heavy-tailed: most cells do next to nothing, and the few large ones are what matters. A sample that is drawn
evenly rarely has them, and so agrees with an estimate that misses them. Cells are therefore taken from three lists:

    largest        the largest estimates, which may be too large
    other end      the largest by gradients at the other run: large effects that the estimate may have missed, where the
                   gradient vanishes at its own end (a saturated pattern, a neuron that is off)
    random         any of the others, which stand for those that are not patched
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.attribution import attribution_patch
from interp_hooks.experiments.patching import Positions, grid_of, paired_runs
from interp_hooks.experiments.ranking import ranks
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import AGREE, Result
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, MetricLike
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd


LISTS = ("largest", "other end", "random")
TOP = 5  # effects that count as the largest
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Estimated and true effects of patching some cells, [cell], in the metric's units, means over prompts.

    `chosen` tells from which list each cell was taken. `not_patched` are the sizes of the estimates of all other cells.
    Effects smaller than `rounding` count as 0. It prints as a summary.
    """

    metric: str
    cells: Sequence[Mapping[str, Any]]
    estimated: Float[Tensor, " cell"]
    patched: Float[Tensor, " cell"]
    rounding: float
    chosen: Sequence[str] = ()
    not_patched: Float[Tensor, " other"] = field(default_factory=lambda: torch.zeros(0))

    @property
    def spearman(self) -> float:
        """The rank correlation over cells, ties sharing their mean rank; nan if either side is the same everywhere."""
        return float(torch.corrcoef(torch.stack([ranks(self._rounded(side)) for side in self._sides]))[0, 1])

    @property
    def sign_errors(self) -> int:
        """In how many cells the estimate has the wrong sign: the opposite one of an effect that is not 0."""
        estimated, patched = (self._rounded(side).sign() for side in self._sides)
        return int((estimated * patched < 0).sum())

    @property
    def missed(self) -> list[Mapping[str, Any]]:
        """Which of the 5 largest effects, by size, are not among the 5 largest estimates of the cells patched."""
        estimates, effects = (self._rounded(side).abs() for side in self._sides)
        least = estimates.sort(descending=True).values[:TOP][-1] - self.rounding
        largest = effects.argsort(descending=True)[:TOP].tolist()
        return [self.cells[place] for place in largest if effects[place] > 0 and estimates[place] < least]

    @property
    def _sides(self) -> tuple[Tensor, Tensor]:
        return self.estimated, self.patched

    @property
    def _errors(self) -> Float[Tensor, " cell"]:
        return self.estimated - self.patched

    def _rounded(self, effects: Tensor) -> Tensor:
        return effects.where(effects.abs() > self.rounding, effects.new_zeros(()))

    def table(self) -> pd.DataFrame:
        """A row for each cell: its labels, both effects, the estimate's error, and from which list it was taken."""
        import pandas as pd

        labels = {axis: [cell[axis] for cell in self.cells] for axis in self.cells[0]}
        columns = {
            f"estimated_{self.metric}": self.estimated.tolist(),
            f"patched_{self.metric}": self.patched.tolist(),
            "error": self._errors.tolist(),
        }
        return pd.DataFrame(labels | columns | ({"chosen": list(self.chosen)} if self.chosen else {}))

    def __str__(self) -> str:
        total, worst = len(self.cells) + len(self.not_patched), int(self._errors.abs().argmax())
        counts = ", ".join(f"{self.chosen.count(name)} {name}" for name in LISTS if name in self.chosen)
        lines = [
            f"{len(self.cells)} of {total} cells patched{f' ({counts})' if counts else ''}: "
            f"rank correlation {self.spearman:.3f}, {self.sign_errors} with the wrong sign, "
            f"largest error {self._errors.abs()[worst]:.4g} of effects up to {self.patched.abs().max():.4g} "
            f"({self.metric}), at {_told(self.cells[worst])}"
        ]
        if self.missed:
            listed = "; ".join(map(_told, self.missed))
            lines.append(f"of the {min(TOP, len(self.cells))} largest effects, the estimates miss: {listed}")
        if len(self.not_patched):
            lines.append(self._left_out)
        return "\n".join(lines)

    @property
    def _left_out(self) -> str:
        """What is known of the cells that were not patched: their estimates, and what random ones let expect."""
        drawn = self._errors.abs()[[place for place, name in enumerate(self.chosen) if name == "random"]]
        known = (
            f"{len(self.not_patched)} cells were not patched; their estimates are up to {self.not_patched.max():.4g}"
        )
        if not len(drawn):
            return known
        worse = int(len(self.not_patched) * (1 - (1 - CONFIDENCE) ** (1 / len(drawn))))
        return f"{known}, and as many as {worse} of them may be further off than {drawn.max():.4g}, the most at random"


@experiment
def agreement(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: MetricLike,
    result: Result,
    site: str,
    *,
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    cells: int = 64,
    generator: torch.Generator | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Agreement:
    """Patch some `cells` of an estimate of `patch` (all, if it has no more), and compare the effects.

    A third of them are the largest estimates, a third those that are largest by gradients at the other run, which takes
    one more backward pass, and the rest are drawn at random. What comes of it says of how many cells nothing is known,
    and which large effects are missed. `result` is what `attribution_patch` gave for the same prompts, metric and site,
    `select` and `positions`; its direction is taken from it.

    Raises:
        BadInput: not such a result, or fewer than two cells.

    >>> estimate = attribution_patch(model, clean, corrupt, metric, "z")
    >>> print(agreement(model, clean, corrupt, metric, estimate, "z", cells=6, progress=False))
    6 of 12 cells patched (2 largest, 2 other end, 2 random): rank correlation ...
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
    where: dict[str, Any] = dict(select=select, positions=positions, layers=list(result.axes["layer"]))
    grid = grid_of(model, base, site, list(result.axes), **where)
    every = [dict(zip(result.axes, labels, strict=True)) for labels in itertools.product(*result.axes.values())]
    estimated = result.change.flatten()
    if cells < len(every):
        back = "noise" if result.scale[0] == "corrupt" else "denoise"
        other = attribution_patch(model, *runs, metric, site, over=list(result.axes), direction=back, **where)
        if other.mean.numel() != len(every):
            raise BadInput(f"the result has {len(every)} cells, but {site} has {other.mean.numel()} along its axes")
        chosen = _chosen(estimated, other.change.flatten(), cells, generator)
    else:
        chosen = dict.fromkeys(range(len(every)), "")  # all of them
    places = sorted(chosen)
    made = [Intervention(grid.at(**every[place]), source) for place in places]
    patched = [Run(base.tokens, [one], base.attention_mask) for one in made]
    scores = evaluate(model, [base, *patched], metric, max_memory=max_memory, progress=progress)
    scores = scores.reshape(len(scores), -1)
    if scores.shape[-1] != result.values.shape[-1]:
        raise BadInput(f"the result is for {result.values.shape[-1]} prompts, but the metric gives {scores.shape[-1]}")
    means = scores.mean(-1)
    return Agreement(
        metric=result.metric,
        cells=[every[place] for place in places],
        estimated=estimated[places].to(means),
        patched=means[1:] - means[0],
        rounding=AGREE * float(scores.abs().max()),
        chosen=[chosen[place] for place in places if chosen[place]],
        not_patched=estimated[[place for place in range(len(every)) if place not in chosen]].abs(),
    )


def _chosen(
    estimated: Float[Tensor, " cell"], other: Float[Tensor, " cell"], count: int, generator: torch.Generator | None
) -> dict[int, str]:
    """The cells to patch, each with the list that it was taken from."""
    found: dict[int, str] = {}
    lists = [estimated.abs().argsort(descending=True), other.abs().argsort(descending=True)]
    for name, ranked, share in zip(LISTS, lists, (count // 3, count // 3), strict=False):
        fresh = [place for place in ranked.tolist() if place not in found]
        found |= dict.fromkeys(fresh[:share], name)
    drawn = [place for place in torch.randperm(len(estimated), generator=generator).tolist() if place not in found]
    return found | dict.fromkeys(drawn[: count - len(found)], LISTS[-1])


def _told(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in cell.items())
