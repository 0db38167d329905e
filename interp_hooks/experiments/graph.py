"""A model as a graph of edges, and circuits: sets of its edges.

    writers   "input" (all embeddings), "a0.h1" (a head), "m0" (an MLP, or all experts of a layer)
    readers   "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits"
    edges     ("a0.h1", "a1.h0<k>"), written "a0.h1->a1.h0<k>"

Writers add to the stream, readers read it, and a reader reads what all writers before it have added: there is an edge
from each of these. Under grouped attention <k> and <v> are numbered by key/value head.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.arguments import checked, told
from interp_hooks.edges import check_edge
from interp_hooks.errors import BadInput, nearest
from interp_hooks.model import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd

EdgeName = tuple[str, str]
ARROW = "->"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the graph of a model depends on. In parallel blocks an MLP does not read its own layer's heads."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    attn_only: bool = False
    parallel: bool = False

    @classmethod
    def of(cls, model: HookedTransformer) -> Layout:
        """The layout of a model.

        Raises:
            BadInput: its stream is no sum of what is written, or its heads have no inputs of their own.
        """
        cfg, last = model.cfg, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        check_edge(model, "blocks.0.hook_resid_pre", last)
        if "blocks.0.hook_q_input" not in model.hook_dict:
            raise BadInput(
                "this model compresses keys and values into one vector for all heads (latent attention), so its heads "
                "have no inputs of their own that edges could lead into; patch its heads as nodes instead"
            )
        return cls(
            n_layers=cfg.n_layers,
            n_heads=model.hook_dict["blocks.0.hook_q_input"].sizes["head"],
            n_key_value_heads=model.hook_dict["blocks.0.hook_k_input"].sizes["head"],
            attn_only=cfg.attn_only,
            parallel=cfg.parallel_attn_mlp,
        )


class Part(NamedTuple):
    """The writers, or readers, that share a hook: `names` stand at `start` and after in the list of all of them.

    Of readers, `seen` is how many writers, the first ones, they read.
    """

    hook: str
    layer: int
    names: tuple[str, ...]
    start: int
    seen: int = 0

    @property
    def places(self) -> slice:
        return slice(self.start, self.start + len(self.names))

    @property
    def rows(self) -> list[int]:
        return list(range(self.start, self.start + len(self.names)))


class ComputationGraph:
    """Writers, readers and edges of a model whose stream is a sum, in the order in which a pass comes by them.

    Each reader reads a number of writers, the first ones: `exists` [writer, reader] tells which pairs are edges.

    Raises:
        BadInput: a post-norm model, whose stream is no sum, or one with latent attention.
    """

    @checked
    def __init__(self, model: HookedTransformer | Layout) -> None:
        self.layout = layout = model if isinstance(model, Layout) else Layout.of(model)
        self.writer_parts: list[Part] = []
        self.reader_parts: list[Part] = []
        self._write("blocks.0.hook_resid_pre", 0, ["input"])
        for layer in range(layout.n_layers):
            self._add_layer(layer)
        last = layout.n_layers - 1
        self._read(f"blocks.{last}.hook_resid_post", last, ["logits"])
        self.writers = [name for part in self.writer_parts for name in part.names]
        self.readers = [name for part in self.reader_parts for name in part.names]
        self.writer_index = {name: place for place, name in enumerate(self.writers)}
        self.reader_index = {name: place for place, name in enumerate(self.readers)}
        seen = torch.tensor([part.seen for part in self.reader_parts for _ in part.names])
        self.exists: Bool[Tensor, "writer reader"] = torch.arange(len(self.writers))[:, None] < seen

    def _add_layer(self, layer: int) -> None:
        layout, block = self.layout, f"blocks.{layer}"
        heads = [f"a{layer}.h{head}" for head in range(layout.n_heads)]
        self._read(f"{block}.hook_q_input", layer, [f"{head}<q>" for head in heads])
        for what in "kv":
            groups = [f"{head}<{what}>" for head in heads[: layout.n_key_value_heads]]
            self._read(f"{block}.hook_{what}_input", layer, groups)
        if layout.parallel and not layout.attn_only:
            self._read(f"{block}.hook_mlp_in", layer, [f"m{layer}"])
        self._write(f"{block}.attn.hook_z", layer, heads)
        if not layout.attn_only:
            if not layout.parallel:
                self._read(f"{block}.hook_mlp_in", layer, [f"m{layer}"])
            self._write(f"{block}.hook_mlp_out", layer, [f"m{layer}"])

    def _write(self, hook: str, layer: int, names: Sequence[str]) -> None:
        self.writer_parts.append(Part(hook, layer, tuple(names), _count(self.writer_parts)))

    def _read(self, hook: str, layer: int, names: Sequence[str]) -> None:
        parts = self.reader_parts
        parts.append(Part(hook, layer, tuple(names), _count(parts), seen=_count(self.writer_parts)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComputationGraph) and self.layout == other.layout

    def __hash__(self) -> int:
        return hash(self.layout)

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.exists.sum())

    def __repr__(self) -> str:
        return f"ComputationGraph({len(self.writers)} writers, {len(self.readers)} readers, {len(self)} edges)"

    @property
    def edges(self) -> list[EdgeName]:
        """All edges, reader by reader."""
        return [(self.writers[writer], self.readers[reader]) for reader, writer in self.exists.T.nonzero().tolist()]

    @property
    def nodes(self) -> list[str]:
        """All writers, and "logits"."""
        return [*self.writers, "logits"]

    def nodes_of(self, reader: str) -> list[str]:
        """The nodes that a reader is an input of: one, or all the heads that share a key/value head."""
        name, bracket, what = reader.partition("<")
        if not bracket or what == "q>":
            return [name]
        layer, _, group = name.partition(".h")
        size = self.layout.n_heads // self.layout.n_key_value_heads
        return [f"{layer}.h{head}" for head in range(int(group) * size, (int(group) + 1) * size)]

    def edge(self, edge: str | EdgeName) -> EdgeName:
        """An edge, given as such or as it is written.

        Raises:
            BadInput: there is no such edge; the message names the nearest writer or reader.
        """
        ends = tuple(edge.split(ARROW)) if isinstance(edge, str) else edge
        if not isinstance(ends, tuple) or len(ends) != 2 or not all(isinstance(end, str) for end in ends):
            raise BadInput(f"an edge is a (writer, reader) or 'writer->reader', as 'a0.h1->m1', got {told(edge)}")
        writer, reader = ends
        for name, what, known in ((writer, "writer", self.writer_index), (reader, "reader", self.reader_index)):
            if name not in known:
                raise BadInput(f"this model has no {what} {name!r}.{nearest(name, known)}")
        if not self.exists[self.writer_index[writer], self.reader_index[reader]]:
            raise BadInput(
                f"there is no edge {writer}{ARROW}{reader}: {reader} reads the stream before {writer} writes"
            )
        return writer, reader

    def circuit(self, edges: Iterable[str | EdgeName] | None = None) -> Circuit:
        """The circuit of these edges; of all by default."""
        listed = self.edges if edges is None else [self.edge(edge) for edge in edges]
        return Circuit(graph=self, edges=frozenset(listed))

    def circuit_of_nodes(self, nodes: Iterable[str]) -> Circuit:
        """All edges between these nodes, "input" and "logits".

        Raises:
            BadInput: a node that does not exist.
        """
        kept = {"input", "logits", *nodes}
        if unknown := sorted(kept - set(self.nodes)):
            raise BadInput(f"this model has no node {unknown[0]!r}.{nearest(unknown[0], self.nodes)}")
        found = [
            (writer, reader) for writer, reader in self.edges if writer in kept and kept & {*self.nodes_of(reader)}
        ]
        return Circuit(graph=self, edges=frozenset(found))

    def scored(self, scores: Float[Tensor, "writer reader"]) -> Circuit:
        """All edges, with their scores from a matrix."""
        columns = scores.detach().double().T.tolist()
        by_edge = {
            (self.writers[writer], self.readers[reader]): columns[reader][writer]
            for reader, writer in self.exists.T.nonzero().tolist()
        }
        return Circuit(graph=self, edges=frozenset(by_edge), scores=by_edge)


def _count(parts: Sequence[Part]) -> int:
    return sum(len(part.names) for part in parts)


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A set of edges of a graph, maybe with a score for each. Circuits are equal if graph and edges are.

    `a | b`, `a & b` and `a - b` are circuits of the same graph, `a <= b` says whether b has all edges of a; scores are
    those of a, and of b for edges that a does not have.

    Raises:
        BadInput: an edge that does not exist, or scores of other edges than these.
    """

    graph: ComputationGraph
    edges: frozenset[EdgeName]
    scores: Mapping[EdgeName, float] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", frozenset(map(self.graph.edge, self.edges)))
        if self.scores is not None:
            if self.edges != self.scores.keys():
                raise BadInput(f"expected a score for each of {len(self.edges)} edges, got {len(self.scores)} scores")
            if unfit := [edge for edge, score in self.scores.items() if score != score]:
                raise BadInput(f"the score of {ARROW.join(unfit[0])} is nan")

    def __len__(self) -> int:
        return len(self.edges)

    def __contains__(self, edge: str | EdgeName) -> bool:
        return self.graph.edge(edge) in self.edges

    def __or__(self, other: Circuit) -> Circuit:
        self._refuse_other_graph(other)
        scored = self.scores is not None and other.scores is not None
        merged = {**(other.scores or {}), **(self.scores or {})} if scored else None
        return Circuit(graph=self.graph, edges=self.edges | other.edges, scores=merged)

    def __and__(self, other: Circuit) -> Circuit:
        self._refuse_other_graph(other)
        return self.only(self.edges & other.edges)

    def __sub__(self, other: Circuit) -> Circuit:
        self._refuse_other_graph(other)
        return self.only(self.edges - other.edges)

    def __le__(self, other: Circuit) -> bool:
        self._refuse_other_graph(other)
        return self.edges <= other.edges

    def _refuse_other_graph(self, other: Circuit) -> None:
        if self.graph != other.graph:
            raise BadInput(f"these circuits are of different graphs: {self.graph} and {other.graph}")

    def only(self, edges: Iterable[EdgeName]) -> Circuit:
        """Those of its edges that are listed, with their scores."""
        kept = self.edges.intersection(edges)
        scores = None if self.scores is None else {edge: self.scores[edge] for edge in kept}
        return Circuit(graph=self.graph, edges=kept, scores=scores)

    @property
    def listed(self) -> list[EdgeName]:
        """The edges in the graph's order, reader by reader."""
        index = self.graph.reader_index, self.graph.writer_index
        return sorted(self.edges, key=lambda edge: (index[0][edge[1]], index[1][edge[0]]))

    @property
    def nodes(self) -> list[str]:
        """The nodes at the ends of its edges, in the graph's order."""
        found = {writer for writer, _ in self.edges}
        found.update(itertools.chain.from_iterable(self.graph.nodes_of(reader) for _, reader in self.edges))
        return [node for node in self.graph.nodes if node in found]

    @property
    def kept(self) -> Bool[Tensor, "writer reader"]:
        """Which edges of the graph it has."""
        kept = torch.zeros_like(self.graph.exists)
        for writer, reader in self.edges:
            kept[self.graph.writer_index[writer], self.graph.reader_index[reader]] = True
        return kept

    def at_node(self, node: str) -> Circuit:
        """Those of its edges that begin or end at a node.

        Raises:
            BadInput: a node that does not exist.
        """
        if node not in self.graph.nodes:
            raise BadInput(f"this model has no node {node!r}.{nearest(node, self.graph.nodes)}")
        return self.only(edge for edge in self.edges if edge[0] == node or node in self.graph.nodes_of(edge[1]))

    @checked
    def top(self, n: int, *, absolute: bool = False) -> Circuit:
        """The n edges with the highest scores, or with the largest by size; of equal ones the first in the graph.

        Raises:
            BadInput: no scores, or other than 0 to as many edges as there are.
        """
        scores = self._known_scores()
        if not 0 <= n <= len(self):
            raise BadInput(f"n must be 0 to {len(self)}, the number of edges with a score, got {n}")
        ranked = sorted(self.listed, key=lambda edge: -(abs(scores[edge]) if absolute else scores[edge]))
        return self.only(ranked[:n])

    def _known_scores(self) -> Mapping[EdgeName, float]:
        if self.scores is None:
            raise BadInput("this circuit has no scores to rank its edges by; eap, eap_ig, ... give circuits that do")
        return self.scores

    def pruned(self) -> Circuit:
        """Without the edges that are on no path from "input" to "logits" within the circuit.

        A head or MLP that is fed by nothing goes too, although its biases may write something; and where the heads of a
        layer are normalized together, those that go may have had a share in the norm's scale.
        """
        listed = self.listed
        reached, useful = {"input"}, {"logits"}
        for writer, reader in listed:
            if writer in reached:
                reached.update(self.graph.nodes_of(reader))
        for writer, reader in reversed(listed):
            if useful.intersection(self.graph.nodes_of(reader)):
                useful.add(writer)
        return self.only(
            edge for edge in listed if edge[0] in reached and useful.intersection(self.graph.nodes_of(edge[1]))
        )

    def table(self) -> pd.DataFrame:
        """A row for each edge: writer, reader and, if there are scores, the score; largest by size first."""
        import pandas as pd

        listed = self.listed
        columns: dict[str, Any] = {"writer": [edge[0] for edge in listed], "reader": [edge[1] for edge in listed]}
        if self.scores is None:
            return pd.DataFrame(columns)
        table = pd.DataFrame(columns | {"score": [self.scores[edge] for edge in listed]})
        return table.sort_values("score", key=abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_json(self) -> str:
        """The graph's layout and the edges, with scores if there are any, as JSON."""
        edges = [ARROW.join(edge) for edge in self.listed]
        scores = None if self.scores is None else [self.scores[edge] for edge in self.listed]
        return json.dumps({"graph": asdict(self.graph.layout), "edges": edges, "scores": scores})

    @classmethod
    @checked
    def from_json(cls, text: str) -> Circuit:
        """The circuit that `to_json` wrote down.

        Raises:
            BadInput: something else, or an edge that does not exist.
        """
        try:
            document = json.loads(text)
            graph = ComputationGraph(Layout(**document["graph"]))
            edges, scores = [graph.edge(edge) for edge in document["edges"]], document["scores"]
            by_edge = None if scores is None else dict(zip(edges, scores, strict=True))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(f"expected a circuit as to_json writes it: {error}") from error
        return cls(graph=graph, edges=frozenset(edges), scores=by_edge)
