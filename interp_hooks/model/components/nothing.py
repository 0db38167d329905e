"""What stands in a layer that mixes no tokens, or has no MLP: a sublayer that adds nothing, under the usual name."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.model.components.mixer import Mixer, Promise, Reader
from interp_hooks.model.components.weights import parameter
from interp_hooks.model.config import HookedTransformerConfig


class NoMixer(Mixer):
    """No head, which reads nothing and writes nothing."""

    kind = "nothing"
    heads = groups = 0

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        self.b_O = parameter(cfg.d_model)
        self._show_writing()

    @property
    def W_O(self) -> Float[Tensor, "0 1 d_model"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.b_O.new_zeros(0, 1, len(self.b_O))

    def readers(self) -> list[Reader]:
        """None."""
        return []

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That nothing is written."""
        yield self._promise_of_writing(here)

    def forward(self, inputs: Any, rotation: Any, visibility: Any, earlier: Any = None) -> Float[Tensor, "b q 0 1"]:
        x = inputs[0]
        if earlier is not None:
            earlier(x[:, :, None, :0], x[:, :, None, :0])
        x = visibility.chosen(x)
        return x.new_zeros(*x.shape[:2], 0, 1)


class NoMLP(nn.Module):
    """No neuron."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.b_out = parameter(cfg.d_model)

    @property
    def W_out(self) -> Float[Tensor, "0 d_model"]:
        return self.b_out.new_zeros(0, len(self.b_out))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return torch.zeros_like(x) + self.b_out
