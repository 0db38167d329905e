"""The feed-forward layer, plain or gated.

plain:  pre = x W_in + b_in                                        post = act(pre)
gated:  pre = x W_gate + b_gate,  pre_linear = x W_in + b_in       post = act(pre) * pre_linear
out = post W_out + b_out
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.hooks import HookPoint

_gelu_tanh = partial(F.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,  # three published names of one formula
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
}


class MLP(nn.Module):
    """The plain feed-forward layer."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.act_fn = ACTIVATIONS[str(cfg.act_fn)]
        self.W_in, self.b_in = parameter(cfg.d_model, cfg.d_mlp, lies=TRANSPOSED), parameter(cfg.d_mlp)
        self.W_out, self.b_out = parameter(cfg.d_mlp, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)
        self.hook_pre = HookPoint("batch pos neuron", neuron=cfg.d_mlp)
        self.hook_post = HookPoint("batch pos neuron", neuron=cfg.d_mlp)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        post = self.hook_post(self.act_fn(self.hook_pre(linear(x, self.W_in, self.b_in))))
        return linear(post, self.W_out, self.b_out)


class GatedMLP(nn.Module):
    """The feed-forward layer whose neurons multiply an activated gate with a linear part (arxiv.org/abs/2002.05202)."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.act_fn = ACTIVATIONS[str(cfg.act_fn)]
        self.W_gate, self.b_gate = parameter(cfg.d_model, cfg.d_mlp, lies=TRANSPOSED), parameter(cfg.d_mlp)
        self.W_in, self.b_in = parameter(cfg.d_model, cfg.d_mlp, lies=TRANSPOSED), parameter(cfg.d_mlp)
        self.W_out, self.b_out = parameter(cfg.d_mlp, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)
        self.hook_pre = HookPoint("batch pos neuron", neuron=cfg.d_mlp)
        self.hook_pre_linear = HookPoint("batch pos neuron", neuron=cfg.d_mlp)
        self.hook_post = HookPoint("batch pos neuron", neuron=cfg.d_mlp)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(linear(x, self.W_gate, self.b_gate))
        pre_linear = self.hook_pre_linear(linear(x, self.W_in, self.b_in))
        post = self.hook_post(self.act_fn(pre) * pre_linear)
        return linear(post, self.W_out, self.b_out)
