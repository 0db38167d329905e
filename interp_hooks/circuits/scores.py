"""The scores of a circuit's edges: a matrix that can be read as a mapping from edges to numbers."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.circuits.graph import EdgeName, Graph, by_edge
from interp_hooks.circuits.layout import ARROW
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import fits, told, told_shape


class Scores(Mapping[EdgeName, float]):
    """The scores of a circuit's edges, by edge. Names of edges are made only when somebody asks for them.

    `matrix` has all scores at once. Circuits that are chosen from one share its numbers, which are not copied.
    """

    def __init__(
        self, graph: Graph, kept: Bool[Tensor, "writer reader"], numbers: Float[Tensor, "writer reader"]
    ) -> None:
        self.graph, self.kept, self._numbers = graph, kept, numbers

    @classmethod
    def of(
        cls, graph: Graph, kept: Bool[Tensor, "writer reader"], given: Scores | Mapping[Any, Any] | Tensor
    ) -> Scores:
        """The scores of these edges, from a matrix, from a mapping, or from the scores of these and other edges.

        Raises:
            BadInput: scores of other edges than these, a matrix of another shape, or what is not a number.
        """
        if isinstance(given, Scores) and given.graph == graph and not bool((kept & ~given.kept).any()):
            return cls(graph, kept, given._numbers)
        if isinstance(given, Tensor):
            numbers = _from_matrix(given, kept)
        elif isinstance(given, Mapping):
            numbers = _from_mapping(given, graph, kept)
        else:
            raise BadInput(f"scores must be a mapping from edges to numbers or a matrix, got {told(given)}")
        if unknown := graph.named(numbers.isnan() & kept):
            raise BadInput(f"the score of {ARROW.join(unknown[0])} is nan")
        return cls(graph, kept, numbers)

    @property
    def matrix(self) -> Float[Tensor, "writer reader"]:
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

    def items(self) -> ItemsView[EdgeName, float]:
        """All edges with their scores, reader by reader."""
        return dict(zip(self, self.listed.tolist(), strict=True)).items()

    def values(self) -> ValuesView[float]:
        """All scores, reader by reader."""
        return dict(enumerate(self.listed.tolist())).values()

    def __repr__(self) -> str:
        return repr(dict(self.items()))


def _from_matrix(given: Tensor, kept: Bool[Tensor, "writer reader"]) -> Float[Tensor, "writer reader"]:
    if given.shape != kept.shape:
        raise BadInput(f"expected scores [writer, reader] = {list(kept.shape)}, got {told_shape(given)}")
    by_reader = given.detach().T.to("cpu", torch.float64, copy=True, memory_format=torch.contiguous_format)
    return by_reader.T  # as kept is


def _from_mapping(
    given: Mapping[Any, Any], graph: Graph, kept: Bool[Tensor, "writer reader"]
) -> Float[Tensor, "writer reader"]:
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
