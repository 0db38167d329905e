"""Runs, sources and readouts of some of a run's prompts, so that what all of them would take need not be there at once.

A part of the prompts says which of its tokens are real, also where all are: padding that is found in all rows together
may not be found in some of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.interventions.readout import Metric, Readout, for_each_prompt
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, Mean, Resample, Run, SourceLike, masked
from interp_hooks.interventions.sites import Here, Recording, Site, Source
from interp_hooks.interventions.subspaces import Pointwise
from interp_hooks.model.transformer import HookedTransformer

Rows = slice | Tensor
"""Some of the prompts: a slice, or their numbers [n]."""


class Inseparable(Exception):
    """A source that only all prompts together have: a function, a class of somebody's own, or one that doesn't fit."""


def parts_of(batch: int, size: int) -> list[slice]:
    """All prompts in parts of at most `size`, and of at least one, which differ by no more than one prompt."""
    parts = -(-batch // max(1, size))
    ends = [part * batch // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def run_of(model: HookedTransformer, run: Run, rows: Rows) -> Run:
    """A run on some of its prompts, in which the same is done.

    Raises:
        Inseparable: something is done that cannot be told apart by prompts.
    """
    batch = len(run.tokens)
    made = [_made_of(model, one, rows, batch) for one in run.interventions]
    return Run(run.tokens[rows], made, masked(model, run).real[rows])


def source_of(model: HookedTransformer, source: SourceLike, rows: Rows, batch: int) -> SourceLike:
    """What a source puts at whole hooks of these prompts of a run of `batch`; a mean stays that of all its prompts.

    Raises:
        Inseparable: nobody can tell what that is.
    """
    if isinstance(source, Run) and len(source.tokens) == batch:
        return run_of(model, source, rows)
    if isinstance(source, Resample) and len(source.order) == batch and source.fits:
        order = source.order[_beside(rows, source.order)].to(source.run.tokens.device)
        return Resample(run_of(model, source.run, order), torch.arange(len(order)))
    if isinstance(source, int | float | Mean | Pointwise):
        return source
    if isinstance(source, Tensor):
        return _Part(source, rows, batch)
    if isinstance(source, Mapping) and all(isinstance(value, Tensor) for value in source.values()):
        return {hook: value[rows] if value.ndim and len(value) == batch else value for hook, value in source.items()}
    raise Inseparable


def in_parts(model: HookedTransformer, run: Run, size: int) -> list[Run]:
    """A run in parts of at most `size` of its prompts, and of at least one, if they can be told apart."""
    parts = parts_of(len(run.tokens), size)
    try:
        return [run] if len(parts) == 1 else [run_of(model, run, rows) for rows in parts]
    except Inseparable:
        return [run]


def record_parts(model: HookedTransformer, run: Run, hooks: Sequence[str], size: int) -> Recording:
    """The activations that a run has at some hooks, recorded for at most `size` of its prompts at a time."""
    found = [record(model, some, hooks) for some in in_parts(model, run, size)]
    return found[0] if len(found) == 1 else {hook: torch.cat([one[hook] for one in found]) for hook in found[0]}


@dataclass(frozen=True, eq=False)
class _Part(Source):
    """Some prompts of a tensor that has an axis of them, or all of one that has not."""

    value: Tensor
    rows: Rows
    batch: int

    def put(self, here: Here) -> Tensor:
        value = self.value.to(here.value)
        return value[self.rows] if value.ndim == here.value.ndim and len(value) == self.batch else value


def _made_of(model: HookedTransformer, made: Intervention, rows: Rows, batch: int) -> Intervention:
    """An intervention in some of the prompts."""
    selected = made.site.select.values()
    if isinstance(made.mask, Tensor) and made.mask.ndim:
        raise Inseparable
    if isinstance(made.source, Tensor) and not all(isinstance(one, int) for one in selected):
        raise Inseparable  # whose axes may stand in another order than those of the hook
    into = None if made.into is None else _site_of(made.into, rows, batch)
    source = source_of(model, made.source, rows, batch)
    return replace(made, site=_site_of(made.site, rows, batch), source=source, into=into)


def _site_of(site: Site, rows: Rows, batch: int) -> Site:
    if "batch" in site.select or any(isinstance(one, Tensor) and len(one) != batch for one in site.select.values()):
        raise Inseparable
    return replace(site, select=select_of(site.select, rows))


def select_of(select: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """The same selection in some of the prompts."""
    return {axis: one[_beside(rows, one)] if isinstance(one, Tensor) else one for axis, one in select.items()}


def readout_of(readout: Readout, rows: Rows, batch: int, answers: Rows | None = None) -> Readout:
    """What is read of some of the prompts, with the tokens that are read of `answers` (default: of the same prompts).

    Raises:
        BadInput: the readout is of another number of prompts.
    """
    pos, tokens = readout.pos, readout.tokens
    if isinstance(pos, Tensor):
        pos = for_each_prompt(pos.reshape(-1), batch, "position")[_beside(rows, pos)]
    if tokens is not None:
        tokens = for_each_prompt(tokens, batch, "answer")[_beside(rows if answers is None else answers, tokens)]
    return replace(readout, pos=pos, tokens=tokens)


def _beside(rows: Rows, value: Tensor) -> Rows:
    """Rows on the device of what they are rows of."""
    return rows.to(value.device) if isinstance(rows, Tensor) else rows


@dataclass(frozen=True, eq=False)
class MetricOf(Metric):
    """A metric of other prompts than it was made for, of which it has to score each by itself.

    Prompt i is scored at the position that the metric has for prompt `rows[i]`, by the answer that it has for prompt
    `answers[i]`. With both alike these are some of its prompts, some of them several times, as a bootstrap draws them;
    with other `answers`, prompts are scored by the answers of others. `metric` must be one of token ids (`Metric.on`).
    """

    metric: Metric
    rows: Int[Tensor, " prompt"]
    answers: Int[Tensor, " prompt"]
    batch: int

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.name

    @property
    def lower_is_better(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.lower_is_better

    @property
    def highest(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.highest

    @property
    def readout(self) -> Readout:
        return readout_of(self.metric.readout, self.rows, self.batch, self.answers)

    def score(self, logits: Tensor) -> Float[Tensor, " prompt"]:
        answers = self.answers.to(logits.device)
        scored_as = torch.zeros(self.batch, dtype=torch.long, device=logits.device)  # prompts without one borrow a row
        scored_as[answers] = torch.arange(len(answers), device=logits.device)
        return self.metric.score(logits[scored_as])[answers]
