"""How much each node of a weighted graph matters for its outputs, by all paths.

Edges into a node are shares of it (absolute weights over their sum), and an output's own weight flows back along them:

    influence = w (N + N^2 + N^3 + ...)          N[target, source]: shares;  w: the outputs' weights

which ends, since nothing feeds itself (Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput


def shares(target: Int[Tensor, " edge"], weight: Float[Tensor, " edge"], n_nodes: int) -> Float[Tensor, " edge"]:
    """Each edge's absolute weight over the sum of those into the same target."""
    size = weight.abs()
    total = size.new_zeros(n_nodes).index_add(0, target, size)
    return size / total[target].clamp(min=torch.finfo(size.dtype).tiny)


def influence(
    source: Int[Tensor, " edge"],
    target: Int[Tensor, " edge"],
    share: Float[Tensor, " edge"],
    outputs: Float[Tensor, " node"],
) -> Float[Tensor, " node"]:
    """What flows back to each node from the outputs, by all paths.

    Raises:
        BadInput: the graph has a circle.
    """
    flow, total = outputs.to(share), torch.zeros_like(outputs).to(share)
    for _ in range(len(outputs) + 1):
        flow = torch.zeros_like(flow).index_add(0, source, flow[target] * share)
        if not bool(flow.any()):
            return total
        total = total + flow
    raise BadInput("the graph has a circle: a node would influence itself")


def largest_until(values: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """The largest values, as many as are needed for their sum to reach a share of the whole."""
    order = values.argsort(descending=True, stable=True)
    before = values[order].cumsum(0) - values[order]
    kept = torch.zeros_like(values, dtype=torch.bool)
    kept[order] = (before < share * values.sum()) & (values[order] > 0)
    return kept
