"""Activation functions against their formulas."""

import math

import torch

from interp_hooks.model.components.mlp import gelu_fast, gelu_new, solu
from tests.tiny import assert_close

X = torch.linspace(-6, 6, 60, dtype=torch.float64).reshape(2, 3, 10)


def test_gelu() -> None:
    expected = 0.5 * X * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))
    assert_close(gelu_new(X), expected, 1e-13)
    assert_close(gelu_fast(X), expected, 1e-13)
    assert (gelu_new(X) - torch.nn.functional.gelu(X)).abs().max() > 1e-4, "an approximation"


def test_solu_is_over_neurons() -> None:
    exponentials = X.exp()
    assert_close(solu(X), X * exponentials / exponentials.sum(-1, keepdim=True), 1e-13)
