"""Interchange in a subspace: does one part of an activation carry a variable, and nothing else?

    activation = component along the directions + component across them
                 from the other run               as it is in this run

Swapping a whole activation also swaps everything else that it carries; swapping it along the directions that hold one
variable changes that variable alone, so that the answer is the counterfactual one (Geiger et al. 2024,
arxiv.org/abs/2303.02536, who search for the directions by gradient descent: demos/das.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp_hooks.experiments.patching import Direction, Positions, directed_runs, grid_of, sweep
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run
from interp_hooks.model.transformer import HookedTransformer

Directions = Float[Tensor, "*n width"]


@experiment
def patch_along(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: MetricLike,
    along: Directions | Mapping[str, Directions],
    site: str = "resid_pre",
    *,
    over: Sequence[str] = ("layer", "pos"),
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """`patch` with only the component of `site` along some directions [n, width], `width` being its last axis.

    `over`, `select` and `positions` are as in `patch`. What counts is the directions' span. A mapping from names to
    directions gives a first axis, "along". Whatever spans all of the width gives what `patch` gives.

    Raises:
        BadInput: what `patch` refuses, directions of another width, dependent ones, or a sweep over the axis that they
            are directions of.
        MetricError: the metric gives nan.

    >>> direction = steering_vector(model, clean, corrupt, "resid_pre1")
    >>> result = patch_along(model, clean, corrupt, metric, along=direction, over=("layer",), progress=False)
    """
    base, source, scale, baselines = directed_runs(model, clean, corrupt, direction)
    several = isinstance(along, Mapping)
    spans = dict(along) if several else {"": along}
    grid = grid_of(model, base, site, over, select=select, positions=positions, layers=layers)
    labels: dict[str, Sequence[Any]] = {"along": list(spans)} if several else {}
    labels |= grid.labels

    def run_at(layer: int, along: str = "", **cell: Any) -> Run:
        swap = Intervention(grid.at(layer, **cell), source, along=spans[along])
        return Run(base.tokens, [swap], base.attention_mask)

    compute: dict[str, Any] = dict(max_memory=max_memory, progress=progress, save_to=save_to)
    return sweep(model, run_at, metric, over=labels, baselines=baselines, scale=scale, **compute)
