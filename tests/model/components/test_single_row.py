"""Products of single rows, which take a way of their own on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from interp_hooks.model.components import weights
from interp_hooks.model.components.weights import BLOCKS, BLOCKS_FROM, product
from tests.tiny import assert_close

INNER = 200
SIZES = [512, 515, BLOCKS_FROM // INNER + 1]  # whole blocks, rows left over, just large enough


@pytest.mark.parametrize("transposed", [False, True], ids=["as they lie", "transposed"])
@pytest.mark.parametrize("outer", SIZES)
@pytest.mark.parametrize("shape", [(INNER,), (1, INNER), (1, 1, INNER)])
def test_a_single_row(shape: tuple[int, ...], outer: int, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `F.linear`, with and without a bias, and so are the gradients."""
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    memory = torch.randn((INNER, outer) if transposed else (outer, INNER), dtype=torch.float64)
    rows = (memory.T if transposed else memory).requires_grad_()
    bias = torch.randn(outer, dtype=torch.float64)
    for added in (None, bias):
        expected = F.linear(x, rows, added)
        by_hand = torch.autograd.grad(expected.square().sum(), (x, rows))
        with monkeypatch.context() as patched:
            patched.setattr(weights.F, "linear", lambda *given: pytest.fail("a single row goes by blocks"))
            ours = product(x, rows, added)
            assert ours.shape == expected.shape
            gradients = torch.autograd.grad(ours.square().sum(), (x, rows))
        assert_close(ours, expected, 1e-12)
        for one, other in zip(gradients, by_hand, strict=True):
            assert_close(one, other, 1e-12)


def test_rows_are_not_copied() -> None:
    """Blocks of them are views: what is allocated is the result."""
    x, rows = torch.randn(1, 1024), torch.randn(BLOCKS * 64, 1024)
    with torch.profiler.profile(profile_memory=True) as profiler:
        product(x, rows, None)
    allocated = sum(max(0, event.cpu_memory_usage) for event in profiler.events() if event.name == "aten::bmm")
    everything = sum(max(0, event.self_cpu_memory_usage) for event in profiler.events())
    assert 0 < allocated <= everything < rows.nbytes / 8


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (torch.randn(2, INNER), torch.randn(512, INNER)),
        (torch.randn(1, INNER), torch.randn(8, INNER)),
        (torch.randn(1, INNER).bfloat16(), torch.randn(512, INNER).bfloat16()),
    ],
    ids=["two rows", "few weights", "half precision"],
)
def test_everything_else_is_a_plain_product(x: torch.Tensor, rows: torch.Tensor) -> None:
    assert torch.equal(product(x, rows, None), F.linear(x, rows))
