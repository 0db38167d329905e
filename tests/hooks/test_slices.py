"""Every way to say which entries of an axis, on every axis, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.hooks.slices import Slice
from tests.tiny import unchecked_types

ANY: Any = Slice  # for what a type checker refuses
CHOICES: dict[str, tuple[Any, str, Any, list[int]]] = {
    "int": (2, "int", 2, [2]),
    "from the end": (-1, "int", -1, [-1]),
    "numpy int": (np.int64(4), "int", 4, [4]),
    "tensor of one number": (torch.tensor(4), "int", 4, [4]),
    "stop": ((3,), "slice", slice(3), [0, 1, 2]),
    "start and stop": ((1, 4), "slice", slice(1, 4), [1, 2, 3]),
    "with a step": ((0, 6, 2), "slice", slice(0, 6, 2), [0, 2, 4]),
    "open ends": ((None, -4), "slice", slice(None, -4), [0, 1]),
    "backwards": ((None, None, -2), "slice", None, [5, 3, 1]),
    "slice": (slice(4, None), "slice", slice(4, None), [4, 5]),
    "beyond the end, as Python": ((4, 99), "slice", slice(4, 99), [4, 5]),
    "list": ([4, 1, 1], "array", [4, 1, 1], [4, 1, 1]),
    "list from the end": ([-1, -6], "array", [-1, -6], [5, 0]),
    "empty list": ([], "array", slice(0, 0), []),
    "array": (np.array([0, 5]), "array", [0, 5], [0, 5]),
    "tensor": (torch.tensor([0, 5]), "array", [0, 5], [0, 5]),
    "range": (range(1, 3), "array", [1, 2], [1, 2]),
    "mask": (torch.tensor([True, False, True, False, False, False]), "array", [0, 2], [0, 2]),
    "list mask": ([False] * 5 + [True], "array", [5], [5]),
    "nothing": (None, "identity", slice(None), [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("label", CHOICES)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_a_choice_on_every_axis(label: str, dim: int) -> None:
    chosen, mode, index, listed = CHOICES[label]
    tensor = torch.arange(216.0).view(6, 6, 6)
    expected = tensor.movedim(dim, 0)
    expected = expected.flip(0)[::2] if index is None else expected[index]
    if mode != "int":
        expected = expected.movedim(0, dim)
    with unchecked_types():  # numpy's integers are no int to a type checker
        one = Slice(chosen)
    assert one.mode == mode
    assert torch.equal(one.apply(tensor, dim), expected)
    assert one.indices(6).tolist() == listed
    assert torch.equal(Slice(one).apply(tensor, dim), expected), "a Slice is itself a choice"
    kept = Slice.unwrap(one)
    assert torch.equal(kept.apply(tensor, dim), expected.unsqueeze(dim) if mode == "int" else expected)


def test_the_first_axis_is_the_default() -> None:
    assert Slice(1).apply(torch.arange(4)) == 1
    assert Slice(1).indices().tolist() == [1]


def test_a_range_is_a_view() -> None:
    tensor = torch.zeros(5)
    Slice((1, 3)).apply(tensor).fill_(1)
    assert tensor.tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        (lambda: Slice(6).apply(torch.zeros(6)), "6 is out of range for an axis of 6"),
        (lambda: Slice(-7).indices(6), "-7 is out of range for an axis of 6"),
        (lambda: Slice([0, 6]).apply(torch.zeros(6)), "6 is out of range for an axis of 6"),
        (lambda: Slice([True, False]).apply(torch.zeros(6)), "a mask of 2 entries does not fit an axis of 6"),
        (lambda: Slice((1, 2)).indices(), "max_ctx.* is needed"),
        (lambda: Slice((0, 6, 0)), "step cannot be zero"),
        (lambda: Slice(()), "a range is"),
        (lambda: Slice((0, 1, 2, 3)), "a range is"),
        (lambda: ANY((0.5, 2)), "a range is"),
        (lambda: ANY([0.5]), "expected an index"),
        (lambda: ANY([[0, 1]]), "expected an index"),
        (lambda: ANY(1.0), "expected an index"),
        (lambda: Slice(True), "expected an index"),
        (lambda: Slice(torch.tensor(True)), "expected an index"),
        (lambda: ANY("all"), "expected an index"),
    ],
)
def test_what_names_no_entries(request_of: Callable[[], Any], said: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=said):
        request_of()
