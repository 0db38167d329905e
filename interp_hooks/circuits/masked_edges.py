"""Passes in which any number of edges carry what their writers write elsewhere.

    reader's input += sum over writers of  mask[writer, reader] * (written in the source - written in this pass)

`Intervention(writer, source, into=reader, mask=...)` does this for one pair of hooks; here all writers are stacked, so
that each hook that reads needs a single product (`changes.py`; features of a dictionary, of which there may be many
thousands, are multiplied some at a time). Several masks share a pass, as copies of the prompts along the batch axis. A
pass begins at the first layer that it changes, since everything before that is the same for all masks.

If the graph tells positions apart, each token of a prompt has the masks of the readers at its position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.circuits.changes import BLOCK, Changes, FeatureChanges
from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.layout import Part
from interp_hooks.circuits.setting import label_places, stacked
from interp_hooks.errors import MetricError
from interp_hooks.experiments.differentiable import Objective, bound, tensor_of
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.edges import Edge
from interp_hooks.interventions.engine import free_memory
from interp_hooks.interventions.lazy_logits import LazyLogits
from interp_hooks.interventions.prompts import Inseparable, in_parts, parts_of, run_of, source_of
from interp_hooks.interventions.readout import MetricLike, checked_score, read_pass
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, Mean, Run, SourceLike, as_source
from interp_hooks.interventions.sites import Recording, Recordings, at
from interp_hooks.model.stream import Stream, part_axis
from interp_hooks.model.transformer import HookedTransformer

OF_FEATURES = 6  # numbers of a pass for each feature: before and after its activation, untouched and not, in the source


def writers_of(stream: Stream, graph: ComputationGraph) -> tuple[int, int]:
    """How many writers of a graph write vectors of their own, and how many are features of dictionaries."""
    features = sum(len(part.names) for part in graph.writer_parts if stream.rows_of(part.hook) is not None)
    return len(graph.writers) - features, features


@dataclass(frozen=True)
class Numbers:
    """How many numbers there are for each prompt: in every pass without gradient, and before the first of them.

    Before it, what is written in the source and in the run is known, and how the two differ for each writer. In a pass,
    what reaches readers from each writer is there beside the inputs of all heads of a layer, before and after a norm.
    """

    of_state: int
    of_pass: int

    @classmethod
    def of(cls, model: HookedTransformer, graph: ComputationGraph, written: Sequence[str], length: int) -> Numbers:
        """Those of prompts of `length` tokens. Features of dictionaries have a number each, where other writers have a
        vector, and of the most that are multiplied at a time one for each reader."""
        cfg, points = model.cfg, map(model.hook_dict.get, written)
        writers, features = writers_of(Stream(model), graph)
        recorded = sum(math.prod(point.sizes[axis] for axis in point.axes[2:]) for point in points if point is not None)
        inputs = cfg.n_heads + 2 * cfg.n_key_value_heads
        state = 2 * recorded + (cfg.n_layers + writers + 2 * cfg.n_heads + 4) * cfg.d_model + features
        weights = 2 * max(len(part.names) for part in graph.reader_parts) * (writers + min(features, BLOCK))
        passing = (writers + 4 * inputs + 4) * cfg.d_model + 5 * cfg.d_mlp + weights + OF_FEATURES * features
        return cls(length * state, length * passing)


class MaskedEdges:
    """Passes over one run in which edges take their values from a source, some of its prompts at a time if need be.

    `most` are the bytes that they may take: None where prompts are not to be told apart, since functions attached by
    users, or a source that is a function, see all of them.
    """

    def __init__(
        self,
        model: HookedTransformer,
        run: Run,
        source: SourceLike,
        metric: MetricLike,
        positions: Mapping[str, int | Tensor] | None = None,
        max_memory: int | None = None,
    ) -> None:
        self.model, self.run, self.source = model, run, source
        self.graph, self.stream = ComputationGraph(model, positions or ()), Stream(model)
        self.places = label_places(run, positions) if positions else torch.zeros(1, 1, dtype=torch.long)
        self.objective = Objective(model=model, metric=metric, run=run)
        self.memory = free_memory(model) if max_memory is None else max_memory
        self.most = bound(model, max_memory) if self._separable else None

    @property
    def _separable(self) -> bool:
        try:
            source_of(self.model, self.source, slice(0, 1), len(self.run.tokens))
        except Inseparable:
            return False
        return True

    @property
    def written(self) -> list[str]:
        """The hooks at which one sees what writers write."""
        hooks = [part.hook for part in self.graph.writer_parts]
        return [*hooks, *filter(None, map(self.stream.scale_of, hooks))]

    @cached_property
    def numbers(self) -> Numbers:
        """How many numbers passes have for each prompt."""
        return Numbers.of(self.model, self.graph, self.written, self.run.tokens.shape[1])

    @cached_property
    def means(self) -> dict[Any, Tensor]:
        """What a source that is a mean puts at every hook, as `Recordings.made` keeps it."""
        mean, made = self.source, dict[Any, Tensor]()
        if not isinstance(mean, Mean):
            return made
        sums = dict[str, tuple[Tensor, Tensor]]()
        each = self.numbers.of_state * self.model.W_E.element_size()
        for run in in_parts(self.model, mean.run, self.memory // each):
            of_run = replace(mean, run=run)
            for hook, value in record(self.model, run, self.written).items():
                total, count = of_run.summed(value, self.model.hook_dict[hook], self.model)
                before = sums.get(hook, (0.0, 0.0))
                sums[hook] = before[0] + total, before[1] + count
        return {(mean.key, hook): (total / count).to(self.model.dtype) for hook, (total, count) in sums.items()}

    def some(self, rows: slice) -> SomePrompts:
        """Some of the prompts; all of them, once made, are kept."""
        if rows == self.objective.whole:
            return self.whole
        batch, places = len(self.run.tokens), self.places
        places = places[rows] if len(places) == batch else places
        source = source_of(self.model, self.source, rows, batch)
        return SomePrompts(self, rows, run_of(self.model, self.run, rows), source, places)

    @cached_property
    def whole(self) -> SomePrompts:
        """All prompts."""
        return SomePrompts(self, self.objective.whole, self.run, self.source, self.places)

    def of_circuits(self, circuits: Sequence[Circuit]) -> Float[Tensor, "circuit prompt"]:
        """The metric of each circuit: all edges outside it carry their values in the source.

        Raises:
            BadInput: a circuit of another graph.
        """
        return self.of_kept(stacked(self.graph, circuits))

    def of_kept(self, kept: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
        """The same for circuits that are given as matrices."""
        return self.scores((self.graph.exists & ~kept).to(self.model.dtype))

    @no_gradients
    def scores(self, masks: Float[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
        """The metric with each of these masks: 0 leaves an edge as it is, 1 replaces what it carries.

        A metric that gives one number for all prompts counts as having one prompt.

        Raises:
            MetricError: the metric does not give one number for each prompt or one for all, or gives nan.
        """
        numbers, batch = self.numbers, len(self.run.tokens)
        size = torch.finfo(self.model.dtype).bits // 8
        left = self.memory // size - batch * self.objective.read_numbers
        if self.most is None or batch == 1 or batch * (numbers.of_state + numbers.of_pass) <= left:
            together = (left - batch * numbers.of_state) // (batch * numbers.of_pass)
            reads = (read for few in masks.split(max(1, together)) for read in self.whole.reads(few))
            return torch.stack([self._score(read) for read in reads])
        kept = max(1, left // 4 // (batch * self.objective.kept_numbers))  # masks of which all reads can be kept
        return torch.cat([self._scores_in_parts(some, left) for some in masks.split(kept)])

    def _scores_in_parts(self, masks: Float[Tensor, "circuit writer reader"], left: int) -> Tensor:
        """The same for masks that are passed over one part of the prompts after the other."""
        numbers, batch = self.numbers, len(self.run.tokens)
        left -= batch * len(masks) * self.objective.kept_numbers
        found: list[list[Tensor]] = [[] for _ in masks]
        lazy = False
        for rows in parts_of(batch, left // (numbers.of_state + numbers.of_pass)):
            some = self.some(rows)
            for of_mask, mask in zip(found, masks, strict=True):
                (read,) = some.reads(mask[None])
                lazy = isinstance(read, LazyLogits)
                of_mask.append(tensor_of(read))
        return torch.stack([self._score(self.objective.joined(found.pop(0), lazy=lazy)) for _ in masks])

    def _score(self, read: Tensor) -> Float[Tensor, " prompt"]:
        score = checked_score(self.objective.score(read), "a circuit", len(self.run.tokens))
        if score.ndim > 1:
            expected = f"one number for each prompt, of which there are {len(self.run.tokens)}, or one for all"
            raise MetricError(f"the metric must give {expected}, got shape {list(score.shape)}")
        return score.reshape(-1)


class SomePrompts:
    """Some of the prompts of masked edges, with what all passes over them have in common.

    Each is a pass of its own, not a run of the engine: all edges into a reader are one product of matrices, where
    interventions would be made one by one, thousands of them.
    """

    def __init__(
        self, edges: MaskedEdges, rows: slice, run: Run, source: SourceLike, places: Int[Tensor, "batch pos"]
    ) -> None:
        self.rows, self.run, self.source, self.places = rows, run, source, places
        self.model, self.graph, self.stream = edges.model, edges.graph, edges.stream
        self.objective, self.written = edges.objective, edges.written
        self.recordings = Recordings(self.model)
        self.recordings.made |= edges.means
        for other in [] if isinstance(source, Mean) else as_source(source).runs:
            self.recordings.runs[other.key] = record(self.model, other, self.written)

    def edges_of(self, part: Part, copies: int) -> list[Edge]:
        """For each copy of the prompts an `Edge`, which notes how what some writers write would change."""
        last = self.graph.reader_parts[-1].hook
        made = Intervention(at(part.hook), self.source, into=at(last))
        return [Edge(self.stream, made, self.recordings, 0, every=True) for _ in range(copies)]

    def changes_from(self, values: Recording) -> Changes:
        """What every writer writes in the source minus what it writes in a pass with these values at `written`."""
        changes = Changes(writers_of(self.stream, self.graph)[0])
        for part in self.graph.writer_parts:
            point, rows = self.model.hook_dict[part.hook], self.stream.rows_of(part.hook)
            if rows is not None:
                changes.add_features(part, self.features_of(part, rows, values[part.hook], point))
                continue
            (edge,) = self.edges_of(part, 1)
            edge.send(values[part.hook], point)
            scale = self.stream.scale_of(part.hook)
            if scale is not None:
                edge.send_normalized(values[scale], self.model.hook_dict[scale])
            change, edge.change = edge.change, None
            assert change is not None
            changes.add(part, change.to(self.model.device))
        return changes

    def features_of(self, part: Part, rows: Tensor, value: Tensor, point: HookPoint) -> FeatureChanges:
        """How much the features of a dictionary change, from what they are in a pass."""
        new = value.clone()
        Intervention(at(part.hook), self.source).write(new, point, self.recordings, 0)
        return FeatureChanges(writers=torch.tensor(part.rows, device=rows.device), amounts=new - value, rows=rows)

    @cached_property
    def unchanged(self) -> Recording:
        """What is written in the run without any change, and the stream as it enters each layer."""
        streams = map(self.stream.entering, range(self.model.cfg.n_layers))
        return record(self.model, self.run, [*self.written, *streams])

    @cached_property
    def changes(self) -> Changes:
        """`changes_from` the run without any change."""
        with torch.no_grad():
            return self.changes_from(self.unchanged)

    def summed(
        self, products: Float[Tensor, "batch pos writer name"], by_prompt: bool = False
    ) -> Float[Tensor, "*batch writer reader"]:
        """The sum over the tokens at each position, so that each reader has that of its position, and over prompts."""
        at = torch.nn.functional.one_hot(self.places.to(products.device), len(self.graph.layout.labels))
        at = at.double().expand(*products.shape[:2], -1)
        into = "bpwn,bpl->bwnl" if by_prompt else "bpwn,bpl->wnl"
        return torch.einsum(into, products.double(), at).flatten(-2)

    def reads(self, masks: Float[Tensor, "circuit writer reader"]) -> list[Tensor]:
        """What the metric reads of a pass with each of these masks."""
        done = MaskedPass(self, masks)
        streams = self.unchanged if done.start else {}
        readout = self.objective.readout_of(self.rows)
        return read_pass(self.stream, readout, self.run, len(masks), done.start or -1, streams, done.hooks)


class MaskedPass:
    """The hooks of one pass over copies of the prompts, one copy for each mask."""

    def __init__(self, edges: SomePrompts, masks: Float[Tensor, "circuit writer reader"]) -> None:
        self.edges, self.masks, graph = edges, masks, edges.graph
        touched = graph.exists if masks.requires_grad else (masks != 0).any(0)
        readers = [part for part in graph.reader_parts if bool(touched[:, part.places].any())]
        writers = [part for part in graph.writer_parts if bool(touched[part.places].any())]
        self.start = min((part.layer for part in readers), default=0)
        with_vectors = [part for part in writers if edges.stream.rows_of(part.hook) is None]
        self.changes = Changes(sum(len(part.names) for part in with_vectors), differentiable=masks.requires_grad)
        for part in writers:
            if part.layer < self.start:
                self.changes.add_copies(part, edges.changes, len(masks))
        self._writers, self._readers = [part for part in writers if part.layer >= self.start], readers

    @property
    def hooks(self) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """What the pass needs; not kept here, so that what hooks note goes when the pass is over."""
        sending = [hook for part in self._writers for hook in self._sending(part)]
        return [*sending, *((part.hook, self._receiving(part)) for part in self._readers)]

    def _sending(self, part: Part) -> list[tuple[str, Callable[..., None]]]:
        """Hooks that note what some writers write: at their own hook, and at the norm after it if there is one."""
        rows, copies = self.edges.stream.rows_of(part.hook), len(self.masks)
        if rows is not None:
            return [(part.hook, self._sending_features(part, rows))]
        sent = self.edges.edges_of(part, copies)

        def noted(send: Callable[[Edge], Callable[..., None]], last: bool) -> Callable[..., None]:
            def act(value: Tensor, hook: HookPoint) -> None:
                for edge, copy in zip(sent, value.unflatten(0, (copies, -1)), strict=True):
                    send(edge)(copy, hook)
                if last:
                    self.changes.add(part, torch.stack([edge.change for edge in sent if edge.change is not None]))

            return act

        scale = self.edges.stream.scale_of(part.hook)
        written = (part.hook, noted(lambda edge: edge.send, scale is None))
        return [written] if scale is None else [written, (scale, noted(lambda edge: edge.send_normalized, True))]

    def _sending_features(self, part: Part, rows: Tensor) -> Callable[..., None]:
        """A hook that notes how much the features of a dictionary change."""

        def act(value: Tensor, hook: HookPoint) -> None:
            copies = value.unflatten(0, (len(self.masks), -1))
            each = [self.edges.features_of(part, rows, copy, hook) for copy in copies]
            amounts = torch.stack([one.amounts for one in each])
            self.changes.add_features(part, replace(each[0], amounts=amounts))

        return act

    def _receiving(self, part: Part) -> Callable[..., Tensor]:
        """A hook that adds to the input of some readers what reaches them from all writers so far."""

        def act(value: Tensor, hook: HookPoint) -> Tensor:
            places = self.edges.places.to(value.device)

            def weights(writers: Sequence[int] | Tensor) -> Tensor:
                masks = self.masks[:, writers, part.places].to(value)
                masks = masks.unflatten(-1, (len(part.names), len(part.labels)))[..., places]
                return masks.permute(0, 3, 4, 2, 1)  # circuit batch pos reader writer

            received = self.changes.weighted(weights, value).flatten(0, 1)
            return value + (received[:, :, 0] if part_axis(hook) is None else received)

        return act
