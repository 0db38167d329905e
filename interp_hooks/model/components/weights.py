"""Parameters that read in one order and lie in memory in another.

    W_Q [head, d_model, d_head]   lies as  [head * d_head, d_model]     what nn.Linear would call its weight
    W_O [head, d_head, d_model]   lies as  [d_model, head * d_head]
    W_in [d_model, d_mlp]         lies as  [d_mlp, d_model]

`linear` and `per_head` undo the reading order by views alone, so the product runs on the memory as it lies.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def parameter(*shape: int, lies: tuple[int, ...] | None = None) -> nn.Parameter:
    """An uninitialised parameter of `shape` whose axes lie in memory in the order `lies` (default: as they read)."""
    lies = lies or tuple(range(len(shape)))
    reads = sorted(range(len(shape)), key=lambda axis: lies[axis])
    return nn.Parameter(torch.empty([shape[axis] for axis in lies]).permute(reads))


class TensorParallel(Protocol):
    """The processes over which the heads, neurons or experts of a part of the model are spread, as that part asks them.

    Each has some of them, and all of the stream. See `interp_hooks.model.ranks`.
    """

    def own(self, weight: Tensor) -> Tensor:
        """This process's part of a weight."""
        ...

    def read(self, value: Tensor) -> Tensor:
        """A value that all have, to be read by each one's weights: its gradient is the sum of theirs."""
        ...

    def part(self, value: Tensor, axis: int) -> Tensor:
        """This process's part, along an axis, of a value that all have."""
        ...

    def whole(self, value: Tensor, axis: int) -> Tensor:
        """The parts of all processes, one after the other along an axis."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """The sum of what each process has."""
        ...

    def gathered(self, weight: Tensor) -> Tensor:
        """The whole of a weight, on every process."""
        ...

    def agreed(self, value: Tensor) -> Tensor:
        """What the first process has, on all."""
        ...

    def least(self, number: int) -> int:
        """The smallest of the numbers that processes have."""
        ...


class Spreadable(nn.Module):
    """A part of the model whose weights can be spread over processes, its `ranks`. Abstract."""

    ranks: TensorParallel | None = None

    def _own(self, weight: Tensor) -> Tensor:
        """The part of a weight that this process computes with."""
        return weight if self.ranks is None else self.ranks.own(weight)

    def _write(self, product: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """What all heads, neurons or experts together write: `product(x, weight, bias)`."""
        if self.ranks is None:
            return product(x, weight, bias)
        return self.ranks.total(product(x, self.ranks.own(weight), None)) + bias


READER_PER_HEAD = (0, 2, 1)  # [head, d_model, d_head] as rows of an nn.Linear
WRITER_PER_HEAD = (2, 0, 1)  # [head, d_head, d_model] as columns of an nn.Linear
TRANSPOSED = (1, 0)
TRANSPOSED_PER_EXPERT = (0, 2, 1)  # [expert, inner, outer], each expert's as an nn.Linear


def lies_like(value: Tensor, target: Tensor, per_expert: bool = False) -> bool:
    """Whether `value` lies in memory as `target` does, so that products run on it alike; experts may lie apart."""
    return value.stride()[per_expert:] == target.stride()[per_expert:]


BLOCKS, BLOCKS_FROM = 16, 2**16  # into how many parts rows are split for a single row, and from how many weights on


def product(x: Float[Tensor, "... inner"], rows: Float[Tensor, "outer inner"], bias: Tensor | None) -> Tensor:
    """`F.linear`, but a single row on a CPU is multiplied by blocks of `rows`, which is twice as fast.

    One matrix-vector product does not use the full speed of the memory. A batch of products does, if the column is
    passed with strides (1, `inner`).
    """
    single = x.numel() == rows.shape[1] and rows.numel() >= BLOCKS_FROM
    served = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if not (single and served) or torch.compiler.is_compiling():
        return F.linear(x, rows, bias)
    whole = len(rows) // BLOCKS * BLOCKS
    column = x.reshape(1, -1).T
    found = torch.bmm(rows[:whole].unflatten(0, (BLOCKS, -1)), column.expand(BLOCKS, -1, -1)).flatten()
    if whole < len(rows):
        found = torch.cat((found, (rows[whole:] @ column)[:, 0]))
    return (found if bias is None else found + bias).reshape(*x.shape[:-1], -1)


def linear(x: Tensor, weight: Float[Tensor, "inner outer"], bias: Tensor | None) -> Tensor:
    """`x` times a weight that multiplies from the right, plus the bias."""
    return product(x, weight.T, bias)


def read_per_head(
    x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"] | None
) -> Float[Tensor, "batch pos head d_head"]:
    """Project [batch pos d_model], or a stream of its own per head [batch pos head d_model], onto every head."""
    if x.ndim == 4:
        projected = torch.einsum("bphd,hdk->bphk", x, weight)
        return projected if bias is None else projected + bias
    flat = product(x, weight.transpose(1, 2).flatten(0, 1), None if bias is None else bias.flatten())
    return flat.unflatten(-1, (weight.shape[0], weight.shape[2]))


def write_per_head(
    z: Float[Tensor, "batch pos head d_head"],
    weight: Float[Tensor, "head d_head d_model"],
    bias: Float[Tensor, " d_model"] | None,
) -> Float[Tensor, "batch pos d_model"]:
    """What all heads together write, from what each of them mixed."""
    return product(z.flatten(2), weight.permute(2, 0, 1).flatten(1), bias)
