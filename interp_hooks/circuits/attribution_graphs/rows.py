"""The rows of an attribution graph while it is traced: of every target, what its sources contribute.

Most entries are 0 (a source after the target, in layer or position, contributes nothing), and only the others are held.
Where even they are too many, the largest of each row are, and of the rest its sum and its size: then shares are still
those of whole rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Row(NamedTuple):
    """What the sources of a target contribute: those that are held, the sum of the others, and the size of all."""

    source: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    rest: float
    size: float


class Rows:
    """Rows by target; of each the `most` largest entries are held, or all (None)."""

    def __init__(self, most: int | None) -> None:
        self.most, self.rows = most, dict[int, Row]()

    @staticmethod
    def most_in(memory: int, n_rows: int, dtype: torch.dtype) -> int:
        """How many entries a row may have so that all fit into so many bytes, those of the graph's edges included."""
        return max(1, memory // (n_rows * (2 * dtype.itemsize + torch.int32.itemsize + 2 * torch.int64.itemsize)))

    @property
    def bytes(self) -> int:
        """What the entries take."""
        return sum(row.source.nbytes + row.weight.nbytes for row in self.rows.values())

    def add(self, targets: Iterable[int], values: Float[Tensor, "target source"]) -> None:
        """Take in the rows of some targets."""
        for target, row in zip(targets, values.cpu(), strict=True):
            source, rest = row.nonzero()[:, 0], 0.0
            if self.most is not None and len(source) > self.most:
                source = row.abs().topk(self.most, sorted=False).indices.sort().values
                rest = float(row.index_fill(0, source, 0.0).sum())
            self.rows[target] = Row(source.int(), row[source], rest, float(row.abs().sum()))

    def influence(self, order: Sequence[int], outputs: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
        """What flows back to every node from the outputs, by all paths of the rows so far; each is passed once.

        Targets are in an order in which none feeds one before it.
        """
        found = torch.zeros_like(outputs)
        for target in order:
            row = self.rows[target]
            if (flow := float(found[target] + outputs[target])) and row.size:
                found.index_add_(0, row.source, row.weight.abs().to(found) * (flow / row.size))
        return found

    def edges(self, kept: Bool[Tensor, " source"]) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, " target"]]:
        """Edges out of the sources that are kept (sources, targets, weights), and by target the sum of all others.

        Targets are in ascending order.
        """
        listed = [(target, self.rows[target]) for target in sorted(self.rows)]
        which = [kept[row.source] for _, row in listed]
        counts = torch.tensor([int(one.sum()) for one in which])
        source = torch.empty(int(counts.sum()), dtype=torch.long)
        weight = listed[0][1].weight.new_empty(len(source))
        parts = zip(source.split(counts.tolist()), weight.split(counts.tolist()), strict=True)
        others = []
        for (_, row), one, (sources, weights) in zip(listed, which, parts, strict=True):
            sources.copy_(row.source[one])
            weights.copy_(row.weight[one])
            others.append(row.rest + float(row.weight[~one].sum()))
        target = torch.tensor([target for target, _ in listed]).repeat_interleave(counts)
        return source, target, weight, torch.tensor(others, dtype=torch.float64)
