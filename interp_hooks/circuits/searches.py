"""A search for a circuit that can be made again: on some of the prompts, with another ablation, with other answers.

Scores by gradients are means over prompts, so that all samples of prompts come from one pass that keeps the scores of
each prompt; a search (acdc, or one of your own) is made anew for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.discovery import acdc, gains
from interp_hooks.circuits.graph import EdgeMatrix
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.circuits.measures import faithfulness
from interp_hooks.circuits.setting import Ablation, setting
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told
from interp_hooks.interventions.prompts import MetricOf, run_of, select_of, source_of
from interp_hooks.interventions.readout import Metric, better
from interp_hooks.interventions.runs import Run, SourceLike
from interp_hooks.model.transformer import HookedTransformer

Method = Literal["eap", "eap_ig", "acdc"]
Finder = Callable[[HookedTransformer, Run, Run | None, Metric], Circuit]
"""A search of one's own: the circuit of a model, clean prompts, corrupt ones and a metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """How a circuit is looked for, on any of the prompts, with any ablation, with the answers of any prompts."""

    model: HookedTransformer
    clean: Run
    corrupt: Run | None
    metric: Metric
    method: Method | Finder
    n_edges: int
    threshold: float
    absolute: bool
    fractions: Sequence[float]
    positions: Mapping[str, int | Tensor] | None
    max_memory: int | None

    @property
    def every(self) -> Int[Tensor, " prompt"]:
        """All prompts, each once."""
        return torch.arange(len(self.clean.tokens))

    @property
    def by_gradients(self) -> bool:
        return self.method in ("eap", "eap_ig")

    def edges(self, ablation: Ablation | SourceLike, metric: Metric | None = None) -> MaskedEdges:
        """Masked passes over all prompts."""
        metric = self.metric if metric is None else metric
        data = setting(self.model, self.clean, self.corrupt, metric, ablation, self.positions)
        return MaskedEdges(self.model, *data, self.max_memory)

    def scores(
        self, ablation: Ablation | SourceLike, answers: Int[Tensor, " prompt"] | None = None
    ) -> Float[Tensor, "prompt writer reader"]:
        """What ablating each edge costs in each prompt, to first order, as a score by gradients says it."""
        metric = None if answers is None else self.scored_by(self.every, answers)
        fractions = self.fractions if self.method == "eap_ig" else None
        return -better(self.metric) * gains(self.edges(ablation, metric), fractions, by_prompt=True).cpu()

    def faithfulness(self, circuit: Circuit, ablation: Ablation | SourceLike) -> float:
        """The faithfulness of a circuit under an ablation; nan where the metric does not change."""
        options: dict[str, Any] = dict(ablation=ablation, positions=self.positions, max_memory=self.max_memory)
        found = faithfulness(self.model, circuit, self.clean, self.corrupt, self.metric, **options)
        return float(found.recovered_fraction)

    def scored_by(self, rows: Int[Tensor, " prompt"], answers: Int[Tensor, " prompt"]) -> MetricOf:
        """The metric of some prompts, by the answers of these or others."""
        return MetricOf(self.metric, rows, answers, len(self.clean.tokens))

    def chosen(self, scores: EdgeMatrix) -> Circuit:
        """The circuit of the strongest edges."""
        return self.graph.scored(scores).top(self.n_edges, absolute=self.absolute)

    @cached_property
    def graph(self) -> ComputationGraph:
        return ComputationGraph(self.model, self.positions or ())

    def found(
        self,
        ablation: Ablation | SourceLike,
        rows: Int[Tensor, " prompt"],
        answers: Int[Tensor, " prompt"] | None = None,
    ) -> Circuit:
        """The circuit that a search on some of the prompts finds."""
        n = len(self.clean.tokens)
        metric = self.scored_by(rows, rows if answers is None else answers)
        clean = run_of(self.model, self.clean, rows)
        corrupt = None if self.corrupt is None else run_of(self.model, self.corrupt, rows)
        if callable(self.method):
            found = self.method(self.model, clean, corrupt, metric)
            if not isinstance(found, Circuit) or found.graph != self.graph:
                raise BadInput(f"method must return a circuit of {self.graph}, got {told(found)}")
            return found
        source = ablation if isinstance(ablation, str) else source_of(self.model, ablation, rows, n)
        positions = None if self.positions is None else select_of(self.positions, rows)
        options: dict[str, Any] = dict(ablation=source, positions=positions, max_memory=self.max_memory)
        return acdc(self.model, clean, corrupt, metric, self.threshold, progress=False, **options)


def samples_of(
    search: Search, ablation: Ablation | SourceLike, scores: Tensor | None, drawn: Sequence[Int[Tensor, " prompt"]]
) -> Iterator[Circuit]:
    """The circuit of each sample of prompts: from the scores of each prompt, or by a search."""
    for rows in drawn:
        if scores is None:
            yield search.found(ablation, rows)
            continue
        weights = rows.bincount(minlength=len(scores)).to(scores) / len(rows)
        yield search.chosen(torch.tensordot(weights, scores, dims=1))
