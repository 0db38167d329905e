"""Evaluates Runs: the one engine under every causal experiment.

Runs are written one at a time; what they have in common is computed once:

    1. every source run is recorded once, keeping only the places that somebody takes values from;
    2. a run starts at the first layer it touches, from the residual stream of its prompt without interventions, and
       within that layer after the mixing of heads, or after the MLP, if it touches nothing before;
    3. in a causal model nothing before the first touched position changes: only later positions are computed, and
       they see the keys and values of the earlier ones as they are in the prompt without interventions;
    4. runs on one prompt are stacked along the batch axis, within a memory budget, each from its first layer on;
    5. of the last layer only the positions that the metric reads are computed, and of these only the tokens that it
       reads are unembedded; a run that cannot reach them is not computed at all, nor is one that only puts what is
       there anyway (patched at tokens with which both prompts begin, from another run or from a cache).

Each of these is exact: the result is that of one full forward pass for each run. `plans.py` decides, this computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, HookDidNotFire, MetricError
from interp_hooks.errors.arguments import checked, told
from interp_hooks.interventions.lazy_logits import LazyLogits, ReadElsewhere, scored
from interp_hooks.interventions.plans import Plan, Planner, attached, batches
from interp_hooks.interventions.readout import MetricLike, Readout, checked_score, reading
from interp_hooks.interventions.recording import Recorder, hook_functions, steps_of
from interp_hooks.interventions.runs import Run
from interp_hooks.interventions.sites import Recordings
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer

MEMORY = 256 * 2**20  # bytes of activations beyond which stacking more runs on a CPU gains nothing
FEW_RUNS = 4  # for so few runs it is not worth a pass to find out what a plain function reads


class Evaluation(NamedTuple):
    """The metric of every run, and for every run whether each of its interventions made a difference where it was."""

    scores: Float[Tensor, "run ..."]
    changed: list[list[bool]]


class Keeps(ABC):
    """What is told of every batch of runs that is finished, and knows those that were before."""

    @property
    @abstractmethod
    def known(self) -> Mapping[int, tuple[Tensor, list[bool]]]:
        """Scores and changes of finished runs, by their place in the list of runs."""

    @abstractmethod
    def add(self, finished: Mapping[int, tuple[Tensor, list[bool]]]) -> None:
        """Keep those of a batch."""


@checked
def evaluate(
    model: HookedTransformer,
    runs: Sequence[Run],
    metric: MetricLike,
    *,
    max_memory: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "run ..."]:
    """The metric of every run: [run, batch] for a `Metric`; any function of full logits will do in its place.

    `max_memory` bounds the bytes of activations, to within a third: those that runs take values from, which are all
    kept, and those of the runs that are computed together (default: as much as is of use and free). What is kept, and
    a single run on all its prompts, are computed however large they are, and what the metric returns is not counted.
    Nothing is left attached to the model. Hooks that are attached already see several runs at once, stacked along the
    batch axis. The result can be differentiated with respect to masks and tensors of the runs' own interventions that
    require a gradient.

    Raises:
        UnknownHook, BadInput: a site that does not exist or does not fit its run.
        HookDidNotFire: an intervention that the pass never came by.
        MetricError: the metric gives nan, or not the same kind of tensor for every run.

    >>> tokens = model.to_tokens(clean)
    >>> evaluate(model, [Run(tokens), Run(tokens, [Intervention(at("mlp_out", 0), 0.0)])], metric).shape
    torch.Size([2, 4])
    """
    return evaluation(model, runs, metric, max_memory=max_memory, progress=progress).scores


def evaluation(
    model: HookedTransformer,
    runs: Sequence[Run],
    metric: MetricLike,
    *,
    max_memory: int | None = None,
    progress: bool = False,
    keeps: Keeps | None = None,
) -> Evaluation:
    """`evaluate`, with what the interventions changed. Runs that `keeps` knows are not computed again."""
    runs = list(runs)
    if not runs:
        raise BadInput("expected at least one run, got none")
    if other := [one for one in runs if not isinstance(one, Run)]:
        raise BadInput(f"expected runs, got {told(other[0])}")
    if empty := [run.tokens for run in runs if run.tokens.is_meta]:
        raise BadInput(f"tokens of a run must be on a device with memory, got {told(empty[0])}")
    known = {} if keeps is None else keeps.known
    places = [place for place in range(len(runs)) if place not in known]
    learns = any(made.learns for run in runs for made in run.interventions)
    found = dict(known)
    with (
        torch.enable_grad() if learns else torch.no_grad(),
        progress_bar(total=len(runs), initial=len(known), progress=progress, unit="run") as bar,
    ):
        readout, score = _reading(model, runs, metric) if places else (Readout(), metric)
        for finished in _scored(model, {place: runs[place] for place in places}, readout, score, max_memory):
            if keeps is not None:
                keeps.add(finished)
            found |= finished
            bar.update(len(finished))
    shapes = {tuple(score.shape) for score, _ in found.values()}
    if len(shapes) > 1:
        raise MetricError(f"the metric gives tensors of different shapes for different runs: {sorted(shapes)}")
    ordered = [found[place] for place in range(len(runs))]
    for run, (_, changed) in zip(runs, ordered, strict=True):
        if len(changed) < len(run.interventions):
            raise HookDidNotFire(f"no pass came by one of {[made.site.hook for made in run.interventions]}")
    return Evaluation(torch.stack([score for score, _ in ordered]), [changed for _, changed in ordered])


def _reading(
    model: HookedTransformer, runs: Sequence[Run], metric: MetricLike
) -> tuple[Readout, Callable[[Tensor], Tensor]]:
    """What a metric reads of these runs, and how it scores that.

    A plain function is called once on the prompts left alone to see which position it reads, so that of many runs only
    that position has to be computed.
    """
    readout, score = reading(model, metric)
    worth_it = len(runs) > FEW_RUNS and len({run.tokens.shape for run in runs}) == 1
    if not readout.on_demand or not worth_it or attached(model):
        return readout, score
    prompts, n_layers = runs[0], model.cfg.n_layers
    with torch.no_grad():
        stream = model(prompts.tokens, attention_mask=prompts.attention_mask, stop_at_layer=n_layers)
        logits = LazyLogits.of(model, stream, prompts.tokens.shape[1])
        score(logits)
    return replace(readout, pos=logits.position_read()), score


def _scored(
    model: HookedTransformer,
    runs: Mapping[int, Run],
    readout: Readout,
    score: Callable[[Tensor], Tensor],
    max_memory: int | None,
) -> Iterator[dict[int, tuple[Tensor, list[bool]]]]:
    """Scores and changes of the runs, by place, as they are finished."""
    planner = Planner(model, readout)
    keys, plans = list(runs), [planner.plan(run) for run in runs.values()]
    recorder = Recorder(planner)
    for plan in plans:
        recorder.want_start(plan)
    recordings = recorder.record()
    plans = [planner.answered(plan, recordings) for plan in plans]
    budget = free_memory(model) if max_memory is None else max_memory - recordings.bytes()
    waiting = list(batches(model, plans, readout, budget))[::-1]
    in_full: dict[int, Run] = {}  # runs in which a plain function reads other positions than it did before
    while waiting:
        places = waiting.pop()
        together = [plans[place] for place in places]
        earlier = recorder.prefixes.get(together[0].run.left_alone().key)
        try:
            logits, changed = Batch(planner, together, recordings, earlier).execute()
        except torch.OutOfMemoryError:
            if len(places) == 1 or model.ranks is not None:  # other ranks may have had enough
                raise
            half = len(places) // 2
            waiting += [places[half:], places[:half]]
            continue
        finished = {}
        for place, did in zip(places, changed, strict=True):
            one = logits.pop(0)  # so that what is computed of it can go when it was scored
            key, prompts = keys[place], len(together[0].run.tokens)
            try:
                finished[key] = checked_score(scored(score, one), f"run {key}", prompts), did
            except ReadElsewhere:
                in_full[key] = runs[key]
        yield finished
    if in_full:
        yield from _scored(model, in_full, replace(readout, pos=None), score, max_memory)


def free_memory(model: HookedTransformer, on_cpu: int = MEMORY) -> int:
    """Bytes that stacked runs may take: on a GPU half of what is free, else `on_cpu`."""
    if model.device.type != "cuda":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(model.device)
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return (free + unused) // 2 if model.ranks is None else model.ranks.least((free + unused) // 2)


class Batch:
    """Runs on one prompt that are computed together, in the order in which they join."""

    def __init__(
        self, planner: Planner, plans: Sequence[Plan], recordings: Recordings, earlier: KeyValueCache | None
    ) -> None:
        self.model, self.stream, self.readout = planner.model, planner.stream, planner.readout
        self.plans, self.earlier = plans, earlier
        self.run, self.first = plans[0].run, plans[0].first
        self.unchanged = recordings.runs.get(self.run.left_alone().key, {})
        self.steps = [steps_of(planner, plan.run, recordings, plan.first) for plan in plans]
        self.changed: list[dict[int, Tensor]] = [{} for _ in plans]
        self.after_blocks = plans[0].late == 2
        cut = self.readout.pos is not None and not self.after_blocks
        self.reads = self.readout.positions(self.run) - self.first if cut else None
        self.mask = self.run.attention_mask

    def execute(self) -> tuple[list[Tensor], list[list[bool]]]:
        """What the readout reads of each of the runs, and what was changed in it."""
        n_layers = self.model.cfg.n_layers
        stream: Tensor | None = None
        present, layer = 0, 0
        for stop in sorted({plan.joins for plan in self.plans} | {n_layers}):
            streams = [] if stream is None else [self._through(stream, layer, stop, range(present))]
            for known in sorted({tuple(sorted(plan.known)) for plan in self.plans if plan.joins == stop}):
                members = [row for row, plan in enumerate(self.plans) if plan.joins == stop and {*known} == plan.known]
                streams.append(self._joining(stop, known, range(members[0], members[-1] + 1)))
                present += len(members)
            stream, layer = streams[0] if len(streams) == 1 else torch.cat(streams), stop
        assert stream is not None
        logits = self._read(stream)
        self._see_what_cannot_reach()
        return logits, [[bool(did[made]) for made in sorted(did)] for did in self.changed]

    def _joining(self, layer: int, known: Sequence[str], members: range) -> Tensor:
        """The stream of runs that join the others as it enters a layer; before the embeddings, their tokens."""
        if layer < 0:
            return _stacked(self.run.tokens[:, self.first :], len(members))
        start = layer - bool(known)
        entering = self.unchanged[self.stream.entering(start)][:, self.first :]
        if known:
            values = {what: self.unchanged[self.stream.shows(what, start)][:, self.first :] for what in known}
            stacked = {what: _stacked(value, len(members)) for what, value in values.items()}
            return self._through(_stacked(entering, len(members)), start, layer, members, stacked)
        if layer == self.model.cfg.n_layers and self.reads is not None:
            entering = at_positions(entering, self.reads)
        return _stacked(entering, len(members))

    def _through(
        self, stream: Tensor, start: int, stop: int, members: range, known: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The stream of some of the runs as it enters layer `stop`, from that as it enters `start`."""
        steps, changed = self.steps[members.start : members.stop], self.changed[members.start : members.stop]
        arguments: dict[str, Any] = {
            "attention_mask": None if self.mask is None else _stacked(self.mask, len(members)),
            "fwd_hooks": hook_functions(steps, range(start, stop), changed),
            "stop_at_layer": stop,
        }
        if self.first:
            assert self.earlier is not None
            layers = range(max(start, 0), stop)
            arguments["past_kv_cache"] = self.earlier.prefix(self.first, len(members), layers)
        if stop == self.model.cfg.n_layers and self.reads is not None:
            arguments["logits_pos"] = _stacked(self.reads, len(members))
        if start >= 0:
            arguments |= {"start_at_layer": start, "known": known}
        return self.model.run_with_hooks(stream, **arguments)

    def _read(self, stream: Tensor) -> list[Tensor]:
        """What the readout reads of each of the final streams."""
        if self.after_blocks:
            n_layers = self.model.cfg.n_layers
            hooks = hook_functions(self.steps, range(n_layers, n_layers + 1), self.changed)
            logits = self.model.run_with_hooks(stream, start_at_layer=n_layers, fwd_hooks=hooks)
            return [self.readout.select(one, self.run) for one in logits.chunk(len(self.plans))]
        return self.readout.read(self.model, stream, self.run, cut=self.reads is not None)

    def _see_what_cannot_reach(self) -> None:
        """Make interventions that are of no consequence on a copy, to know whether they fit and change anything."""
        for plan, steps, changed in zip(self.plans, self.steps, self.changed, strict=True):
            for step in [] if plan.reaches else steps:
                did = step.act(self.unchanged[step.hook].clone(), self.model.hook_dict[step.hook])
                assert did is not None
                changed[step.made] = did & plan.changes


def _stacked(value: Tensor, copies: int) -> Tensor:
    """Copies of all prompts, one below the other."""
    return value.repeat(copies, *[1] * (value.ndim - 1))
