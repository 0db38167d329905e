"""Passes that can be differentiated, over all prompts of a run together or over some of them at a time.

A metric may mix prompts, so that its gradient cannot be had from some of them. Where all do not fit into memory:

    1. read       passes without gradient collect what the metric reads of all prompts
    2. score      the metric of all prompts, and its gradient g with respect to what was read
    3. go back    passes with gradient over the same prompts, each from its own part of g

Such a pass keeps the activations asked for and what autograd needs of the layers after them; no weight gets a
gradient. It is a pass of its own, since one graph serves all of these activations, where runs of the engine would each
have theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import MetricError
from interp_hooks.experiments.backward_rules import BackwardRules
from interp_hooks.hooks.modes import no_gradients, with_constant_weights, with_gradients
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.engine import free_memory
from interp_hooks.interventions.lazy_logits import LazyLogits
from interp_hooks.interventions.plans import attached
from interp_hooks.interventions.prompts import parts_of, readout_of
from interp_hooks.interventions.readout import MetricLike, Readout, counted_score, metric_name, read_pass, reading
from interp_hooks.interventions.runs import Run
from interp_hooks.model.components.norm import holding_scales
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

P = ParamSpec("P")
R = TypeVar("R")
Hooks = Sequence[tuple[str, Callable[..., Tensor | None]]]
TOGETHER = 2**31  # bytes up to which prompts stay together on a CPU: each part costs a pass more


@dataclass(frozen=True, kw_only=True, eq=False)
class Differentiable:
    """A metric of all prompts, and activations of some, by hook name, with respect to which it can be differentiated.

    What is differentiated is the sum of `of`, or its product with the `cotangent`.
    """

    scores: Float[Tensor, " prompt"]
    values: dict[str, Tensor]
    of: Tensor
    cotangent: Tensor | None = None

    @with_gradients
    def gradients(self, *, again: bool = False) -> dict[str, Tensor]:
        """The gradient of the summed scores with respect to the activations; 0 where nothing reads them.

        To be asked once, unless `again` keeps for another time what autograd has kept so far.
        """
        listed = list(self.values.values())
        found = torch.autograd.grad(self.of, listed, self.cotangent, retain_graph=again, materialize_grads=True)
        return dict(zip(self.values, found, strict=True))


def moved_by(change: Tensor) -> Callable[..., Tensor]:
    """A hook that adds something to what is there."""
    return lambda value, hook: value + change.to(value)


@dataclass(frozen=True, eq=False)
class Pass:
    """A pass over some prompts (`rows`) of a run, with hooks, and what is to be done once it can be differentiated."""

    run: Run
    rows: slice
    hooks: Hooks
    use: Callable[[Differentiable], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A metric of all prompts of a run, from what it reads of passes over some of them.

    `flat` says what an error is about where the metric has no gradient, if not about activations. With `rules` the
    backward pass goes by these.
    """

    model: HookedTransformer
    metric: MetricLike
    run: Run
    flat: str | None = None
    rules: BackwardRules | None = None

    @cached_property
    def _reading(self) -> tuple[Readout, Callable[[Tensor], Tensor]]:
        return reading(self.model, self.metric)

    @property
    def whole(self) -> slice:
        """All prompts."""
        return slice(0, len(self.run.tokens))

    def read(self, run: Run, rows: slice, hooks: Hooks) -> Tensor:
        """What is read of one pass, which unembeds nothing else."""
        ruled = [] if self.rules is None else self.rules.hooks(self.model)
        (read,) = self._by_rules(read_pass)(Stream(self.model), self.readout_of(rows), run, 1, -1, {}, [*ruled, *hooks])
        return read

    def _by_rules(self, function: Callable[P, R]) -> Callable[P, R]:
        return function if self.rules is None else holding_scales(function)

    def readout_of(self, rows: slice) -> Readout:
        """Which logits of some of the prompts the metric reads."""
        readout = self._reading[0]
        return readout if rows == self.whole else readout_of(readout, rows, len(self.run.tokens))

    @property
    def kept_numbers(self) -> int:
        """How many numbers of a pass are kept for each prompt until all are scored."""
        readout, length, cfg = self._reading[0], self.run.tokens.shape[1], self.model.cfg
        if readout.on_demand:
            return length * (cfg.d_vocab_out if Stream(self.model).watched_at_the_end else cfg.d_model)
        if readout.next_tokens:
            return 2 * length
        read = length if readout.pos is None else 1
        return read * (cfg.d_vocab_out if readout.tokens is None else readout.tokens.shape[1])

    @property
    def read_numbers(self) -> int:
        """How many numbers a metric without gradient makes of each prompt's logits: of all, if nobody knows which."""
        readout, cfg = self._reading[0], self.model.cfg
        if readout.tokens is not None:
            return 4 * self.kept_numbers
        everywhere = readout.on_demand or readout.next_tokens or readout.pos is None
        return 4 * cfg.d_vocab_out * (self.run.tokens.shape[1] if everywhere else 1)

    def score(self, read: Tensor) -> Any:
        """What the metric makes of what was read of all prompts."""
        return self._by_rules(self._reading[1])(read)

    def scores(self, read: Tensor) -> Float[Tensor, " prompt"]:
        """The metric of what was read of all prompts; one number for all of them counts as one prompt.

        Raises:
            MetricError: it gives anything else, or a number that is not finite.
        """
        scores, name = self.score(read), metric_name(self.metric)
        if not isinstance(scores, Tensor) or scores.ndim > 1:
            came = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise MetricError(f"the metric must give one number for each prompt, got {came}")
        return finite(counted_score(scores, name, len(self.run.tokens)).reshape(-1), name)

    def joined(self, parts: Sequence[Tensor], *, lazy: bool) -> Tensor:
        """What was read of all prompts, from what `tensor_of` kept of some at a time."""
        if not lazy:
            return torch.cat([*parts])
        batch, length = self.run.tokens.shape
        return LazyLogits.of(self.model, torch.cat([*parts]).unflatten(0, (batch, length)), length)

    def flat_error(self, names: Sequence[str]) -> MetricError:
        """What to raise where nothing can be differentiated."""
        activations = (
            f"{', '.join(names[:3])}: it counts or ranks, is computed outside torch, or does not depend on these "
            "activations; use patch instead, or another metric"
        )
        return MetricError(f"{metric_name(self.metric)} has no gradient with respect to {self.flat or activations}")


