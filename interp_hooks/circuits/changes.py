"""What writers write elsewhere minus what they write in a pass, for each writer of a graph.

    vectors    [... pos writer d_model]    of the embeddings, heads and MLPs
    features   amounts [... pos feature] of a dictionary's features, times the rows that these write [feature, d_model]

As vectors, what 16,384 features write would take 38 MB for each token of a model of width 576. Their amounts take
64 KB, few of them are other than 0 at any token, and products are made of `BLOCK` features at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.layout import Part

BLOCK = 1024  # features that are multiplied at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureChanges:
    """By how much features of a dictionary change; `writers` are their places among the graph's writers."""

    writers: Int[Tensor, " feature"]
    amounts: Float[Tensor, "*batch pos feature"]
    rows: Float[Tensor, "feature d_model"]

    def at(self, which: slice | Tensor) -> FeatureChanges:
        """Those of some of the features."""
        return FeatureChanges(writers=self.writers[which], amounts=self.amounts[..., which], rows=self.rows[which])

    def moved(self) -> FeatureChanges:
        """Those of the features that change at any token."""
        return self.at(self.amounts.flatten(0, -2).any(0).nonzero()[:, 0])

    def blocks(self) -> Iterator[FeatureChanges]:
        """The same, some features at a time."""
        return (self.at(slice(first, first + BLOCK)) for first in range(0, len(self.writers), BLOCK))


class Changes:
    """The changes of the writers that a pass has come by so far: `vectors` are those of the writers in `writers`.

    There is `room` for so many vectors, unless they are to be `differentiable`.
    """

    def __init__(self, room: int, *, differentiable: bool = False) -> None:
        self.room, self.differentiable = room, differentiable
        self.writers: list[int] = []
        self.vectors: Float[Tensor, "*batch pos writer d_model"] | None = None
        self.features: dict[str, FeatureChanges] = {}

    def add(self, part: Part, change: Float[Tensor, "*batch pos writer d_model"]) -> None:
        """Append those of some writers; in place unless they are to be differentiated."""
        before = len(self.writers)
        self.writers.extend(part.rows)
        if self.differentiable:
            self.vectors = change if self.vectors is None else torch.cat((self.vectors.to(change), change), dim=-2)
            return
        if self.vectors is None:
            self.vectors = change.new_empty(*change.shape[:-2], self.room, change.shape[-1])
        self.vectors[..., before : len(self.writers), :] = change

    def add_features(self, part: Part, changes: FeatureChanges) -> None:
        """Append those of a dictionary's features; of these only that change, unless they are to be differentiated."""
        self.features[part.hook] = changes if self.differentiable else changes.moved()

    def add_copies(self, part: Part, of: Changes, copies: int) -> None:
        """Append what `of` has of some writers, for so many copies of the prompts."""
        if part.hook in of.features:
            found = of.features[part.hook]
            self.features[part.hook] = replace(found, amounts=found.amounts.expand(copies, *found.amounts.shape))
            return
        first = of.writers.index(part.start)
        vectors = of.all_vectors[..., first : first + len(part.names), :]
        self.add(part, vectors.expand(copies, *vectors.shape))

    @property
    def all_vectors(self) -> Float[Tensor, "*batch pos writer d_model"]:
        """The vectors that are there so far."""
        assert self.vectors is not None
        return self.vectors[..., : len(self.writers), :]

    def along(
        self, direction: Float[Tensor, "*batch pos reader d_model"], seen: int
    ) -> Iterator[tuple[Sequence[int] | Tensor, Float[Tensor, "*batch pos writer reader"]]]:
        """Their products with directions, for the first `seen` writers of the graph: of some after the other."""
        whole = sum(writer < seen for writer in self.writers)
        yield self.writers[:whole], self.all_vectors[..., :whole, :] @ direction.mT
        for changes in self.features.values():
            for block in changes.blocks() if len(changes.writers) and int(changes.writers[0]) < seen else ():
                products = (direction @ block.rows.to(direction).T).mT
                yield block.writers, products * block.amounts[..., None].to(direction)

    def weighted(
        self, weights: Callable[[Sequence[int] | Tensor], Float[Tensor, "*#batch #pos reader writer"]], like: Tensor
    ) -> Float[Tensor, "*batch pos reader d_model"]:
        """The sums of all of them, each times a reader's weight."""
        total = torch.zeros((), dtype=like.dtype, device=like.device)
        if self.writers:
            total = weights(self.writers) @ self.all_vectors.to(like)
        for changes in self.features.values():
            for block in changes.blocks():
                total = total + (weights(block.writers) * block.amounts[..., None, :].to(like)) @ block.rows.to(like)
        return total
