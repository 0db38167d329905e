"""Tensors as plots and prints need them: as numpy arrays, and cut to their first entries."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp_hooks.errors import WrongType
from interp_hooks.errors.arguments import told

Sliced = TypeVar("Sliced")


def to_numpy(values: Any) -> np.ndarray:
    """Turn a tensor, a number, an array, or a nested list of these into a numpy array.

    Tensors are detached and copied to the CPU; bfloat16, which numpy lacks, becomes float32.

    Raises:
        WrongType: it is something else.
    """
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, list | tuple):
        return np.array([to_numpy(one) for one in values])
    if isinstance(values, bool | int | float | complex | str | np.generic):
        return np.array(values)
    raise WrongType(f"invalid type: expected a tensor, an array, a number or a list of these, got {told(values)}")


def get_corner(tensor: Sliced, n: int = 3) -> Sliced:
    """Cut a tensor, an array or a factored matrix to the first `n` entries along every axis."""
    sliced: Any = tensor
    return sliced[(slice(n),) * sliced.ndim]
