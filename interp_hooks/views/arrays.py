"""Tensors on their way to a plot or a print: as numpy arrays, and their first entries."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Sliced = TypeVar("Sliced")


def to_numpy(values: Any) -> np.ndarray:
    """A tensor, number, array, or nested list of these as an array that needs no gradient and lies on the CPU.

    bfloat16, which numpy lacks, becomes float32.

    Raises:
        TypeError: anything else.
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
    raise TypeError(f"expected a tensor, an array, a number or a list of these, got {type(values).__name__}")


def get_corner(tensor: Sliced, n: int = 3) -> Sliced:
    """The first `n` entries along every axis of a tensor, an array or a factored matrix."""
    sliced: Any = tensor
    return sliced[(slice(n),) * sliced.ndim]
