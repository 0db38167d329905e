"""The activation functions that configs name, and those that people call by themselves.

`gelu_new`, `gelu_fast` and `gelu_pytorch_tanh` are three published names of one formula.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gelu_new(x: Tensor) -> Tensor:
    """GPT-2's GELU, whose normal distribution function is approximated by a tanh."""
    return F.gelu(x, approximate="tanh")


gelu_fast = gelu_new


def solu(x: Float[Tensor, "*rest neuron"]) -> Float[Tensor, "*rest neuron"]:
    """x * softmax(x) over the neurons (transformer-circuits.pub/2022/solu), without the norm that follows it there."""
    return x * x.softmax(-1)


def _quick_gelu(x: Tensor) -> Tensor:  # no lambda, so that models can be pickled
    return x * torch.sigmoid(1.702 * x)


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": gelu_new,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "relu2": _relu2,
    "tanh": torch.tanh,
    "solu": solu,
}
