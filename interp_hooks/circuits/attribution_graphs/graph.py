"""Attribution graphs: which features of a prompt, through which others, lead to the next token.

    graph = attribution_graph(model, "The capital of France is", transcoders)
    graph.scores()                     how much of it goes through features, and how much through errors
    small = graph.pruned()             the nodes and edges that matter
    small.into(small.logits[0])        what feeds a node, the most important first

Nodes are active features, errors, tokens and logits. An edge's weight is what its source contributes to its target's
pre-activation or logit in the local replacement model (see `local`), exactly: into each traced node edges, the
`untraced` rest and the `bias` sum up to its `value` (Ameisen et al. 2025, transformer-circuits.pub/2025).

Supernodes are suggested: groups of features at one position that say the same, and do the same.

    similarity(a, b) = (cos of what they write + (cos of edges into them + cos of edges out of them) / 2) / 2

What a feature writes is the sum of its decoder rows; its edges are vectors over the graph's nodes. Groups are joined
two by two, the most similar first, a group's similarity with another being the mean over pairs (average linkage), as
long as it reaches a threshold. There is no accepted method: these are suggestions, to be looked at and changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from interp_hooks.circuits.attribution_graphs.influence import influence, largest_until, shares
from interp_hooks.circuits.attribution_graphs.local import Transcoders
from interp_hooks.circuits.attribution_graphs.nodes import ERROR, FEATURE, KINDS, LOGIT, TOKEN, source_name
from interp_hooks.dictionaries import CrossLayerTranscoder
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked, refuse_outside
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.stream import Stream
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer


class Scores(NamedTuple):
    """How much of what leads to the logits is explained (1 if there were no errors).

    `replacement` is the share of influence that ends at tokens and not at errors, `completeness` the share of all
    nodes' inputs, weighted by the nodes' influence, that is not an error.
    """

    replacement: float
    completeness: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionGraph(Shown):
    """The nodes and edges of one prompt's attribution graph.

    By node: its `kind` (0 feature, 1 error, 2 token, 3 logit), its `layer` (-1 of tokens, the number of layers of
    logits), its `pos`, its `index` (number of the feature, id of the token), its `value` (what edges into it sum up to:
    a pre-activation, or a logit less the mean), its `activation` (a feature's; a logit's probability), its `bias`, and
    `untraced`, what comes from features that are not in the graph. The last three are nan where they mean nothing.
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    value: Float[Tensor, " node"]
    activation: Float[Tensor, " node"]
    bias: Float[Tensor, " node"]
    untraced: Float[Tensor, " node"]
    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    tokens: Int[Tensor, " pos"]
    texts: Sequence[str]
    logit_texts: Sequence[str]
    model_name: str
    first_as_error: bool = False

    def __len__(self) -> int:
        return len(self.kind)

    def of_kind(self, kind: int) -> Int[Tensor, " n"]:
        """The nodes of a kind."""
        return (self.kind == kind).nonzero()[:, 0]

    @property
    def features(self) -> list[int]:
        """The nodes that are features."""
        return self.of_kind(FEATURE).tolist()

    @property
    def logits(self) -> list[int]:
        """The nodes that are logits, the most probable first."""
        return self.of_kind(LOGIT).tolist()

    def name(self, node: int) -> str:
        """What a node is called: "L3 pos 5 f1027", "L3 pos 5 error", "pos 5 ' Paris'", "logit ' Paris' (0.82)"."""
        kind, layer, pos, index = (int(one[node]) for one in (self.kind, self.layer, self.pos, self.index))
        if kind == LOGIT:
            return f"logit {self.logit_texts[self.logits.index(node)]!r} ({float(self.activation[node]):.2f})"
        return source_name(kind, layer, pos, index, self.texts.__getitem__)

    # ------------------------------------------------------------------------------------------------------ influence

    @cached_property
    def _shares(self) -> Float[Tensor, " edge"]:
        return shares(self.target, self.weight, len(self))

    @cached_property
    def _outputs(self) -> Float[Tensor, " node"]:
        return torch.where(self.kind == LOGIT, self.activation, 0.0)

    @cached_property
    def influence(self) -> Float[Tensor, " node"]:
        """How much each node matters for the logits, by all paths; those of logits' own weights are not counted."""
        return influence(self.source, self.target, self._shares, self._outputs)

    def scores(self) -> Scores:
        """How much of the graph leads back to tokens, and not to errors."""
        found, errors = self.influence, self.kind == ERROR
        of_tokens, of_errors = float(found[self.kind == TOKEN].sum()), float(found[errors].sum())
        into = found.new_zeros(len(self)).index_add(0, self.target, self._shares * errors[self.source])
        counted = found + self._outputs
        complete = float(((1 - into) * counted).sum() / counted.sum())
        return Scores(of_tokens / (of_tokens + of_errors) if of_tokens + of_errors else 1.0, complete)

    @checked
    def pruned(self, nodes: float = 0.8, edges: float = 0.98) -> AttributionGraph:
        """The graph of the features and errors that have most influence, and of the edges that carry it.

        Kept are as many of the largest as make up these shares of all influence; tokens and logits stay, and a feature
        or an error without a way to the logits goes. What the other nodes contribute is `untraced`, or left out.

        Raises:
            BadInput: a share that is not above 0 and at most 1.
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 < share <= 1:
                raise BadInput(f"{name} must be a share above 0 and at most 1, got {share}")
        kept = largest_until(self.influence, nodes) | (self.kind == TOKEN) | (self.kind == LOGIT)
        smaller = self.induced(kept)
        carries = smaller._shares * (smaller.influence + smaller._outputs)[smaller.target]
        smaller = smaller.with_edges(largest_until(carries, edges))
        while True:
            stays = (smaller.kind == TOKEN) | (smaller.kind == LOGIT)
            stays[smaller.source] = True
            fed = torch.zeros_like(stays)
            fed[smaller.target] = True
            stays &= fed | (smaller.kind != FEATURE)
            if bool(stays.all()):
                return smaller
            smaller = smaller.induced(stays)

    def induced(self, nodes: Bool[Tensor, " node"]) -> AttributionGraph:
        """The graph of some nodes; what the others contribute becomes `untraced`."""
        number = torch.cumsum(nodes, 0) - 1
        gone = nodes[self.target] & ~nodes[self.source]
        untraced = self.untraced.index_add(0, self.target[gone], self.weight[gone])
        edges = nodes[self.target] & nodes[self.source]
        listed = {
            one: getattr(self, one)[nodes] for one in ("kind", "layer", "pos", "index", "value", "activation", "bias")
        }
        texts = [text for text, node in zip(self.logit_texts, self.logits, strict=True) if bool(nodes[node])]
        return dataclasses.replace(
            self,
            **listed,
            untraced=untraced[nodes],
            source=number[self.source[edges]],
            target=number[self.target[edges]],
            weight=self.weight[edges],
            logit_texts=texts,
        )

    def with_edges(self, kept: Bool[Tensor, " edge"]) -> AttributionGraph:
        """The graph of some edges; what the others carry becomes `untraced`."""
        untraced = self.untraced.index_add(0, self.target[~kept], self.weight[~kept])
        listed = {one: getattr(self, one)[kept] for one in ("source", "target", "weight")}
        return dataclasses.replace(self, **listed, untraced=untraced)

    # --------------------------------------------------------------------------------------------------------- tables

    def table(self) -> pd.DataFrame:
        """A row for each node, the most influential first within each kind."""
        columns = {name: getattr(self, name).tolist() for name in ("layer", "pos", "index", "value", "activation")}
        columns |= {
            "bias": self.bias.tolist(),
            "untraced": self.untraced.tolist(),
            "influence": self.influence.tolist(),
        }
        names = {"node": range(len(self)), "name": [self.name(node) for node in range(len(self))]}
        kinds = {"kind": [KINDS[kind] for kind in self.kind.tolist()]}
        return pd.DataFrame(names | kinds | columns).sort_values(["kind", "influence"], ascending=[True, False])

    @checked
    def into(self, node: int, k: Count = 10) -> pd.DataFrame:
        """The `k` edges of largest weight into a node, with what feeds it."""
        return self._edges(self.target == self._real(node), k)

    @checked
    def out_of(self, node: int, k: Count = 10) -> pd.DataFrame:
        """The `k` edges of largest weight out of a node."""
        return self._edges(self.source == self._real(node), k)

    def _edges(self, which: Bool[Tensor, " edge"], k: int) -> pd.DataFrame:
        edges = which.nonzero()[:, 0]
        edges = edges[self.weight[edges].abs().argsort(descending=True, stable=True)[:k]]
        ends = {name: getattr(self, name)[edges].tolist() for name in ("source", "target")}
        names = {f"{name}_name": [self.name(node) for node in nodes] for name, nodes in ends.items()}
        return pd.DataFrame(ends | names | {"weight": self.weight[edges].tolist()})

    def _real(self, node: int) -> int:
        refuse_outside("node", node, 0, len(self) - 1)
        return node

    def _words(self) -> list[str]:
        return [repr(self)]

    def __repr__(self) -> str:
        counts = [f"{int((self.kind == place).sum())} {kind}s" for place, kind in enumerate(KINDS)]
        return f"AttributionGraph({', '.join(counts)}; {len(self.weight)} edges; of {''.join(self.texts)!r:.60})"


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
