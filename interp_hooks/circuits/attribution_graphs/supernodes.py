"""Suggested supernodes of an attribution graph: features at one position that say the same, and do the same.

    similarity(a, b) = (cos of what they write + (cos of edges into them + cos of edges out of them) / 2) / 2

What a feature writes is the sum of its decoder rows; its edges are vectors over the graph's nodes. Groups are joined
two by two, the most similar first, a group's similarity with another being the mean over pairs (average linkage), as
long as it reaches a threshold. There is no accepted method: these are suggestions, to be looked at and changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.local import Transcoders
from interp_hooks.dictionaries import CrossLayerTranscoder
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.hooks.modes import study
from interp_hooks.model.stream import Stream
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer


@study
def suggested_supernodes(
    model: HookedTransformer,
    transcoders: Transcoders,
    graph: AttributionGraph,
    *,
    threshold: float = 0.5,
    layers: Count = 2,
) -> dict[str, list[int]]:
    """Groups of two or more features of a graph that are alike, by name, for `save_graph` and the graph's page.

    Features of a group stand at one position, in layers at most `layers` apart, and the mean similarity (a number from
    -1 to 1) of groups that were joined is at least `threshold`. A name tells the layers, the position and the token
    that the group's decoder rows promote most by themselves. Best of a pruned graph.

    Raises:
        BadInput: a threshold that is not between -1 and 1, or other transcoders than those of the graph.

    >>> from interp_hooks.circuits import attribution_graph, save_graph, suggested_supernodes
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False).pruned()
    >>> groups = suggested_supernodes(model, transcoders, graph, threshold=0.3)
    >>> save_graph(graph, "graph.json", supernodes=groups)
    """
    if not -1 <= threshold <= 1:
        raise BadInput(f"threshold must be -1..1, a mean of cosines, got {threshold}")
    written = _written(model, transcoders, graph)
    similarity = similarities(graph, written)
    layer, pos = (column[graph.features] for column in (graph.layer, graph.pos))
    found: dict[str, list[int]] = {}
    for place in pos.unique().tolist():
        here = (pos == place).nonzero()[:, 0]
        far = (layer[here, None] - layer[here]).abs() > layers
        for group in joined(similarity[here[:, None], here].masked_fill(far, -torch.inf), threshold):
            members = here[torch.tensor(group)]
            name = _name(model, graph, written[members], layer[members], place)
            same = sum(one == name or one.startswith(f"{name} (") for one in found)
            listed = [graph.features[int(one)] for one in members]
            found[f"{name} ({same + 1})" if same else name] = listed
    return found


def similarities(
    graph: AttributionGraph, written: Float[Tensor, "feature d_model"]
) -> Float[Tensor, "feature feature"]:
    """How alike a graph's features are, given what each writes for each unit of it."""
    number = torch.full((len(graph),), -1)
    number[graph.features] = torch.arange(len(graph.features))
    edges = torch.zeros(2, len(graph.features), len(graph), dtype=written.dtype)
    for profile, mine, other in zip(edges, (graph.target, graph.source), (graph.source, graph.target), strict=True):
        of_features = number[mine] >= 0
        profile[number[mine][of_features], other[of_features]] = graph.weight[of_features].to(profile)
    cosines = [one @ one.T for one in (normalize(written, dim=-1), *normalize(edges, dim=-1).unbind())]
    return cosines[0] / 2 + (cosines[1] + cosines[2]) / 4


def joined(similarity: Float[Tensor, "n n"], threshold: float) -> list[list[int]]:
    """Groups of two and more by average linkage: the most similar are joined until none is similar enough.

    A similarity of -inf keeps two apart, and whatever they are joined with.
    """
    groups = [[place] for place in range(len(similarity))]
    left = similarity.clone().fill_diagonal_(-torch.inf)
    while left.numel() and float(left.max()) >= threshold:
        one, other = sorted(divmod(int(left.argmax()), len(left)))
        sizes = len(groups[one]), len(groups[other])
        left[one] = left[:, one] = (sizes[0] * left[one] + sizes[1] * left[other]) / sum(sizes)
        left[one, one] = -torch.inf
        left[other] = left[:, other] = -torch.inf
        groups[one], groups[other] = sorted(groups[one] + groups[other]), []
    return [group for group in groups if len(group) > 1]


def _written(
    model: HookedTransformer, transcoders: Transcoders, graph: AttributionGraph
) -> Float[Tensor, "feature d_model"]:
    """The sum of each feature's decoder rows."""
    one = CrossLayerTranscoder.of(transcoders) if isinstance(transcoders, Sequence) else transcoders
    places = {Stream(model).place(hook).layer: place for place, hook in enumerate(one.layers_out)}
    found = torch.zeros(len(graph.features), one.d_out, dtype=one.dtype)
    layer, index = (column[graph.features] for column in (graph.layer, graph.index))
    for each in layer.unique().tolist():
        mine = layer == each
        if each not in places or int(index[mine].max()) >= one.n_features:
            raise BadInput(
                f"these transcoders lack features of layer {each} that the graph has; give those of the graph"
            )
        found[mine] = one.decoder_rows(places[each], index[mine].to(one.device)).sum(1).cpu()
    return found


def _name(
    model: HookedTransformer,
    graph: AttributionGraph,
    written: Float[Tensor, "feature d_model"],
    layers: Int[Tensor, " feature"],
    pos: int,
) -> str:
    first, last = int(layers.min()), int(layers.max())
    promoted = written.sum(0).to(model.unembed.W_U) @ model.unembed.W_U
    said = names_of(model)(int((promoted - promoted.mean()).argmax()))
    where = f"L{first}" if first == last else f"L{first}-{last}"
    return f"{where} pos {pos} {graph.texts[pos]!r}: {said!r}"
