"""Parts of an activation: the component along some directions, and the rest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told

DEPENDENT = 1e-6  # the sine of the angle to the span of the others below which a direction counts as within it


def orthonormal(directions: Float[Tensor, "*n width"]) -> Float[Tensor, "n width"]:
    """An orthonormal basis, in float64, of what the directions span: those of [n, width], or a single one [width].

    Raises:
        BadInput: no direction, one that is zero or not finite, or directions that depend on each other.
    """
    if not isinstance(directions, Tensor) or directions.ndim not in (1, 2) or directions.is_meta:
        raise BadInput(f"directions must be a tensor [n, width] or [width], got {told(directions)}")
    rows = directions.detach().double().reshape(-1, directions.shape[-1])
    if not len(rows) or len(rows) > rows.shape[1] or not bool(rows.isfinite().all()):
        raise BadInput(f"expected 1 to {rows.shape[1]} finite directions [n, width], got {list(directions.shape)}")
    across, triangle = torch.linalg.qr((rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)).T)
    dependent = (triangle.diagonal().abs() < DEPENDENT).nonzero()
    if len(dependent):
        raise BadInput(f"direction {int(dependent[0])} is zero, or a combination of the ones before it")
    return across.T


def swapped(value: Tensor, other: Tensor, basis: Float[Tensor, "n width"]) -> Tensor:
    """`value` with the component of `other` along an orthonormal basis in place of its own."""
    return value + (other - value) @ basis.T @ basis
