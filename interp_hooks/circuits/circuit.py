"""Circuits, which are sets of edges of a model's graph, and the graph that they are made from.

A circuit is a bool matrix [writer, reader], `kept`, and maybe another with the edges' scores. Everything that is done
with circuits is done with these matrices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_hooks.circuits.graph import EdgeMask, EdgeMatrix, EdgeName, Graph, Scores, as_matrix
from interp_hooks.circuits.layout import ARROW, Layout, position_number
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import check_arguments, checked, checked_methods, refuse_outside, told, told_shape
from interp_hooks.experiments.results.folders import CALL, read, replacing, write
from interp_hooks.experiments.results.record import Record, record_in
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.model.stream import Stop
from interp_hooks.model.tensor_files import holds
from interp_hooks.model.transformer import HookedTransformer

CIRCUIT = "circuit"  # the name of the files of a saved circuit


@checked_methods
class ComputationGraph(Graph):
    """The graph of a model whose stream is a sum: who writes to it, who reads it, and the edges between these.

    With `positions`, names of token positions, every reader is there once for each of them and once for the "rest".
    Where they are in a prompt is said where the prompts are: `eap(..., positions={"S1": 3, "S2": places})`.

        >>> graph = ComputationGraph(model)
        >>> graph.circuit(["a0.h1->m0", "m0->logits"]) <= graph.circuit_of_nodes(["a0.h1", "m0"])
        True

    Raises:
        BadInput: a post-norm model, whose stream is no sum, or one with latent attention; a name for two positions.
    """

    @checked
    def __init__(
        self, model: HookedTransformer | Layout, positions: Sequence[str | int] | Mapping[str, Any] = ()
    ) -> None:
        layout = model if isinstance(model, Layout) else Layout.of(model)
        named = tuple(name if isinstance(name, str) else str(position_number(name)) for name in positions)
        super().__init__(replace(layout, positions=named) if named else layout)

    def circuit(self, edges: Iterable[str | EdgeName] | None = None) -> Circuit:
        """The circuit of these edges; of all by default.

        Raises:
            BadInput: an edge that does not exist.
        """
        return Circuit(graph=self, edges=edges)

    def circuit_of_nodes(self, nodes: Iterable[str]) -> Circuit:
        """The circuit of all edges between these nodes, "input" and "logits".

        Raises:
            BadInput: a node that does not exist.
        """
        chosen = torch.zeros(len(self.nodes), dtype=torch.bool)
        chosen[[0, len(self.nodes) - 1, *map(self.node, nodes)]] = True
        into = torch.tensor([bool(chosen[reader.nodes].any()) for reader in self.read])
        return Circuit(graph=self, kept=self.exists & chosen[:-1, None] & into)

    def scored(self, scores: EdgeMatrix) -> Circuit:
        """The circuit of all edges, with their scores from a matrix.

        Raises:
            BadInput: a matrix of another shape, or nan for an edge.
        """
        return Circuit(graph=self, scores=scores)


@checked_methods
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Circuit(Shown):
    """A set of edges of a graph, maybe with a score for each. Circuits are equal if graph and edges are.

        >>> scores = {"input->m0": 0.5, "m0->logits": 2.0}
        >>> circuit = Circuit(graph=ComputationGraph(model), edges=scores, scores=scores)
        >>> circuit.top(1).edges, circuit.nodes
        (frozenset({('m0', 'logits')}), ['input', 'm0', 'logits'])

    `edges` is the set of its edges by name, as (writer, reader), and `kept` is the same as a matrix [writer, reader],
    which must not be written to. `scores` maps edges to numbers, and `scores.matrix` has these as a matrix. A circuit
    can be made from names or from matrices: from `edges` or `kept`, or from all edges if neither is given, and from
    `scores` of either form. Wherever an edge is expected, it may also be written "a0.h1->m0".

    `a | b`, `a & b` and `a - b` are circuits of the same graph, and `a <= b` says whether b has all edges of a. Scores
    are those of a, and of b for edges that a does not have.

    `record` tells how the scores came about, or which edges there are: the call that did it, with which model and
    prompts. What is made from such a circuit (`top`, `a - b`, ...) keeps the record, which does not tell what was
    chosen.

    Raises:
        BadInput: an edge that does not exist, scores of other edges than these, or one that is not a number.
    """

    graph: ComputationGraph
    kept: EdgeMask
    scores: Scores | None
    record: Record | None

    def __init__(
        self,
        *,
        graph: ComputationGraph,
        edges: Iterable[str | EdgeName] | None = None,
        scores: Mapping[Any, Any] | EdgeMatrix | None = None,
        kept: EdgeMask | None = None,
        record: Record | None = None,
    ) -> None:
        check_arguments(Circuit.__init__, {"graph": graph, "edges": edges, "kept": kept})
        if kept is None:
            kept = graph.exists if edges is None else graph.marked(edges)
        elif kept.shape != graph.exists.shape or not bool((kept.cpu() <= graph.exists).all()):
            expected = f"kept [writer, reader] = {list(graph.exists.shape)}, True only where the graph has an edge"
            raise BadInput(f"expected {expected}, got {told_shape(kept)}")
        kept = kept.cpu() & graph.exists
        scores = None if scores is None else Scores.of(graph, kept, scores)
        vars(self).update(graph=graph, kept=kept, scores=scores, record=record)

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __repr__(self) -> str:
        return f"Circuit({len(self)} edges{'' if self.scores is None else ' with scores'}, {self.graph})"

    def _words(self) -> list[str]:
        return [repr(self)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Circuit) and self.graph == other.graph and torch.equal(self.kept, other.kept)

    def __hash__(self) -> int:
        return hash((self.graph, self.kept.numpy().tobytes()))

    def __contains__(self, edge: str | EdgeName) -> bool:
        return bool(self.kept[self.graph.place(edge)])

    def __iter__(self) -> Iterator[EdgeName]:
        return iter(self.listed)

    def __or__(self, other: Circuit) -> Circuit:
        kept = self.kept | self._kept_by(other)
        scores = None if self.scores is None or other.scores is None else self.scores | other.scores
        return Circuit(graph=self.graph, kept=kept, scores=scores, record=self.record)

    def __and__(self, other: Circuit) -> Circuit:
        return self.where(self._kept_by(other))

    def __sub__(self, other: Circuit) -> Circuit:
        return self.where(~self._kept_by(other))

    def __le__(self, other: Circuit) -> bool:
        return not bool((self.kept & ~self._kept_by(other)).any())

    def _kept_by(self, other: Circuit) -> EdgeMask:
        """The edges of a circuit of the same graph; anything else is refused."""
        if not isinstance(other, Circuit):
            raise BadInput(f"expected another circuit, as graph.circuit(edges) makes one, got {told(other)}")
        if self.graph != other.graph:
            raise BadInput(f"these circuits are of different graphs: {self.graph} and {other.graph}")
        return other.kept

    @property
    def listed(self) -> list[EdgeName]:
        """The edges by name in the graph's order, reader by reader."""
        return self.graph.named(self.kept)

    @cached_property
    def edges(self) -> frozenset[EdgeName]:
        """The edges by name."""
        return frozenset(self.listed)

    @property
    def nodes(self) -> list[str]:
        """The nodes at the ends of its edges, in the graph's order."""
        readers = [self.graph.read[place] for place in self.kept.any(0).nonzero()[:, 0].tolist()]
        found = {node for reader in readers for node in self.graph.nodes[reader.nodes]}
        found.update(self.graph.writers[place] for place in self.kept.any(1).nonzero()[:, 0].tolist())
        return [node for node in self.graph.nodes if node in found]

    # ------------------------------------------------------------------------------------------- some of its edges

    def where(self, kept: EdgeMask) -> Circuit:
        """Those of its edges that a matrix [writer, reader] marks, with their scores.

        Raises:
            BadInput: a matrix of another shape.
        """
        if kept.shape != self.kept.shape:
            raise BadInput(f"kept must be [writer, reader] = {list(self.kept.shape)}, got {told_shape(kept)}")
        return replace(self, kept=self.kept & kept)

    def only(self, edges: Iterable[str | EdgeName]) -> Circuit:
        """Those of its edges that are listed, with their scores.

        Raises:
            BadInput: an edge that the graph does not have.
        """
        return self.where(self.graph.marked(edges))

    def at_node(self, node: str) -> Circuit:
        """Those of its edges that begin or end at a node.

        Raises:
            BadInput: a node that does not exist.
        """
        place = self.graph.node(node)
        begin = torch.arange(len(self.kept))[:, None] == place
        return self.where(begin | torch.tensor([r.nodes.start <= place < r.nodes.stop for r in self.graph.read]))

    def top(self, n: int, *, absolute: bool = False) -> Circuit:
        """The n edges with the highest scores, or with the largest by size; of equal ones the first in the graph.

        Raises:
            BadInput: no scores, or an n other than 0 to as many edges as there are.
        """
        if self.scores is None:
            raise BadInput("this circuit has no scores to rank its edges by; eap, eap_ig, ... give circuits that do")
        refuse_outside("n", n, 0, len(self), "the number of edges with a score")
        scores = self.scores.listed.abs() if absolute else self.scores.listed
        lowest = scores.kthvalue(len(self) + 1 - n).values if n else torch.inf
        chosen, equal = scores > lowest, scores == lowest
        chosen |= equal & (equal.cumsum(0) <= n - chosen.sum())
        return self.where(as_matrix(chosen, self.kept))

    def pruned(self) -> Circuit:
        """Without the edges that are on no path from "input" to "logits" within the circuit.

        A head or MLP that is fed by nothing goes too, although its biases may write something; and where the heads of a
        layer are normalized together, those that go may have had a share in the norm's scale.
        """
        graph, labels = self.graph, self.graph.layout.labels
        kept = self.kept.unflatten(1, (-1, len(labels)))  # writer name label
        reached, useful = torch.zeros(2, len(graph.nodes), len(labels), dtype=torch.bool)
        reached[0] = useful[-1] = True
        kept_by = [kept[: part.seen, part.start : part.start + len(part.names)] for part in graph.reader_parts]
        for part, edges in zip(graph.reader_parts, kept_by, strict=True):
            reached[part.nodes] |= part.come_out((edges & reached[: part.seen, None]).any(0))
        leads = list[Tensor]()
        for part, edges in zip(graph.reader_parts[::-1], kept_by[::-1], strict=True):
            leads.append(part.highest(useful[part.nodes]))
            useful[: part.seen] |= (edges & leads[-1]).any(1)
        on_a_path = reached[:-1, None] & torch.cat(leads[::-1])
        return self.where(on_a_path.flatten(1))

    def without_positions(self) -> Circuit:
        """The same edges in the graph that doesn't tell positions apart, each with the sum of its scores."""
        graph = ComputationGraph(replace(self.graph.layout, positions=()))
        n_labels = len(self.graph.layout.labels)
        kept = self.kept.unflatten(1, (-1, n_labels)).any(-1)
        scores = None if self.scores is None else self.scores.matrix.unflatten(1, (-1, n_labels)).sum(-1)
        return Circuit(graph=graph, kept=kept, scores=scores, record=self.record)

    # ---------------------------------------------------------------------------------------- tables, text and files

    def table(self) -> pd.DataFrame:
        """A row for each edge: writer, reader, position and score if there are any; largest by size first."""
        places = self.kept.T.nonzero().tolist()
        ends = [(self.graph.writers[writer], self.graph.read[reader]) for reader, writer in places]
        rows = [(writer, reader.name, reader.label) for writer, reader in ends]
        table = pd.DataFrame(rows, columns=["writer", "reader", "position"])
        table = table if self.graph.layout.positions else table.drop(columns="position")
        if self.scores is None:
            return table
        table = table.assign(score=self.scores.listed.numpy())
        return table.sort_values("score", key=abs, ascending=False, kind="stable").reset_index(drop=True)

    def to_json(self) -> str:
        """The graph's layout and the edges, with scores if there are any, as JSON; `save` keeps the record, too."""
        scores = None if self.scores is None else self.scores.listed.tolist()
        edges = [ARROW.join(edge) for edge in self.listed]
        return json.dumps({"graph": asdict(self.graph.layout), "edges": edges, "scores": scores})

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """The circuit that `to_json` wrote down.

        Raises:
            BadInput: something else, or an edge that does not exist.
        """
        try:
            document = json.loads(text)
            layout = document["graph"]
            stops = tuple(
                Stop(does, hook, layer, tuple(names)) for does, hook, layer, names in document["graph"].get("stops", ())
            )
            positions = tuple(layout.get("positions", ()))
            graph = ComputationGraph(Layout(**layout | {"positions": positions, "stops": stops}))
            edges, scores = document["edges"], document["scores"]
            if not isinstance(edges, list):
                raise TypeError(f"edges must be a list, got {told(edges)}")
            by_name = None if scores is None else dict(zip(edges, scores, strict=True))
            return cls(graph=graph, edges=edges, scores=by_name)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise BadInput(f"expected a circuit as to_json writes it: {error}") from error

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
            facts = {} if record is None else record.facts
            write(beside, CIRCUIT, {**facts, "circuit": json.loads(self.to_json())}, {})

    @classmethod
    def load(cls, folder: str | Path) -> Circuit:
        """The circuit in a folder, with its record.

        Raises:
            BadInput: there is none, or it is damaged.
        """
        folder = Path(folder)
        if not holds(folder, f"{CIRCUIT}.json"):
            raise BadInput(f"expected a circuit in {folder}, as circuit.save() writes it, found none")
        document, _ = read(folder, CIRCUIT)
        document = document if isinstance(document, dict) else {}
        return replace(cls.from_json(json.dumps(document.get("circuit"))), record=record_in(folder))

    def rerun(self, model: HookedTransformer, metric: MetricLike | None = None, *, any_model: bool = False) -> Circuit:
        """What the recorded call gives now: all edges that it gives, whatever has been chosen from them since.

        `metric` is another one, or the one that was a plain function. `any_model` allows another model.

        Raises:
            BadInput: another model, a circuit without record, or a metric of which only the name was kept.
        """
        if self.record is None:
            raise BadInput("this circuit has no record of how it came about, so it cannot be computed again")
        return self.record.again(model, metric, {}, any_model=any_model)
