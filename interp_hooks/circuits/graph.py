"""A model as a graph of edges, and circuits: sets of its edges.

    writers   "input" (all embeddings), "a0.h1" (a head), "m0" (an MLP, or all experts of a layer)
    readers   "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits"
    edges     ("a0.h1", "a1.h0<k>"), written "a0.h1->a1.h0<k>"

Writers add to the stream, readers read it, and a reader reads what all writers before it have added: there is an edge
from each of these. Under grouped attention <k> and <v> are numbered by key/value head.

A graph may tell token positions apart. What is written at a position is read there, so an edge lies at one: its reader
is "a1.h0<k>@S2", or "a1.h0<k>@rest" for all positions without a name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.circuits.layout import ARROW, Layout, Reader, parts_of, position_number
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import checked, fits, told, told_shape
from interp_hooks.experiments.results.archive import CALL, Json, read, replacing, write
from interp_hooks.experiments.results.record import Record, record_in
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd

EdgeName = tuple[str, str]
CIRCUIT = "circuit"  # of a folder: the files that hold one


class ComputationGraph:
    """Writers, readers and edges of a model whose stream is a sum, in the order in which a pass comes by them.

    Each reader reads a number of writers, the first ones: `exists` [writer, reader] tells which pairs are edges. With
    `positions`, names of token positions, every reader is there once for each of them and once for the "rest". Where
    they are in a prompt is said where prompts are: `eap(..., positions={"S1": 3, "S2": places})`.

    Raises:
        BadInput: a post-norm model, whose stream is no sum, or one with latent attention; a name for two positions.
    """

    @checked
    def __init__(
        self, model: HookedTransformer | Layout, positions: Sequence[str | int] | Mapping[str, Any] = ()
    ) -> None:
        layout = model if isinstance(model, Layout) else Layout.of(model)
        named = tuple(name if isinstance(name, str) else str(position_number(name)) for name in positions)
        self.layout = replace(layout, positions=named) if named else layout
        self.writer_parts, self.reader_parts = parts_of(self.layout)
        self.writers = [name for part in self.writer_parts for name in part.every]
        self.readers = [name for part in self.reader_parts for name in part.every]
        self.writer_index = {name: place for place, name in enumerate(self.writers)}
        self.reader_index = {name: place for place, name in enumerate(self.readers)}
        self._seen = [part.seen for part in self.reader_parts for _ in part.every]
        first = torch.arange(len(self.writers))[:, None]
        self.exists: Bool[Tensor, "writer reader"] = first < torch.tensor(self._seen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComputationGraph) and self.layout == other.layout

    def __hash__(self) -> int:
        return hash(self.layout)

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.exists.sum())

    def __repr__(self) -> str:
        named = self.layout.positions
        at_positions = f", at {', '.join(self.layout.labels)}" if named else ""
        counts = f"{len(self.writers)} writers, {len(self.readers)} readers, {len(self)} edges"
        return f"ComputationGraph({counts}{at_positions})"

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
        read = Reader.of(reader)
        if not read.moves:
            return [read.node]
        layer, _, group = read.node.partition(".h")
        size = self.layout.n_heads // self.layout.n_key_value_heads
        return [f"{layer}.h{head}" for head in range(int(group) * size, (int(group) + 1) * size)]

    def outlets(self, reader: str) -> list[tuple[str, str]]:
        """Where what it reads may come out: nodes, each with a position; of keys and values, which are moved, any."""
        read = Reader.of(reader)
        labels = self.layout.labels if read.moves else (read.label,)
        return list(itertools.product(self.nodes_of(reader), labels))

    @property
    def reader_labels(self) -> Int[Tensor, " reader"]:
        """For each reader which of `layout.labels` it is at."""
        return torch.arange(len(self.readers)) % len(self.layout.labels)

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
        if self.writer_index[writer] >= self._seen[self.reader_index[reader]]:
            raise BadInput(
                f"there is no edge {writer}{ARROW}{reader}: {reader} reads the stream before {writer} writes"
            )
        return writer, reader

    @checked
    def circuit(self, edges: Iterable[str | EdgeName] | None = None) -> Circuit:
        """The circuit of these edges; of all by default."""
        listed = self.edges if edges is None else [self.edge(edge) for edge in edges]
        return Circuit(graph=self, edges=frozenset(listed))

    @checked
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

    @checked
    def scored(self, scores: Float[Tensor, "writer reader"]) -> Circuit:
        """All edges, with their scores from a matrix.

        Raises:
            BadInput: one of another shape, or nan for an edge.
        """
        if scores.shape != self.exists.shape:
            raise BadInput(f"expected scores [writer, reader] = {list(self.exists.shape)}, got {told_shape(scores)}")
        columns = scores.detach().double().T.tolist()
        by_edge = {
            (self.writers[writer], self.readers[reader]): columns[reader][writer]
            for reader, writer in self.exists.T.nonzero().tolist()
        }
        return Circuit(graph=self, edges=frozenset(by_edge), scores=by_edge)


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A set of edges of a graph, maybe with a score for each. Circuits are equal if graph and edges are.

    `record` is how the scores came about, or which edges there are: the call that did it, with which model and prompts.
    What is made of such a circuit (`top`, `a - b`, ...) keeps it; it doesn't tell what was chosen.

    `a | b`, `a & b` and `a - b` are circuits of the same graph, `a <= b` says whether b has all edges of a; scores are
    those of a, and of b for edges that a does not have.

    Edges, in scores too, may be given as they are written.

    Raises:
        BadInput: an edge that does not exist, scores of other edges than these, or one that is no number.
    """

    graph: ComputationGraph
    edges: frozenset[EdgeName]
    scores: Mapping[EdgeName, float] | None = field(default=None, compare=False, repr=False)
    record: Record | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        edges, scores = _in_graph(self.graph, self.edges, self.scores)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.edges)

    def __contains__(self, edge: str | EdgeName) -> bool:
        return self.graph.edge(edge) in self.edges

    def __or__(self, other: Circuit) -> Circuit:
        edges, merged = self.edges | self._edges_of(other), None
        if self.scores is not None and other.scores is not None:
            merged = {**other.scores, **self.scores}
        return Circuit(graph=self.graph, edges=edges, scores=merged, record=self.record)

    def __and__(self, other: Circuit) -> Circuit:
        return self.only(self._edges_of(other) & self.edges)

    def __sub__(self, other: Circuit) -> Circuit:
        return self.only(self.edges - self._edges_of(other))

    def __le__(self, other: Circuit) -> bool:
        return self.edges <= self._edges_of(other)

    def _edges_of(self, other: Circuit) -> frozenset[EdgeName]:
        """Those of a circuit of the same graph; anything else is refused."""
        if not isinstance(other, Circuit):
            raise BadInput(f"expected another circuit, as graph.circuit(edges) makes one, got {told(other)}")
        if self.graph != other.graph:
            raise BadInput(f"these circuits are of different graphs: {self.graph} and {other.graph}")
        return other.edges

    @checked
    def only(self, edges: Iterable[str | EdgeName]) -> Circuit:
        """Those of its edges that are listed, with their scores.

        Raises:
            BadInput: an edge that the graph does not have.
        """
        kept = self.edges.intersection(map(self.graph.edge, edges))
        scores = None if self.scores is None else {edge: self.scores[edge] for edge in kept}
        return Circuit(graph=self.graph, edges=kept, scores=scores, record=self.record)

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
        graph, listed = self.graph, self.listed
        reached, useful = ({(node, label) for label in graph.layout.labels} for node in ("input", "logits"))
        begins = {edge: (edge[0], Reader.of(edge[1]).label) for edge in listed}
        ends = {reader: {*graph.outlets(reader)} for reader in {reader for _, reader in listed}}
        for edge in listed:
            if begins[edge] in reached:
                reached |= ends[edge[1]]
        for edge in reversed(listed):
            if useful & ends[edge[1]]:
                useful.add(begins[edge])
        return self.only(edge for edge in listed if begins[edge] in reached and useful & ends[edge[1]])

    def without_positions(self) -> Circuit:
        """The same edges in the graph that doesn't tell positions apart, each with the sum of its scores."""
        graph = ComputationGraph(replace(self.graph.layout, positions=()))
        merged = {(writer, reader): (writer, Reader.of(reader).everywhere) for writer, reader in self.listed}
        scores = None if self.scores is None else dict.fromkeys(merged.values(), 0.0)
        for edge, score in (self.scores or {}).items():
            assert scores is not None
            scores[merged[edge]] += score
        return Circuit(graph=graph, edges=frozenset(merged.values()), scores=scores, record=self.record)

    def table(self) -> pd.DataFrame:
        """A row for each edge: writer, reader, position and score if there are any; largest by size first."""
        import pandas as pd

        listed = self.listed
        readers = [Reader.of(reader) for _, reader in listed]
        columns: dict[str, Any] = {
            "writer": [edge[0] for edge in listed],
            "reader": [read.everywhere for read in readers],
        }
        if self.graph.layout.positions:
            columns["position"] = [read.label for read in readers]
        if self.scores is None:
            return pd.DataFrame(columns)
        table = pd.DataFrame(columns | {"score": [self.scores[edge] for edge in listed]})
        return table.sort_values("score", key=abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_json(self) -> str:
        """The graph's layout and the edges, with scores if there are any, as JSON; `save` keeps the record, too."""
        return json.dumps(self._document())

    def _document(self) -> dict[str, Json]:
        listed = self.listed
        scores = None if self.scores is None else [self.scores[edge] for edge in listed]
        return {"graph": asdict(self.graph.layout), "edges": [ARROW.join(edge) for edge in listed], "scores": scores}

    @classmethod
    @checked
    def from_json(cls, text: str) -> Circuit:
        """The circuit that `to_json` wrote down.

        Raises:
            BadInput: something else, or an edge that does not exist.
        """
        try:
            document = json.loads(text)
            layout = document["graph"]
            graph = ComputationGraph(Layout(**layout | {"positions": tuple(layout.get("positions", ()))}))
            edges, scores = [graph.edge(edge) for edge in document["edges"]], document["scores"]
            by_edge = None if scores is None else dict(zip(edges, scores, strict=True))
            return cls(graph=graph, edges=frozenset(edges), scores=by_edge)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected a circuit as to_json writes it: {error}") from error

    # -------------------------------------------------------------------------------------------- how it came about

    @checked
    def rerun(self, model: HookedTransformer, metric: MetricLike | None = None, *, any_model: bool = False) -> Circuit:
        """What the recorded call gives now: all edges of it, whatever has been chosen from them since.

        `metric` is another one, or the one that was a plain function. `any_model` allows another model.

        Raises:
            BadInput: another model, a circuit without record, or a metric of which only the name was kept.
        """
        if self.record is None:
            raise BadInput("this circuit has no record of how it came about, so it cannot be computed again")
        return self.record.again(model, metric, {}, any_model=any_model)

    @checked
    def save(self, folder: str | Path, *, overwrite: bool = False, model: HookedTransformer | None = None) -> None:
        """Write the circuit to a folder, with its record if it has one: `circuit.json` to read, the call beside it.

        With `overwrite` a circuit that is there is replaced. `model` is needed if the one that was used is gone.

        Raises:
            BadInput: the folder holds something; an argument of the call that cannot be written; the model's weights,
                or a tensor among the arguments, were changed since.
        """
        with replacing(folder, CIRCUIT, overwrite) as beside:
            record = None if self.record is None else self.record.kept(model)
            if record is not None:
                write(beside, CALL, *record.packed())
            write(beside, CIRCUIT, {**({} if record is None else record.facts), "circuit": self._document()}, {})

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Circuit:
        """The circuit in a folder, with its record.

        Raises:
            BadInput: there is none, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / f"{CIRCUIT}.json").exists():
            raise BadInput(f"expected a circuit in {folder}, as circuit.save() writes it, found none")
        document, _ = read(folder, CIRCUIT)
        found = cls.from_json(json.dumps(document.get("circuit")))
        return replace(found, record=record_in(folder))


@checked
def _in_graph(
    graph: ComputationGraph, edges: Iterable[str | EdgeName], scores: Mapping[Any, Any] | None
) -> tuple[frozenset[EdgeName], dict[EdgeName, float] | None]:
    """The edges of a graph, and their scores, by names that are checked."""
    found = frozenset(map(graph.edge, edges))
    if scores is None:
        return found, None
    by_edge = {graph.edge(edge): score for edge, score in scores.items()}
    if found != by_edge.keys():
        raise BadInput(f"expected a score for each of {len(found)} edges, got {len(by_edge)} scores")
    if unfit := [edge for edge, score in by_edge.items() if not fits(score, float) or score != score]:
        score = by_edge[unfit[0]]
        came = "nan" if fits(score, float) else f"no number but {told(score)}"
        raise BadInput(f"the score of {ARROW.join(unfit[0])} is {came}")
    return found, by_edge
