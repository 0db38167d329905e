"""Activation patching: what does one activation of another run restore, or destroy?

    denoise   the run reads the corrupt prompt, one activation comes from the clean run    0 = corrupt, 1 = clean
    noise     the run reads the clean prompt, one activation comes from the corrupt run    0 = clean, 1 = corrupt

Denoising finds what is sufficient, noising what is necessary; the two differ wherever parts work as AND or OR
(Heimersheim and Nanda 2024, arxiv.org/abs/2404.15255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_hooks.experiments.results.experiment import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.experiments.sweeps import Direction, directed_runs, sweep_site
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.runs import Prompts
from interp_hooks.model.transformer import HookedTransformer


@experiment
def patch(
    model: HookedTransformer,
    clean: Prompts,
    corrupt: Prompts,
    metric: MetricLike,
    site: str | Sequence[str] = "resid_pre",
    *,
    over: Sequence[str] = ("layer", "pos"),
    select: Mapping[str, Any] | None = None,
    window: int = 1,
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """Patch `site` (a short hook name: "resid_pre", "attn_out", "z", "post", ...) at every cell of the axes `over`.

    Axes are "layer" and those of the hook ("pos", "head", "query", "key", "neuron"); what is not swept over is patched
    as a whole, so `over=("layer", "head")` patches a head at all positions. `select` fixes an axis instead: an index, a
    list, or a tensor of one index for each prompt (`select={"pos": subject_positions}`). Several sites are patched
    together, and so are the `window` layers around each one. `layers` restricts the sweep; `save_to` as in `sweep`.

    Raises:
        BadInput: prompts that do not correspond token by token, an axis or layer that does not exist.
        MetricError: the metric gives nan.
    """
    base, source, scale, baselines = directed_runs(model, clean, corrupt, direction)
    return sweep_site(
        model,
        base,
        site,
        source,
        metric,
        over=over,
        select=select,
        window=window,
        layers=layers,
        baselines=baselines,
        scale=scale,
        max_memory=max_memory,
        progress=progress,
        save_to=save_to,
    )
