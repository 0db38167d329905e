"""The edges of a model: who writes to its stream, who reads it, and which pairs are edges, by name and as matrices.

    writers   "input" (all embeddings), "a0.h1" (a head), "m0" (an MLP, or all experts of a layer)
    readers   "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits"
    edges     ("a0.h1", "a1.h0<k>"), written "a0.h1->a1.h0<k>"

Writers add to the stream, and a reader reads what all writers before it have added: there is an edge from each of
these. Under grouped attention <k> and <v> are numbered by key/value head.

A graph may tell token positions apart. What is written at a position is read there, so each edge is at one position:
its reader is "a1.h0<k>@S2", or "a1.h0<k>@rest" for all positions without a name.

A set of edges is a bool matrix [writer, reader]. Names of edges are made from it, one by one, only where somebody asks.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp_hooks.circuits.layout import ARROW, AT, Layout, parts_of
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import checked_methods, fits, told, told_shape

EdgeName = tuple[str, str]
EdgeMask = Bool[Tensor, "writer reader"]
EdgeMatrix = Float[Tensor, "writer reader"]


class Reader(NamedTuple):
    """A reader: its name without the position, what of a head it is ("q", "k", "v" or ""), and its position or "".

    `nodes` are the places, in the graph's list of nodes, of the nodes that it is an input of: one, or all the heads
    that share a key/value head.
    """

    name: str
    into: str
    label: str
    nodes: slice

    def __str__(self) -> str:
        return f"{self.name}{AT}{self.label}" if self.label else self.name


@checked_methods
class Graph:
    """Writers, readers and edges of a layout, in the order in which a pass comes by them.

    Each reader reads a number of writers, the first ones: `exists` [writer, reader] tells which pairs are edges.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.writer_parts, self.reader_parts = parts_of(layout)
        self.writers = [name for part in self.writer_parts for name in part.names]
        self.nodes = [*self.writers, "logits"]
        self.read = [
            Reader(name, part.into, label, slice(first, first + part.size))
            for part in self.reader_parts
            for name, first in zip(part.names, range(part.nodes.start, part.nodes.stop, part.size), strict=True)
            for label in part.labels
        ]
        self.readers = [str(reader) for reader in self.read]
        self.writer_index = {name: place for place, name in enumerate(self.writers)}
        self.reader_index = {name: place for place, name in enumerate(self.readers)}
        self._seen = [part.seen for part in self.reader_parts for _ in part.rows]
        by_reader = torch.arange(len(self.writers)) < torch.tensor(self._seen)[:, None]
        self.exists: EdgeMask = by_reader.T  # in memory as edges are listed, reader by reader

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.layout == other.layout

    def __hash__(self) -> int:
        return hash(self.layout)

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.exists.sum())

    def __repr__(self) -> str:
        at_positions = f", at {', '.join(self.layout.labels)}" if self.layout.positions else ""
        counts = f"{len(self.writers)} writers, {len(self.readers)} readers, {len(self)} edges"
        return f"{type(self).__name__}({counts}{at_positions})"

    @property
    def edges(self) -> list[EdgeName]:
        """All edges by name, reader by reader."""
        return self.named(self.exists)

    def nodes_of(self, reader: str) -> list[str]:
        """The nodes that a reader is an input of: one, or all the heads that share a key/value head.

        Raises:
            BadInput: a reader that does not exist; the message names the nearest one.
        """
        if reader not in self.reader_index:
            raise BadInput(f"this model has no reader {reader!r}.{nearest(reader, self.readers)}")
        return self.nodes[self.read[self.reader_index[reader]].nodes]

    def node(self, node: str) -> int:
        """The place of a node in the list of nodes.

        Raises:
            BadInput: a node that does not exist; the message names the nearest one.
        """
        if node not in self.nodes:
            raise BadInput(f"this model has no node {node!r}.{nearest(node, self.nodes)}")
        return self.nodes.index(node)

    def place(self, edge: Any) -> tuple[int, int]:
        """The row and the column of an edge, which is given as (writer, reader) or as "writer->reader".

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
        place = self.writer_index[writer], self.reader_index[reader]
        if place[0] >= self._seen[place[1]]:
            raise BadInput(
                f"there is no edge {writer}{ARROW}{reader}: {reader} reads the stream before {writer} writes"
            )
        return place

    def edge(self, edge: Any) -> EdgeName:
        """An edge as (writer, reader), from either way of writing it; raises as `place` does."""
        writer, reader = self.place(edge)
        return self.writers[writer], self.readers[reader]

    def places(self, edges: Iterable[Any]) -> tuple[Int[Tensor, " edge"], ...]:
        """The rows and the columns of some edges; raises as `place` does."""
        places = [self.place(edge) for edge in edges]
        return torch.tensor(places, dtype=torch.long).reshape(-1, 2).unbind(1)

    def marked(self, edges: Iterable[Any]) -> EdgeMask:
        """The matrix of some edges; raises as `place` does."""
        marked = torch.zeros_like(self.exists)
        marked[self.places(edges)] = True
        return marked

    def named(self, kept: EdgeMask) -> list[EdgeName]:
        """The names of the edges that a matrix marks, reader by reader.

        Raises:
            BadInput: a matrix of another shape.
        """
        if kept.shape != self.exists.shape:
            raise BadInput(f"kept must be [writer, reader] = {list(self.exists.shape)}, got {told_shape(kept)}")
        return [(self.writers[writer], self.readers[reader]) for reader, writer in kept.T.nonzero().tolist()]


def by_edge(matrix: Shaped[Tensor, "writer reader"], kept: EdgeMask) -> Shaped[Tensor, " edge"]:
    """The entries of a matrix for the edges that another one marks, reader by reader."""
    return matrix.T[kept.T]


def as_matrix(values: Shaped[Tensor, " edge"], kept: EdgeMask) -> Shaped[Tensor, "writer reader"]:
    """The matrix that has such entries where another one marks edges, and 0 elsewhere."""
    matrix = torch.zeros(kept.T.shape, dtype=values.dtype)
    matrix[kept.T] = values
    return matrix.T


@checked_methods
class Scores(Mapping[EdgeName, float]):
    """The scores of a circuit's edges, by edge. Names of edges are made only when somebody asks for them.

    `matrix` has all scores at once. Circuits that are chosen from one share its numbers, which are not copied.
    """

    def __init__(self, graph: Graph, kept: EdgeMask, numbers: EdgeMatrix) -> None:
        self.graph, self.kept, self._numbers = graph, kept, numbers

    @classmethod
    def of(cls, graph: Graph, kept: EdgeMask, scores: Mapping[Any, Any] | Tensor) -> Scores:
        """The scores of these edges, from a matrix, from a mapping, or from the scores of these and other edges.

        Raises:
            BadInput: scores of other edges than these, a matrix of another shape, or what is not a number.
        """
        if isinstance(scores, Scores) and scores.graph == graph and not bool((kept & ~scores.kept).any()):
            return cls(graph, kept, scores._numbers)
        if not isinstance(scores, Mapping | Tensor):
            raise BadInput(f"scores must be a mapping from edges to numbers or a matrix, got {told(scores)}")
        numbers = _from_matrix(scores, kept) if isinstance(scores, Tensor) else _from_mapping(scores, graph, kept)
        if bool((unknown := numbers.isnan() & kept).any()):
            raise BadInput(f"the score of {ARROW.join(graph.named(unknown)[0])} is nan")
        return cls(graph, kept, numbers)

    @property
    def matrix(self) -> EdgeMatrix:
        """The scores in float64, and 0 where the circuit has no edge."""
        return self._numbers.masked_fill(~self.kept, 0.0)

    @property
    def listed(self) -> Float[Tensor, " edge"]:
        """The scores in the order of `Circuit.listed`, in float64."""
        return by_edge(self._numbers, self.kept)

    def __getitem__(self, edge: str | EdgeName) -> float:
        try:
            place = self.graph.place(edge)
        except BadInput as error:
            raise KeyError(str(error)) from error
        if not self.kept[place]:
            raise KeyError(f"the circuit does not have the edge {edge}")
        return float(self._numbers[place])

    def __iter__(self) -> Iterator[EdgeName]:
        return iter(self.graph.named(self.kept))

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __or__(self, other: Scores) -> Scores:
        """The scores of both, and these where both have one."""
        if not isinstance(other, Scores):
            raise BadInput(f"scores are joined with other scores, got {told(other)}")
        numbers = torch.where(self.kept, self._numbers, other._numbers)
        return Scores(self.graph, self.kept | other.kept, numbers)

    def items(self) -> ItemsView[EdgeName, float]:
        """All edges with their scores, reader by reader."""
        return dict(zip(self, self.listed.tolist(), strict=True)).items()

    def __repr__(self) -> str:
        return repr(dict(self.items()))


def _from_matrix(given: Tensor, kept: EdgeMask) -> EdgeMatrix:
    if given.shape != kept.shape:
        raise BadInput(f"expected scores [writer, reader] = {list(kept.shape)}, got {told_shape(given)}")
    by_reader = given.detach().T.to("cpu", torch.float64, copy=True, memory_format=torch.contiguous_format)
    return by_reader.T  # as kept is


def _from_mapping(given: Mapping[Any, Any], graph: Graph, kept: EdgeMask) -> EdgeMatrix:
    places = graph.places(given)
    numbers, found = torch.zeros_like(kept, dtype=torch.float64), torch.zeros_like(kept)
    found[places] = True
    if not torch.equal(found, kept):
        raise BadInput(f"expected a score for each of {int(kept.sum())} edges, got {len(given)} scores")
    for edge, score in given.items():
        if not fits(score, float):
            raise BadInput(f"the score of {ARROW.join(graph.edge(edge))} is no number but {told(score)}")
    numbers[places] = torch.tensor([float(score) for score in given.values()], dtype=torch.float64)
    return numbers
