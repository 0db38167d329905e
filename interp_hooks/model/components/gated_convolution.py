"""A short convolution between two gates (LFM2, Liquid AI 2025, arxiv.org/abs/2511.23404), for every channel by itself.

    v        = x W_V + b_V                                                   hook_v
    z        = (x W_C + b_C) * convolution((x W_B + b_B) * v)                hook_gate (C), hook_in_gate (B), hook_z
             = (x W_C + b_C) * (M v + b)                                     hook_mixing (M)

A token reads itself and the `taps - 1` before it. M[channel, query, key], the attention that this is equivalent to, is
made only while hooked. There are no heads: z counts as one.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Inputs, Visibility
from interp_hooks.model.components.convolution import ShortConvolution
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.mixer import Mixer, Promise, Reader
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig


class GatedConvolution(Mixer):
    """What each channel was in the last few tokens, weighted by a filter and two gates."""

    kind = "a gated convolution"
    heads = groups = 1

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        assert cfg.mixers is not None
        width = cfg.d_model
        self.W_B, self.b_B = parameter(width, width, lies=TRANSPOSED), parameter(width)
        self.W_C, self.b_C = parameter(width, width, lies=TRANSPOSED), parameter(width)
        self.W_V, self.b_V = parameter(width, width, lies=TRANSPOSED), parameter(width)
        self.convolution = ShortConvolution(width, cfg.mixers.taps)
        self.hook_in_gate = HookPoint("batch pos channel", channel=width)
        self.hook_v = HookPoint("batch pos channel", channel=width)
        self.hook_mixing = HookPoint("batch channel query key", collected=False, channel=width)
        self.hook_gate = HookPoint("batch pos channel", channel=width)
        self._write_with(cfg, 1, width)
        self._show_writing()

    def readers(self) -> list[Reader]:
        """The weights of values and of both gates."""
        return [(self.W_B, self.b_B, 0), (self.W_C, self.b_C, 0), (self.W_V, self.b_V, 0)]

    def forward(
        self, inputs: Inputs, rotation: Rotation | None, visibility: Visibility, earlier: Earlier | None = None
    ) -> Float[Tensor, "batch query head d_head"]:
        """z at the queries, from all tokens of the pass and what a cache holds of those before."""
        x, before, real = inputs[0], None, visibility.own
        v, in_gate = self.hook_v(linear(x, self.W_V, self.b_V)), self.hook_in_gate(linear(x, self.W_B, self.b_B))
        in_gate = in_gate if real is None else in_gate * real[..., None]
        read = self.convolution.hook_in(in_gate * v)
        if earlier is not None:
            before = earlier.convolved()
            earlier(read[:, :, None], read[:, :, None, :0])
        mixing = self.hook_mixing.beside(self._mixing(in_gate)) if self.hook_mixing.hooked else None
        if mixing is not None:
            mixed = torch.einsum("bcqk,bkc->bqc", mixing, v)
            mixed = self.convolution.hook_out(mixed + self.convolution.of(torch.zeros_like(v), before))
        else:
            mixed = self.convolution(read, before)
        gate = self.hook_gate(linear(visibility.chosen(x), self.W_C, self.b_C))
        return (gate * visibility.chosen(mixed))[:, :, None]

    def _mixing(self, in_gate: Float[Tensor, "batch pos channel"]) -> Float[Tensor, "batch channel query key"]:
        """How much of each token's value every later token reads, without its own gate."""
        length, taps = in_gate.shape[1], self.convolution.taps
        places = torch.arange(length, device=in_gate.device)
        back = places[:, None] - places
        seen = (back >= 0) & (back < taps)
        filters = self.convolution.W[:, (taps - 1 - back).clamp(0, taps - 1)] * seen
        return filters * in_gate.mT[:, :, None]

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That z is what the equivalent attention and the gate say."""
        mixed = torch.einsum("bcqk,bkc->bqc", here["hook_mixing"].double(), here["hook_v"].double())
        mixed = (mixed + self.convolution.b.double()) * here["hook_gate"].double()
        yield Promise("z == gate * (mixing @ v + b)", mixed, here["hook_z"][:, :, 0])
        yield self._promise_of_writing(here)
