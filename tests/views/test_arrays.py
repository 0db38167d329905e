"""Tensors as arrays, and corners."""

import numpy as np
import pytest
import torch

from interp_hooks.views.arrays import get_corner, to_numpy


def test_tensors_leave_their_graph_and_keep_their_dtype() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.5, 2.5]], dtype=torch.float64))
    found = to_numpy(weight * 2)
    assert found.tolist() == [[3.0, 5.0]]
    assert found.dtype == np.float64
    assert to_numpy(torch.tensor([1, 2])).dtype == np.int64


def test_what_numpy_lacks_becomes_float32() -> None:
    found = to_numpy(torch.tensor([0.5, 3.0], dtype=torch.bfloat16))
    assert found.dtype == np.float32
    assert found.tolist() == [0.5, 3.0]


def test_lists_numbers_and_arrays() -> None:
    needs_grad = torch.ones((), requires_grad=True)
    assert to_numpy([needs_grad, 2, (3.0)]).tolist() == [1.0, 2.0, 3.0]
    assert to_numpy([torch.ones(2), torch.zeros(2)]).shape == (2, 2)
    assert to_numpy(True).item() is True
    array = np.arange(3)
    assert to_numpy(array) is array
    with pytest.raises(TypeError, match="got dict"):
        to_numpy({})


def test_corner() -> None:
    tensor = torch.arange(24).reshape(2, 3, 4)
    assert get_corner(tensor).tolist() == tensor[:2, :3, :3].tolist()
    assert get_corner(tensor, 1).tolist() == [[[0]]]
    assert get_corner(np.eye(5), 2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
