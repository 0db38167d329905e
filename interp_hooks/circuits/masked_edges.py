"""Passes in which any number of edges carry what their writers write elsewhere.

    reader's input += sum over writers of  mask[writer, reader] * (written in the source - written in this pass)

`Intervention(writer, source, into=reader, mask=...)` does this for one pair of hooks; here all writers are stacked, so
that each hook that reads needs a single product. Several masks share a pass, as copies of the prompts along the batch
axis. A pass begins at the first layer that it changes, since everything before that is the same for all masks.

If the graph tells positions apart, each token of a prompt has the masks of the readers at its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.graph import EdgeMatrix
from interp_hooks.circuits.layout import Part, position_number
from interp_hooks.errors import BadInput, MetricError
from interp_hooks.experiments.patching import Positions, named_positions, paired_runs
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.edges import Edge
from interp_hooks.interventions.engine import free_memory
from interp_hooks.interventions.passes import read_pass
from interp_hooks.interventions.readout import MetricLike, checked_score, reading
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, Mean, PromptsLike, Run, SourceLike, as_run, as_source
from interp_hooks.interventions.sites import Recording, Recordings, at
from interp_hooks.model.stream import Stream, part_axis
from interp_hooks.model.transformer import HookedTransformer

Ablation = Literal["corrupt", "zero", "mean", "position_mean"]


def ablated_runs(
    model: HookedTransformer, clean: PromptsLike, corrupt: PromptsLike | None, ablation: Ablation | SourceLike
) -> tuple[Run, SourceLike]:
    """The clean run, and the source that ablated edges take their values from.

    Raises:
        BadInput: an unknown ablation, corrupt prompts that are missing or do not correspond to the clean ones, or means
            by position of prompts that are not all of one length.
    """
    if not isinstance(ablation, str):
        return as_run(model, clean), ablation
    if ablation not in get_args(Ablation):
        raise BadInput(f"ablation must be {', '.join(map(repr, get_args(Ablation)))} or a source, got {ablation!r}")
    if ablation == "zero":
        return as_run(model, clean), 0.0
    if corrupt is None:
        raise BadInput(f"ablation={ablation!r} needs corrupt prompts")
    if ablation == "corrupt":
        return paired_runs(model, clean, corrupt, ("clean", "corrupt"))
    run, other = as_run(model, clean), as_run(model, corrupt)
    by_position = ablation == "position_mean"
    if by_position and len({tuple(row) for one in (run, other) for row in one.real.tolist()}) > 1:
        raise BadInput(
            "ablation='position_mean' needs clean and corrupt prompts all of one length: of others, positions do not "
            "correspond; use 'mean', or prompts of one template"
        )
    return run, Mean(other, per_position=by_position)


class Setting(NamedTuple):
    """A run, the source of its ablated edges, a metric and positions: what experiments on data take as arguments."""

    run: Run
    source: SourceLike
    metric: MetricLike
    positions: Mapping[str, int | Tensor] | None

    def graph(self, model: HookedTransformer) -> ComputationGraph:
        """The model's graph, with these positions told apart."""
        return ComputationGraph(model, self.positions or ())


def setting(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: MetricLike,
    ablation: Ablation | SourceLike,
    positions: Positions | None,
) -> Setting:
    """The setting that a user's arguments describe.

    Raises:
        BadInput: as `ablated_runs`; also a list of positions that are not ints, or not all different.
    """
    run, source = ablated_runs(model, clean, corrupt, ablation)
    if positions is not None and not isinstance(positions, Mapping):
        numbers = [position_number(pos) for pos in positions]
        positions = {str(pos): pos for pos in numbers}
        if len(positions) < len(numbers):
            raise BadInput(f"expected positions that are all different, got {numbers}")
    return Setting(run, source, metric, positions)


def label_places(run: Run, positions: Mapping[str, int | Tensor]) -> Int[Tensor, "batch pos"]:
    """For each token which of the positions it is, as a number; len(positions) for all other tokens.

    Raises:
        BadInput: a position outside a prompt or in its padding, or two that are the same token of a prompt.
    """
    rest = len(positions)
    places = torch.full(run.tokens.shape, rest, device=run.tokens.device)
    every = {label: index[:, None] for label, index in named_positions(run, positions).items()}
    for number, (label, index) in enumerate(every.items()):
        taken = places.gather(1, index)[:, 0]
        if bool((taken != rest).any()):
            row = int((taken != rest).nonzero()[0])
            raise BadInput(
                f"the positions {list(positions)[int(taken[row])]!r} and {label!r} are the same token of prompt {row}; "
                "a token can have one of these names"
            )
        places.scatter_(1, index, number)
    return places


