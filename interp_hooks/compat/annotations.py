"""Types that code for TransformerLens names in its annotations."""

from jaxtyping import Float
from torch import Tensor

from interp_hooks.model.components.mlp import MLP, GatedMLP
from interp_hooks.model.components.moe import MoE

SingleLoss = Float[Tensor, ""]
LossPerToken = Float[Tensor, "batch pos-1"]
Loss = SingleLoss | LossPerToken
CanBeUsedAsMLP = MLP | GatedMLP | MoE