def tensor_of(read: Tensor) -> Tensor:
    """What was read, or what it is computed from when somebody looks at it."""
    return read.final_stream if isinstance(read, LazyLogits) else read


@with_gradients
def differentiable(objective: Objective, run: Run, names: Sequence[str], hooks: Hooks = ()) -> Differentiable:
    """One pass over a run, with `hooks`, that keeps the activations at `names` (as the hooks leave them) and the graph.

    Raises:
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.
    """
    objective = replace(objective, run=run)
    read, values = _with_graph(objective, run, objective.whole, hooks, names)
    scores = with_constant_weights(objective.scores)(read)
    if not scores.requires_grad:
        raise objective.flat_error(names)
    return Differentiable(scores=scores.detach(), values=values, of=scores.sum())


def differentiated(
    objective: Objective, parts: Sequence[slice], passes: Callable[[slice], Iterable[Pass]], names: Sequence[str]
) -> list[Float[Tensor, " prompt"]]:
    """Use each of some passes, once it can be differentiated, for one part of the prompts after the other.

    `passes` makes, of any part, as many passes as of any other; returned are the scores of all prompts in each.

    Raises:
        MetricError: the metric is not one number for each prompt, or cannot be differentiated.
    """
    if len(parts) == 1:
        return [_used_whole(objective, one, names) for one in passes(parts[0])]
    found = [_cotangent(objective, parts, lazy, names) for parts, lazy in _reads(objective, parts, passes)]
    for rows in parts:
        for one, (scores, cotangent) in zip(passes(rows), found, strict=True):
            _used_part(objective, one, names, scores, cotangent)
    return [scores for scores, _ in found]


def _used_whole(objective: Objective, one: Pass, names: Sequence[str]) -> Tensor:
    done = differentiable(objective, one.run, names, one.hooks)
    one.use(done)
    return done.scores


def _used_part(objective: Objective, one: Pass, names: Sequence[str], scores: Tensor, cotangent: Tensor) -> None:
    read, values = _with_graph(objective, one.run, one.rows, one.hooks, names)
    of = tensor_of(read)
    if not of.requires_grad:
        raise objective.flat_error(names)
    each = len(cotangent) // len(objective.run.tokens)  # rows of a final stream, or one
    part = cotangent[one.rows.start * each : one.rows.stop * each]
    one.use(Differentiable(scores=scores, values=values, of=of, cotangent=part))


@no_gradients
def _reads(
    objective: Objective, parts: Sequence[slice], passes: Callable[[slice], Iterable[Pass]]
) -> list[tuple[list[Tensor], bool]]:
    """For each of the passes what is read of it, part by part, and whether that is the final stream below it."""
    found: list[tuple[list[Tensor], bool]] = []
    for rows in parts:
        for place, one in enumerate(passes(rows)):
            read = objective.read(one.run, one.rows, one.hooks)
            found += [([], isinstance(read, LazyLogits))] * (place == len(found))
            found[place][0].append(tensor_of(read))
    return found