def stacked(graph: ComputationGraph, circuits: Iterable[Circuit]) -> Bool[Tensor, "circuit writer reader"]:
    """The matrices of some circuits, one below the other.

    Raises:
        BadInput: a circuit of another graph.
    """
    for circuit in circuits:
        named = circuit.graph.layout.positions
        if named and not graph.layout.positions:
            raise BadInput(
                f"the circuit tells positions apart: say where {', '.join(named)} are in these prompts with positions="
            )
        if circuit.graph != graph:
            raise BadInput(f"the circuit is of {circuit.graph}, the model's is {graph}")
    return torch.stack([circuit.kept for circuit in circuits])


class MaskedEdges:
    """Passes over one run in which edges take their values from a source, and what all such passes have in common.

    Each is a pass of its own, not a run of the engine: all edges into a reader are one product of matrices, where
    interventions would be made one by one, thousands of them.
    """

    def __init__(
        self,
        model: HookedTransformer,
        run: Run,
        source: SourceLike,
        metric: MetricLike,
        positions: Mapping[str, int | Tensor] | None = None,
    ) -> None:
        self.model, self.run, self.source = model, run, source
        self.graph, self.stream = ComputationGraph(model, positions or ()), Stream(model)
        self.places = label_places(run, positions) if positions else torch.zeros(1, 1, dtype=torch.long)
        self.readout, self._score = reading(model, metric)
        self.recordings = Recordings(model)
        for other in as_source(source).runs:
            self.recordings.runs[other.key] = record(model, other, self.written)

    @property
    def written(self) -> list[str]:
        """The hooks at which one sees what writers write."""
        hooks = [part.hook for part in self.graph.writer_parts]
        return [*hooks, *filter(None, map(self.stream.scale_of, hooks))]

    def edges_of(self, part: Part, copies: int) -> list[Edge]:
        """For each copy of the prompts an `Edge`, which notes how what some writers write would change."""
        last = self.graph.reader_parts[-1].hook
        made = Intervention(at(part.hook), self.source, into=at(last))
        return [Edge(self.stream, made, self.recordings, 0) for _ in range(copies)]

    def changes_from(self, values: Recording) -> Float[Tensor, "batch pos writer d_model"]:
        """What every writer writes in the source minus what it writes in a pass with these values at `written`."""
        changes = []
        for part in self.graph.writer_parts:
            (edge,) = self.edges_of(part, 1)
            edge.send(values[part.hook], self.model.hook_dict[part.hook])
            scale = self.stream.scale_of(part.hook)
            if scale is not None:
                edge.send_normalized(values[scale], self.model.hook_dict[scale])
            assert edge.change is not None
            changes.append(edge.change.to(self.model.device))
        return torch.cat(changes, dim=2)

    @cached_property
    def unchanged(self) -> Recording:
        """What is written in the run without any change, and the stream as it enters each layer."""
        streams = map(self.stream.entering, range(self.model.cfg.n_layers))
        return record(self.model, self.run, [*self.written, *streams])

    @cached_property
    def changes(self) -> Float[Tensor, "batch pos writer d_model"]:
        """`changes_from` the run without any change."""
        with torch.no_grad():
            return self.changes_from(self.unchanged)

    def summed(self, products: Float[Tensor, "batch pos writer name"]) -> EdgeMatrix:
        """The sum over prompts and over the tokens at each position, so that each reader has that of its position."""
        at = torch.nn.functional.one_hot(self.places.to(products.device), len(self.graph.layout.labels))
        at = at.double().expand(*products.shape[:2], -1)
        return torch.einsum("bpwn,bpl->wnl", products.double(), at).flatten(1)

    def of_circuits(self, circuits: Sequence[Circuit]) -> Float[Tensor, "circuit prompt"]:
        """The metric of each circuit: all edges outside it carry their values in the source.

        Raises:
            BadInput: a circuit of another graph.
        """
        return self.of_kept(stacked(self.graph, circuits))

    def of_kept(self, kept: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
        """The same for circuits that are given as matrices."""
        return self.scores((self.graph.exists & ~kept).to(self.model.dtype))

    def scores(self, masks: Float[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
        """The metric with each of these masks: 0 leaves an edge as it is, 1 replaces what it carries.

        The metric can be differentiated with respect to masks that require a gradient. A metric that gives one number
        for all prompts counts as having one prompt.

        Raises:
            MetricError: the metric does not give one number for each prompt or one for all, or gives nan.
        """
        cfg, (batch, length) = self.model.cfg, self.run.tokens.shape
        vectors = 2 * len(self.graph.writers) + 6 * (cfg.n_heads + 2 * cfg.n_key_value_heads)
        one = batch * length * vectors * cfg.d_model * torch.finfo(self.model.dtype).bits // 8
        together = max(1, free_memory(self.model) // one)
        with torch.set_grad_enabled(masks.requires_grad):
            return torch.cat([self._scores(some) for some in masks.split(int(together))])

    def _scores(self, masks: Float[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
        copies, run = len(masks), self.run
        done = _Pass(self, masks)
        streams = self.unchanged if done.start else {}
        read = read_pass(self.stream, self.readout, run, copies, done.start or -1, streams, done.hooks)
        scores = [checked_score(self._score(one), "a circuit", len(run.tokens)) for one in read]
        if scores[0].ndim > 1:
            expected = f"one number for each prompt, of which there are {len(run.tokens)}, or one for all"
            raise MetricError(f"the metric must give {expected}, got shape {list(scores[0].shape)}")
        return torch.stack([score.reshape(-1) for score in scores])


class _Pass:
    """The hooks of one pass over copies of the prompts, one copy for each mask."""

    def __init__(self, edges: MaskedEdges, masks: Float[Tensor, "circuit writer reader"]) -> None:
        self.edges, self.masks, graph = edges, masks, edges.graph
        touched = graph.exists if masks.requires_grad else (masks != 0).any(0)
        readers = [part for part in graph.reader_parts if bool(touched[:, part.places].any())]
        writers = [part for part in graph.writer_parts if bool(touched[part.places].any())]
        self.start = min((part.layer for part in readers), default=0)
        self.room = sum(len(part.names) for part in writers)
        self.rows: list[int] = []  # the writers that `changes` has so far; it has room for all that are needed
        self.changes: Float[Tensor, "circuit batch pos writer d_model"] | None = None
        if early := [row for part in writers if part.layer < self.start for row in part.rows]:
            self._add(early, edges.changes[:, :, early].expand(len(masks), -1, -1, -1, -1))
        sending = [hook for part in writers if part.layer >= self.start for hook in self._sending(part)]
        self.hooks = [*sending, *((part.hook, self._receiving(part)) for part in readers)]

    def _add(self, rows: Sequence[int], change: Float[Tensor, "circuit batch pos writer d_model"]) -> None:
        """Append what reaches readers from these writers to `changes`; in place unless it is to be differentiated."""
        before = len(self.rows)
        self.rows.extend(rows)
        if self.masks.requires_grad:
            self.changes = change if self.changes is None else torch.cat((self.changes.to(change), change), dim=3)
            return
        if self.changes is None:
            self.changes = change.new_empty(*change.shape[:3], self.room, change.shape[4])
        self.changes[:, :, :, before : len(self.rows)] = change

    def _sending(self, part: Part) -> list[tuple[str, Callable[..., None]]]:
        """Hooks that note what some writers write: at their own hook, and at the norm after it if there is one."""
        copies = self.edges.edges_of(part, len(self.masks))

        def noted(send: Callable[[Edge], Callable[..., None]], last: bool) -> Callable[..., None]:
            def act(value: Tensor, hook: HookPoint) -> None:
                for edge, rows in zip(copies, value.unflatten(0, (len(copies), -1)), strict=True):
                    send(edge)(rows, hook)
                if last:
                    self._add(part.rows, torch.stack([edge.change for edge in copies if edge.change is not None]))

            return act

        scale = self.edges.stream.scale_of(part.hook)
        written = (part.hook, noted(lambda edge: edge.send, scale is None))
        return [written] if scale is None else [written, (scale, noted(lambda edge: edge.send_normalized, True))]

    def _receiving(self, part: Part) -> Callable[..., Tensor]:
        """A hook that adds to the input of some readers what reaches them from all writers so far."""

        def act(value: Tensor, hook: HookPoint) -> Tensor:
            assert self.changes is not None
            masks = self.masks[:, self.rows, part.places].to(value).unflatten(-1, (len(part.names), len(part.labels)))
            weight = masks[..., self.edges.places.to(value.device)].permute(
                0, 3, 4, 2, 1
            )  # circuit batch pos reader row
            received = (weight @ self.changes[:, :, :, : len(self.rows)].to(value)).flatten(0, 1)
            return value + (received[:, :, 0] if part_axis(hook) is None else received)

        return act
