"""Attention in attribution graphs: which heads carry an edge, and why a head attends.

The graph holds patterns, so an edge between positions says that something moved, and not by whom. Of one edge

    weight = direct + sum over heads and key positions of what they bring to the target's position last

exactly: a head's part is its pattern times what the source has put into its values there, as the target reads it. And a
head's score for a query and a key is bilinear in the graph's sources (Kamath et al. 2025, transformer-circuits.pub):

    score = sum over sources of the query and sources of the key of their terms, biases included
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.local import LocalModel, Transcoders
from interp_hooks.circuits.attribution_graphs.nodes import ERROR, LOGIT, TOKEN
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer

BIAS = "bias"


@study
def edge_heads(
    model: HookedTransformer, transcoders: Transcoders, graph: AttributionGraph, source: int, target: int
) -> pd.DataFrame:
    """Which heads carry an edge, and through which key positions: a row for each, the largest first.

    Columns are `layer`, `head`, `key`, `weight` and `pattern`; the row without a head (-1) is what comes directly along
    the residual stream of one position. Weights sum up to the edge's. A head is the last one on the way: what others
    did before is in what its values hold.

    Raises:
        BadInput: no such nodes, or a target that has no edges into it.

    >>> from interp_hooks.circuits import attribution_graph, edge_heads
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False)
    >>> edge_heads(model, transcoders, graph, source=0, target=graph.logits[0]).columns.tolist()
    ['layer', 'head', 'key', 'weight', 'pattern']
    """
    for node in (source, target):
        if not 0 <= node < len(graph):
            raise BadInput(f"nodes are 0..{len(graph) - 1}, got {node}")
    if int(graph.kind[target]) in (ERROR, TOKEN) or int(graph.kind[source]) == LOGIT:
        raise BadInput(f"there is no edge from {graph.name(source)} to {graph.name(target)}")
    local = local_of(model, transcoders, graph)
    kind, layer, pos, index = (int(getattr(graph, name)[source]) for name in ("kind", "layer", "pos", "index"))
    added = local.written_by(kind, layer, pos, index)
    given = {
        hook: torch.stack((still, still + added[hook] if hook in added else still))
        for hook, still in local.constants.items()
    }
    layers = range(model.cfg.n_layers)
    values = local.run(given, {f"blocks.{layer}.attn.hook_v" for layer in layers})
    hook, row = _reads(local, graph, target)
    at = int(graph.pos[target])
    zs = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    asker = local.asker({hook, *zs}, attention=False)
    cotangent = row.new_zeros(1, at + 1, len(row))
    cotangent[0, at] = row
    direct = sum(
        float((gradient[0] * added[name][: at + 1]).sum())
        for name, gradient in asker.gradients(hook, cotangent).items()
        if name in added
    )
    rows = [dict(layer=-1, head=-1, key=-1, weight=direct, pattern=float("nan"))]
    read_by = asker.gradients(hook, cotangent, zs)
    for layer, gradient in ((layer, read_by[z]) for layer, z in zip(layers, zs, strict=True) if z in read_by):
        pattern = local.held[f"blocks.{layer}.attn.hook_pattern"][0, :, at]  # head key
        moved = values[f"blocks.{layer}.attn.hook_v"].diff(dim=0)[0]  # key kv_head d_head
        moved = moved.repeat_interleave(len(pattern) // moved.shape[1], dim=1)
        read = gradient[0, at].to(moved)
        if (gate := local.held.get(f"blocks.{layer}.attn.hook_gate")) is not None:
            read = read * gate[0, at].to(moved)
        parts = torch.einsum("hk,khd,hd->hk", pattern.to(moved), moved, read)
        for head, key in parts.nonzero().tolist():
            weight, paid = float(parts[head, key]), float(pattern[head, key])
            rows.append(dict(layer=layer, head=head, key=key, weight=weight, pattern=paid))
    return pd.DataFrame(sorted(rows, key=lambda row: -abs(row["weight"])))


@study
def score_terms(
    model: HookedTransformer,
    transcoders: Transcoders,
    graph: AttributionGraph,
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    k: Count = 20,
) -> pd.DataFrame:
    """Why a head attends from a query position to a key: the `k` largest terms of its score by pairs of sources.

    Columns are `query` and `key` (names of features, errors and tokens, or "bias") and `score`, before any soft cap and
    without what depends on positions alone (ALiBi); norms of queries and keys are held. `attrs["score"]` of the table
    is the sum of all terms.

    Raises:
        BadInput: no such head or position, or a key after the query.
    """
    cfg, local = model.cfg, local_of(model, transcoders, graph)
    if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads and 0 <= key <= query < local.n_pos):
        raise BadInput(
            f"expected a layer below {cfg.n_layers}, a head below {cfg.n_heads} and 0 <= key <= query < {local.n_pos}, "
            f"got layer={layer}, head={head}, query={query}, key={key}"
        )
    name = f"blocks.{layer}.attn.hook_"
    hooks = [name + ("rot_" if f"{name}rot_{one}" in model.hook_dict else "") + one for one in "qk"]
    groups = cfg.n_heads // model.hook_dict[hooks[1]].sizes["head"]
    q, k_ = (
        _vectors(local, hook, at, which)
        for hook, at, which in zip(hooks, (query, key), (head, head // groups), strict=True)
    )
    attention: Any = model.blocks[layer].attn
    terms = q.T @ k_ / attention.scale
    text_of = names_of(model)
    names = [*local.places.names(lambda pos: text_of(int(local.tokens[0, pos]))), BIAS]
    order = terms.flatten().abs().argsort(descending=True, stable=True)[:k].tolist()
    n = len(names)
    rows = [dict(query=names[one // n], key=names[one % n], score=float(terms[one // n, one % n])) for one in order]
    table = pd.DataFrame(rows, columns=["query", "key", "score"])
    table.attrs["score"] = float(terms.sum())
    return table


def local_of(model: HookedTransformer, transcoders: Transcoders, graph: AttributionGraph) -> LocalModel:
    """The local replacement model that a graph is of."""
    return LocalModel(model, graph.tokens, transcoders, first_as_error=graph.first_as_error)


def _reads(local: LocalModel, graph: AttributionGraph, target: int) -> tuple[str, Float[Tensor, " d"]]:
    """The hook that a node reads, and the direction in which it does."""
    if int(graph.kind[target]) == LOGIT:
        return local.final, local.onto_logits(graph.index[target : target + 1].to(local.tokens.device))[0][0]
    place = local.layers.index(int(graph.layer[target]))
    row = local.transcoders.encoder_rows(place, [int(graph.index[target])])[0]
    return local.transcoders.layers_in[place], row


def _vectors(local: LocalModel, hook: str, pos: int, head: int) -> Float[Tensor, "d_head source"]:
    """What every source, and the bias, put into a head's query or key at a position."""
    size = local.model.hook_dict[hook].sizes["d_head"]
    asker = local.asker({hook})
    value = asker.seen[hook]
    cotangents = value.new_zeros(size, pos + 1, *value.shape[2:])
    dims = torch.arange(size, device=cotangents.device)
    cotangents[dims, pos, head, dims] = 1.0
    found = local.contributions(asker.gradients(hook, cotangents)).flat()
    bias = local.without_sources({hook})[hook][0, pos, head]
    return torch.cat((found, bias[:, None].to(found)), dim=1)