def scored(
    objective: Objective, parts: Sequence[slice], passes: Callable[[slice], Iterable[Pass]]
) -> list[Float[Tensor, " prompt"]]:
    """The scores of all prompts in each of some passes, without gradient."""
    with torch.no_grad():
        if len(parts) == 1:
            return [objective.scores(objective.read(one.run, one.rows, one.hooks)) for one in passes(parts[0])]
        reads = _reads(objective, parts, passes)
        return [objective.scores(objective.joined(of_parts, lazy=lazy)) for of_parts, lazy in reads]


@with_gradients
def _cotangent(
    objective: Objective, parts: Sequence[Tensor], lazy: bool, names: Sequence[str]
) -> tuple[Float[Tensor, " prompt"], Tensor]:
    """The scores of all prompts, and the gradient of their sum with respect to what was read."""
    leaf = torch.cat([*parts]).requires_grad_()
    scores = with_constant_weights(objective.scores)(objective.joined([leaf], lazy=lazy))
    if not scores.requires_grad:
        raise objective.flat_error(names)
    (cotangent,) = torch.autograd.grad(scores.sum(), leaf, materialize_grads=True)
    return scores.detach(), cotangent


def _with_graph(
    objective: Objective, run: Run, rows: slice, hooks: Hooks, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is read of a pass, and the activations at `names`, with the graph between them."""
    values: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> Tensor:
        values[hook.name] = value.requires_grad_()
        return value

    read = with_constant_weights(objective.read)
    return read(run, rows, [*hooks, *((name, keep) for name in names)]), values


def finite(values: Tensor, what: str) -> Tensor:
    """The values, if all of them are numbers.

    Raises:
        MetricError: one is nan or infinite.
    """
    if not bool(values.isfinite().all()):
        raise MetricError(
            f"{what} gives values that are not finite. Look for infinite activations (masked attention scores) or "
            "logits on one side of a difference, a division by zero, or a gradient that overflows"
        )
    return values


# -------------------------------------------------------------------------------------------------------------- memory


@contextmanager
def kept_by_autograd(model: HookedTransformer) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Within the block, the memory that autograd keeps, but for that of the model's own tensors."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return kept.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        yield storages


def bound(model: HookedTransformer, max_memory: int | None) -> int | None:
    """The bytes that passes may take; None where prompts stay together, as functions that users attach see them."""
    if max_memory is None and attached(model):
        return None
    return free_memory(model, TOGETHER) if max_memory is None else max_memory


def rough_bytes(model: HookedTransformer, length: int, *, per_head: bool) -> float:
    """More than a pass with gradient and its metric take for a prompt of `length` tokens; inf where that is unclear.

    `per_head` tells whether the inputs of single heads are hooked, so that each head has a stream of its own.
    """
    cfg = model.cfg
    if cfg.experts is not None or attached(model):
        return float("inf")
    inputs = 6 * (cfg.n_heads + 2 * cfg.n_key_value_heads) * cfg.d_model if per_head else 0
    attention = 10 * cfg.n_heads * (cfg.d_head + 2 * length)
    layer = inputs + attention + 16 * cfg.d_model + 16 * cfg.d_mlp
    return 8 * length * (cfg.n_layers * layer + 6 * cfg.d_vocab_out)


def parts_within(
    objective: Objective,
    first: Callable[[], Pass],
    names: Sequence[str],
    most: int | None,
    *,
    rough: float,
    takes: Callable[[int, int], int],
    stays: int = 0,
    passes: int = 1,
) -> list[slice]:
    """The prompts in parts whose passes with gradient take at most so many bytes each, as far as one prompt does.

    What a prompt `takes` is computed from the bytes that autograd keeps of a `first` pass over one and those of its
    activations at `names`, unless a rough guess says that all prompts fit. As many copies of the latter as `stays` are
    there for all prompts all the time, as is what the metric reads in each of the `passes`.
    """
    batch = len(objective.run.tokens)
    if most is None or batch == 1 or batch * rough <= most:
        return [objective.whole]
    one = first()
    with kept_by_autograd(objective.model) as storages:
        read, values = _with_graph(objective, one.run, one.rows, one.hooks, names)
    activations = sum(value.nbytes for value in values.values())
    each = takes(sum(storage.nbytes() for storage in storages.values()), activations)
    stay = stays * activations
    if batch * (each + stay + _bytes_of_score(read)) <= most:
        return [objective.whole]
    held = batch * (stay + 2 * passes * tensor_of(read).nbytes)
    return parts_of(batch, (most - held) // each)


def _bytes_of_score(read: Tensor) -> int:
    """What a metric makes of what it reads, when it is to be differentiated: all logits, of a plain function."""
    return 6 * read.numel() * read.element_size()
