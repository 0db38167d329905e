"""What experiments on edges are about: clean prompts, what ablated edges carry instead, a metric, named positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.layout import position_number
from interp_hooks.errors import BadInput
from interp_hooks.experiments.patching import Positions, named_positions, paired_runs
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.runs import Mean, PromptsLike, Run, SourceLike, as_run
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
