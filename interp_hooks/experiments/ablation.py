"""Ablation: what does the model lose without one activation?

    zero       put 0 in its place
    mean       put its mean over a reference set in its place (over prompts and real positions)
    resample   put its value on another, random prompt of the reference set in its place

Zero takes the activation off its usual range, mean keeps what all prompts share, resample keeps its distribution; the
three can disagree in sign, so say which one was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.sweep import sweep_site
from interp_hooks.interpreter import MEMORY
from interp_hooks.interventions import Mean, Prompts, Resample, Run, Source, as_run
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import MetricLike
from interp_hooks.results import Result

Method = Literal["zero", "mean", "resample"]


def ablate(
    model: HookedTransformer,
    prompts: Prompts,
    metric: MetricLike,
    site: str = "z",
    *,
    method: Method = "zero",
    over: Sequence[str] = ("layer", "head"),
    reference: Prompts | None = None,
    generator: torch.Generator | None = None,
    layers: Sequence[int] | None = None,
    max_memory: int = MEMORY,
    progress: bool = True,
) -> Result:
    """Ablate `site` at every cell of the axes `over`, as `patch` understands them; the baseline is "original".

    `reference` are the prompts whose activations "mean" and "resample" use (default: `prompts` themselves). Resampling
    draws a prompt for each prompt with `generator`, never itself where both sets are the same; its reference needs
    prompts of the same length.

    Raises:
        BadInput: an unknown method, or a reference that does not fit.
    """
    run = as_run(model, prompts)
    source = ablation_source(method, run, run if reference is None else as_run(model, reference), generator)
    return sweep_site(
        model,
        run,
        site,
        source,
        metric,
        over=over,
        layers=layers,
        baselines={"original": run},
        max_memory=max_memory,
        progress=progress,
    )


def ablation_source(method: Method, run: Run, reference: Run, generator: torch.Generator | None = None) -> Source:
    """What an ablation of `run` puts in place of an activation.

    Raises:
        BadInput: an unknown method, or a reference from which nothing can be drawn.
    """
    if method == "zero":
        return 0.0
    if method == "mean":
        return Mean(reference)
    if method == "resample":
        return Resample(reference, _draw(run, reference, generator))
    raise BadInput(f"method must be 'zero', 'mean' or 'resample', got {method!r}")


def _draw(run: Run, reference: Run, generator: torch.Generator | None) -> Int[Tensor, " batch"]:
    """A reference prompt for each prompt; another one than itself if the sets are the same."""
    n, n_reference = len(run.tokens), len(reference.tokens)
    if reference.tokens.shape != run.tokens.shape or not torch.equal(reference.tokens, run.tokens):
        return torch.randint(n_reference, (n,), generator=generator)
    if n < 2:
        raise BadInput("resampling within a single prompt gives the prompt itself; pass reference=")
    order = torch.randperm(n, generator=generator)  # a random cycle through all prompts moves each of them
    successor = torch.empty_like(order)
    successor[order] = order.roll(-1)
    return successor
