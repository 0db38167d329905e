"""Means and standard deviations of activations over a reference set, read in batches and summed in float64.

Every prompt of the reference belongs to a group, and every hook keeps one sum for each: [group, 1 or pos, ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import POSITIONS, HookPoint
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Excluded, Run, counted_positions
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The mean and variance of a hook's activation for each group, 0 where `count`, of the same rank, is 0."""

    count: Float[Tensor, "group ..."]
    mean: Float[Tensor, "group ..."]
    variance: Float[Tensor, "group ..."]

    @property
    def std(self) -> Float[Tensor, "group ..."]:
        return self.variance.sqrt()

    def of(self, groups: Int[Tensor, " batch"]) -> Moments:
        """Those of one group for each prompt."""
        groups = groups.to(self.mean.device)
        return Moments(count=self.count[groups], mean=self.mean[groups], variance=self.variance[groups])


def position_dim(point: HookPoint) -> int:
    """The dim along which a hook's activation has positions (queries, for patterns)."""
    return next(dim for dim, axis in enumerate(point.axes) if axis in POSITIONS)


def is_pooled(point: HookPoint, per_position: bool) -> bool:
    """Whether means are taken over the hook's positions: never over queries, whose patterns differ in what they see."""
    return point.axes[position_dim(point)] == "pos" and not per_position


@no_gradients
def moments(
    model: HookedTransformer,
    reference: Run,
    points: Sequence[HookPoint],
    *,
    groups: Int[Tensor, " prompt"] | None = None,
    per_position: bool = False,
    exclude: Sequence[Excluded] = get_args(Excluded),
    batch_size: int = 32,
) -> dict[str, Moments]:
    """By hook, the moments over the reference's prompts and, where they are pooled, its positions.

    Raises:
        BadInput: a batch size below 1, or an unknown token kind to exclude.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size must be at least 1, got {batch_size}")
    if unknown := set(exclude) - set(get_args(Excluded)):
        raise BadInput(f"exclude may name {', '.join(get_args(Excluded))}; got {', '.join(map(repr, unknown))}")
    groups = torch.zeros(len(reference.tokens), dtype=torch.long) if groups is None else groups
    kept_apart = counted_positions(
        model, reference, set(exclude) - {"bos"}
    )  # BOS mixes with nothing at a position of its own
    pooled_over = counted_positions(model, reference, set(exclude))
    sums: dict[str, list[Tensor]] = {}
    for start in range(0, len(reference.tokens), batch_size):
        rows = slice(start, start + batch_size)
        mask = None if reference.attention_mask is None else reference.attention_mask[rows]
        stored = record(model, Run(reference.tokens[rows], (), mask), [point.name for point in points])
        for point in points:
            pooled = is_pooled(point, per_position)
            weight = (pooled_over if pooled else kept_apart)[rows]
            batch = _batch_sums(stored[point.name], weight, position_dim(point), pooled)
            if point.name not in sums:
                sums[point.name] = [one.new_zeros(int(groups.max()) + 1, *one.shape[1:]) for one in batch]
            for total, one in zip(sums[point.name], batch, strict=True):
                total.index_add_(0, groups[rows].to(one.device), one)
    return {name: _moments_of(*totals) for name, totals in sums.items()}


def stretched(value: Float[Tensor, "rows ..."], point: HookPoint, run: Run, pooled: bool) -> Float[Tensor, "batch ..."]:
    """What was found over a reference, [1 or batch, 1 or pos, ...], at every position of every prompt of a run.

    Raises:
        BadInput: found position by position over prompts of another length.
    """
    along, (batch, length) = position_dim(point), run.tokens.shape
    if not pooled and value.shape[along] != length:
        raise BadInput(
            f"{point.name} is taken position by position, so the reference needs prompts of {length} tokens; they have "
            f"{point.describe(value.shape)}"
        )
    return value.expand(batch, *value.shape[1:along], length, *value.shape[along + 1 :])


def _batch_sums(
    value: Tensor, weight: Bool[Tensor, "batch pos"], along: int, pooled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every prompt how many positions count, and the sums of value and square there, or both at every position."""
    shape = [1] * value.ndim
    shape[0], shape[along] = weight.shape
    counted = weight.to(value.device).reshape(shape)
    counts, values = counted.double(), torch.where(counted, value, torch.zeros_like(value)).double()
    sums = (counts, values, values.square())
    return (
        tuple(one.sum(along, keepdim=True) for one in sums) if pooled else sums  # pyright: ignore[reportReturnType]
    )


def _moments_of(count: Tensor, total: Tensor, squares: Tensor) -> Moments:
    n = count.clamp(min=1)
    mean = total / n
    return Moments(count=count, mean=mean, variance=(squares / n - mean.square()).clamp(min=0))
