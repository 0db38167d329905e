"""Weights read in one order and lie in another, and the products are right in both."""

import copy

import pytest
import torch

from interp_hooks.model.components.weights import (
    READER_PER_HEAD,
    TRANSPOSED,
    WRITER_PER_HEAD,
    linear,
    parameter,
    read_per_head,
    write_per_head,
)
from tests.tiny import assert_close

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(4))


def drawn(*shape: int, lies: tuple[int, ...]) -> torch.Tensor:
    weight = parameter(*shape, lies=lies)
    torch.nn.init.normal_(weight)
    return weight.detach()


@pytest.mark.parametrize(
    ("shape", "lies", "memory"),
    [((4, 12, 3), READER_PER_HEAD, (12, 12)), ((4, 3, 12), WRITER_PER_HEAD, (12, 12)), ((12, 7), TRANSPOSED, (7, 12))],
)
def test_the_memory_is_a_linear_layers(shape: tuple[int, ...], lies: tuple[int, ...], memory: tuple[int, ...]) -> None:
    weight = parameter(*shape, lies=lies)
    assert tuple(weight.shape) == shape
    as_it_lies = weight.detach().permute(lies)
    assert as_it_lies.is_contiguous()
    assert as_it_lies.reshape(memory).data_ptr() == weight.data_ptr()


def test_without_a_layout_it_lies_as_it_reads() -> None:
    assert parameter(3, 4, 5).is_contiguous()


@pytest.mark.parametrize("keep", [copy.deepcopy, lambda w: w.to(torch.float64), lambda w: w.clone()])
def test_the_layout_survives_copies(keep) -> None:
    weight = parameter(4, 12, 3, lies=READER_PER_HEAD)
    assert keep(weight).stride() == weight.stride()


def test_products() -> None:
    W_in, W_Q = drawn(12, 7, lies=TRANSPOSED), drawn(4, 12, 3, lies=READER_PER_HEAD)
    W_O = drawn(4, 3, 12, lies=WRITER_PER_HEAD)
    b_in, b_Q, b_O = torch.randn(7), torch.randn(4, 3), torch.randn(12)
    assert_close(linear(X, W_in, b_in), X @ W_in + b_in, 1e-6)  # float32
    q = torch.stack([X @ W_Q[head] + b_Q[head] for head in range(4)], dim=2)
    assert_close(read_per_head(X, W_Q, b_Q), q, 1e-6)
    assert_close(read_per_head(X[:, :, None].expand(-1, -1, 4, -1), W_Q, b_Q), q, 1e-6)
    written = sum(q[:, :, head] @ W_O[head] for head in range(4)) + b_O
    assert_close(write_per_head(q, W_O, b_O), written, 1e-5)  # a sum of four of these


def test_a_product_does_not_depend_on_the_layout() -> None:
    """A checkpoint loaded in another layout gives the same numbers, only slower."""
    weight, bias = drawn(4, 12, 3, lies=READER_PER_HEAD), torch.randn(4, 3)
    assert_close(read_per_head(X, weight.contiguous(), bias), read_per_head(X, weight, bias), 1e-6)
