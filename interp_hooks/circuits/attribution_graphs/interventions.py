"""What a graph predicts beside what happens: features are changed in the model itself.

The graph is linear around its prompt. If the feature at node s becomes `factor` times what it is, its change runs along
the edges: a feature's pre-activation changes by the sum of what its sources' changes carry, and its activation as much
(as if it stayed active), and so on up to the logits. In the model the same change is made where the feature writes, and
everything after it answers: attention, norms, the MLPs themselves. How far both agree is how far the graph can be
believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.attention import local_of
from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.local import LocalModel, Transcoders
from interp_hooks.circuits.attribution_graphs.nodes import FEATURE
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, Readout
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer


@study
def check_graph(
    model: HookedTransformer,
    transcoders: Transcoders,
    graph: AttributionGraph,
    nodes: Sequence[int] | None = None,
    *,
    k: Count = 10,
    factor: float = 0.0,
) -> pd.DataFrame:
    """The change of each logit if a feature becomes `factor` times what it is: as the graph predicts, and as it comes.

    `nodes` are features of the graph, by default the `k` most influential. A row for each feature and logit: `node`,
    `name`, `logit`, `predicted` and `actual`, both of the logit before any soft cap, less the mean over the vocabulary.
    What is not in the graph is not predicted: prune lightly, or not at all.

    Raises:
        BadInput: a node that is no feature, or a graph without features.

    >>> from interp_hooks.circuits import attribution_graph, check_graph
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False)
    >>> check_graph(model, transcoders, graph, k=3).columns.tolist()
    ['node', 'name', 'logit', 'predicted', 'actual']
    """
    if nodes is None:
        ranked = graph.influence.masked_fill(graph.kind != FEATURE, -1.0).topk(min(k, len(graph.features)))
        nodes = ranked.indices.tolist()
    if wrong := [node for node in nodes if not 0 <= node < len(graph) or int(graph.kind[node]) != FEATURE]:
        raise BadInput(f"nodes must be features of the graph, got {wrong[0]}")
    if not nodes:
        raise BadInput("this graph has no features to change")
    local = local_of(model, transcoders, graph)
    predicted = torch.stack([predicted_change(graph, node, factor) for node in nodes])
    actual = _actual(local, graph, nodes, factor)
    rows = [
        dict(node=node, name=graph.name(node), logit=text, predicted=float(guess), actual=float(came))
        for node, guesses, comes in zip(nodes, predicted, actual, strict=True)
        for text, guess, came in zip(graph.logit_texts, guesses, comes, strict=True)
    ]
    return pd.DataFrame(rows)


def predicted_change(graph: AttributionGraph, node: int, factor: float) -> Float[Tensor, " logit"]:
    """By how much each logit changes, along all paths of the graph, if a feature becomes `factor` times what it is."""
    relative = torch.zeros(len(graph), dtype=torch.float64)  # of each feature's activation
    relative[node] = factor - 1.0
    slope = (1 / graph.activation.double()).masked_fill((graph.kind != FEATURE) | (graph.activation == 0), 0.0)
    weight = graph.weight.double()
    flow = relative.clone()
    logits = torch.zeros(len(graph), dtype=torch.float64)
    while bool(flow.any()):
        into = torch.zeros_like(flow).index_add(0, graph.target, weight * flow[graph.source])
        logits += into
        flow = into * slope
    return logits[graph.logits]


@dataclass(frozen=True, eq=False)
class _Logits(Metric):
    """Some logits at the last position before any soft cap, less the mean over the vocabulary."""

    ids: Int[Tensor, " n"]
    soft_cap: float

    @property
    def readout(self) -> Readout:
        return Readout(pos=-1)

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch n"]:
        if self.soft_cap:
            logits = self.soft_cap * torch.atanh(logits / self.soft_cap)
        return logits[:, self.ids] - logits.mean(-1, keepdim=True)


def _actual(
    local: LocalModel, graph: AttributionGraph, nodes: Sequence[int], factor: float
) -> Float[Tensor, "node logit"]:
    metric = _Logits(graph.index[graph.logits].to(local.tokens.device), local.model.cfg.output_logits_soft_cap)
    runs = [Run(local.tokens)]
    for node in nodes:
        layer, pos, index = (int(getattr(graph, name)[node]) for name in ("layer", "pos", "index"))
        written = local.written_by(FEATURE, layer, pos, index)
        moved = [
            Intervention(at(hook, pos=pos), lambda value, by=(factor - 1.0) * vector[pos]: value + by.to(value))
            for hook, vector in written.items()
        ]
        runs.append(Run(local.tokens, moved))
    found = evaluate(local.model, runs, metric)[:, 0].double().cpu()
    return found[1:] - found[0]
