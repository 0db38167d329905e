"""Processes that train dictionaries together: each has a part of every batch, and all take the same steps.

What a step needs of the whole batch is asked for here: means of gradients, and of the few numbers that are no sums over
tokens. So a step is that of one process with all parts of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed

from interp_hooks.dictionaries.active import Active

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process, the `rank`-th of `count`, and what it asks of all; one alone asks nobody."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of the process group that there is."""
        return cls(distributed.get_rank(), distributed.get_world_size())

    def _reduced(self, value: Tensor, how: Any) -> Tensor:
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value, how)
        return value

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks."""
        return self.sum(value) / self.count

    def mean_of_tokens(self, values: Float[Tensor, "token *d"]) -> Float[Tensor, "*d"]:
        """The mean over all ranks' tokens, of which each may have another number."""
        return self.sum(values.sum(0)) / self.sum(values.new_tensor(len(values)))

    def any(self, value: Bool[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Where it is true on a rank."""
        return self._reduced(value.int(), distributed.ReduceOp.MAX).bool()

    def smallest(self, value: Tensor) -> Tensor:
        """The smallest of all ranks."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every parameter the mean of all ranks' gradients."""
        for one in parameters if self.count > 1 else ():
            one.grad = self.mean(torch.zeros_like(one) if one.grad is None else one.grad)

    def largest(self, pre: Float[Tensor, "token feature"], active: Active, n: int) -> Active:
        """Of each rank's `active` features those that are among the `n` * count largest of all ranks."""
        if self.count == 1:
            return active
        values = pre[active.token, active.feature]
        wanted = n * self.count
        here = values.new_zeros(wanted)
        here[: len(values)] = values
        every = [torch.empty_like(here) for _ in range(self.count)]
        distributed.all_gather(every, here)
        least = torch.cat(every).topk(wanted, sorted=True).values[-1]
        return active.chosen(values >= least)

    def gathered(self, value: T) -> list[T]:
        """What every rank has, in order, on the first rank; nothing elsewhere."""
        if self.count == 1:
            return [value]
        found: list[Any] | None = [None] * self.count if self.rank == 0 else None
        distributed.gather_object(value, found)
        return found or []

    def barrier(self) -> None:
        """Wait for all."""
        if self.count > 1:
            distributed.barrier()
