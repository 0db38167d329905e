"""Orders of numbers: ranks, and how well an order tells right from wrong."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def ranks(values: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """0 for the smallest; equal values get the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count.double() + 1) / 2)[place]


def area_under_roc(scores: Float[Tensor, " cell"], right: Bool[Tensor, " cell"]) -> float:
    """How often a right cell has a higher score than a wrong one, equal scores counting half; nan without either."""
    n = int(right.sum())
    others = len(right) - n
    if not n or not others:
        return torch.nan
    return float((ranks(scores)[right].sum() - n * (n - 1) / 2) / (n * others))
