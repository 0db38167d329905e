"""Types that code for TransformerLens names in its annotations, and the base class of its own MLPs."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.compat.attention import sized
from interp_hooks.compat.classes import LayerNorm, LayerNormPre
from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.mlp import MLP, GatedMLP, activation
from interp_hooks.model.components.moe import MoE

SingleLoss = Float[Tensor, ""]
LossPerToken = Float[Tensor, "batch pos-1"]
Loss = SingleLoss | LossPerToken


class _AnyMLP(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        ours = cls is CanBeUsedAsMLP and isinstance(instance, MLP | GatedMLP | MoE)
        return ours or super().__instancecheck__(instance)


class CanBeUsedAsMLP(nn.Module, metaclass=_AnyMLP):
    """What a class of one's own derives from to stand where an MLP does; the MLPs of models are instances too.

    Raises:
        ConfigError: a config without `d_mlp`.
    """

    act_fn: Any
    hook_mid: HookPoint | None
    ln: Any

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = HookedTransformerConfig.unwrap(cfg)
        self.d_mlp = sized(self.cfg, "d_mlp")

    def forward(self, x: Float[torch.Tensor, "batch pos d_model"]) -> Float[torch.Tensor, "batch pos d_model"]:
        """What it writes for what it reads; here, the same."""
        return x

    def select_activation_function(self) -> None:
        """Set `act_fn` as the config says, and `hook_mid` and `ln` where a norm follows it."""
        self.act_fn = activation(self.cfg)
        if self.cfg.normalizes_neurons:
            self.hook_mid = HookPoint("batch pos neuron", neuron=self.d_mlp)
            self.ln = (LayerNorm if self.cfg.normalization_type == "LN" else LayerNormPre)(self.cfg, self.d_mlp)
