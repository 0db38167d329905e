"""Moments of units together with labels of the tokens: what linear probes and erasers are made of.

Documents are dealt to parts, by a hash of their number, so that what is learned on some can be tested on others: the
tokens of a document are all in one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.corpus.labels import Labels
from interp_hooks.corpus.reducers.base import Reducer, State, added, exact, number
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told


@dataclass(frozen=True)
class LabelledMoments(Reducer):
    """Counts and sums of units for each class, and sums of their products, over labelled tokens.

    The result has `count` [part, class], `sums` [part, class, unit] and `products` [part, unit, unit], in float64;
    `studies.JointMoments.of_scan` makes moments of it. A part takes 16 bytes for every pair of units.

    Raises:
        BadInput: fewer than one part.
    """

    units: Units
    labels: Labels
    parts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.labels, Labels) or not isinstance(self.parts, int) or self.parts < 1:
            raise BadInput(f"expected Labels and at least 1 part, got {told(self.labels)} and {told(self.parts)}")

    def reduce(self, seen: Seen) -> State:
        classes, parts = self.labels.classes_of(seen), part_of(seen.documents, self.parts, self.seed)
        counted = classes >= 0
        values, classes, parts = seen.values[counted].double(), classes[counted], parts[counted]
        n_classes, width = len(self.labels.classes), values.shape[1]
        sums = values.new_zeros(self.parts * n_classes, width).index_add_(0, parts * n_classes + classes, values)
        of_parts = [values[parts == part] for part in range(self.parts)]
        count = (parts * n_classes + classes).bincount(minlength=self.parts * n_classes)
        return {
            "count": count.reshape(self.parts, n_classes).cpu(),
            "sums": exact(sums.reshape(self.parts, n_classes, width).cpu()),
            "products": exact(torch.stack([some.T @ some for some in of_parts]).cpu()),
        }

    def merge(self, one: State, other: State) -> State:
        return {
            "count": one["count"] + other["count"],
            "sums": added(one["sums"], other["sums"]),
            "products": added(one["products"], other["products"]),
        }

    def result(self, state: State) -> dict[str, Tensor]:
        return {"count": state["count"], "sums": number(state["sums"]), "products": number(state["products"])}


@dataclass(frozen=True, eq=False)
class LinearHits(Reducer):
    """How often linear probes of each layer, (weights [class, unit], bias [class]), give each class for each class.

    The result is `confusion` [part, class, said], with documents dealt to parts as by `LabelledMoments`. The weights
    are tensors, so that a scan with it cannot be kept in a folder.
    """

    units: Units
    labels: Labels
    weights: Mapping[int, tuple[Tensor, Tensor]]
    parts: int = 1
    seed: int = 0

    def reduce(self, seen: Seen) -> State:
        classes, parts = self.labels.classes_of(seen), part_of(seen.documents, self.parts, self.seed)
        counted, n = classes >= 0, len(self.labels.classes)
        assert seen.layer is not None
        weights, bias = (one.to(seen.values.device) for one in self.weights[seen.layer])
        said = (seen.values[counted].double() @ weights.T + bias).argmax(-1)
        cells = (parts[counted] * n + classes[counted]) * n + said
        return {"confusion": cells.bincount(minlength=self.parts * n * n).reshape(self.parts, n, n).cpu()}

    def merge(self, one: State, other: State) -> State:
        return {"confusion": one["confusion"] + other["confusion"]}


def part_of(documents: Int[Tensor, " token"], parts: int, seed: int = 0) -> Int[Tensor, " token"]:
    """The part, from 0 on, that each document is dealt to: a hash, so that no order of documents shows in it."""
    mixed = (documents + 1 + 7919 * seed) * 2654435761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
    return ((mixed ^ (mixed >> 13)) % 2**31) % parts
