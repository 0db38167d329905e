"""Several streams of which layers read and write the first (AltUp, Baykal et al. 2023, arxiv.org/abs/2301.13310), and
the low-rank map beside attention that comes with it (LAuReL, Menghani et al. 2024, arxiv.org/abs/2411.07501).

    embedding --W_in--> s[0] (itself), s[1], ...  --predict--> the streams that enter layer 0
    a layer     after = s[0] + all that attention, LAuReL and MLP write
                s[i]  = s[i] + gain[i] (after - s[0])                correct: every stream learns what the layer did
                s[i]  = s[i] + what the layer's own embedding writes                                    i > 0 alone
                s[i]  = s[i] + sum over j of mix[i, j] s[j]          predict: what enters the next layer
    last layer  s[0] = mean of s[0], s[1] W_out, ...                 in place of a prediction

`mix` and `gain` are linear in modalities = tanh(norm(s[0]) W_router / d_model), which the layer makes of `s[0]` before
and after it. Projected streams get the size of s[0]. The residual stream of the hooks is s[0]: what correction and
prediction make of it, less what it was, is one more thing that is added to it, `altup_out`. The others are
`hook_other_streams`. In the same way `laurel_out` makes (stream + normalized + norm(normalized W_down W_up)) / sqrt(2)
of it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.norm import norm
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig

LEAST_SQUARE = 1e-5  # the mean square below which a projected stream is not made as large as the first


class AltUp(nn.Module):
    """How the streams of a model begin, are mixed between layers, and end as one. Weights have an axis of layers."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        layers, n, d_model = cfg.n_layers, cfg.n_streams, cfg.d_model
        self.eps = cfg.eps
        self.W_in, self.W_out = parameter(n - 1, d_model, d_model), parameter(n - 1, d_model, d_model)
        self.gain_router, self.W_router = parameter(layers, d_model), parameter(layers, d_model, n)
        self.W_predict, self.W_correct = parameter(layers, n, n, n), parameter(layers, n, n)
        self.gain_read = parameter(layers, d_model)

    def entering(self, embedding: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos stream d_model"]:
        """The streams that enter the first layer."""
        others = torch.einsum("...d,sde->...se", embedding, self.W_in)
        return self._predicted(0, torch.cat((embedding[..., None, :], _as_large(others, embedding)), dim=-2))

    def corrected(
        self,
        layer: int,
        streams: Float[Tensor, "*batch pos stream d_model"],
        after: Float[Tensor, "*batch pos d_model"],
    ) -> Float[Tensor, "*batch pos stream d_model"]:
        """The streams that entered a layer, as they are after it; the first alone is `after`."""
        gain = 1 + torch.einsum("...c,cs->...s", self._modalities(layer, after), self.W_correct[layer])
        return streams + gain[..., None] * (after - streams[..., 0, :])[..., None, :]

    def read_by_embedding(
        self, layer: int, streams: Float[Tensor, "*batch pos stream d_model"]
    ) -> Float[Tensor, "*batch pos d_model"]:
        """What the part of a layer reads that has embeddings of its own."""
        return streams[..., 0, :] * self.gain_read[layer]

    def onward(
        self, layer: int, streams: Float[Tensor, "*batch pos stream d_model"]
    ) -> Float[Tensor, "*batch pos _ d_model"]:
        """What corrected streams of a layer enter the next one as; after the last one, a single stream."""
        if layer + 1 < len(self.W_router):
            return self._predicted(layer + 1, streams)
        first, others = streams[..., 0, :], torch.einsum("...sd,sde->...se", streams[..., 1:, :], self.W_out)
        return torch.cat((first[..., None, :], _as_large(others, first)), dim=-2).mean(-2, keepdim=True)

    def _predicted(self, layer: int, streams: Tensor) -> Float[Tensor, "*batch pos stream d_model"]:
        modalities = self._modalities(layer, streams[..., 0, :])
        mix = torch.einsum("...c,cst->...st", modalities, self.W_predict[layer])
        return streams + mix @ streams

    def _modalities(self, layer: int, first: Tensor) -> Float[Tensor, "*batch pos modality"]:
        normalized = nn.functional.rms_norm(first, first.shape[-1:], self.gain_router[layer], self.eps)
        routed = (normalized / first.shape[-1]) @ self.W_router[layer]
        return torch.tanh(routed.to(torch.promote_types(routed.dtype, torch.float32))).to(first.dtype)


def _as_large(
    streams: Float[Tensor, "*batch pos stream d_model"], first: Float[Tensor, "*batch pos d_model"]
) -> Float[Tensor, "*batch pos stream d_model"]:
    """The streams, each multiplied so that its mean square is that of another one."""
    size = first.square().mean(-1, keepdim=True).sqrt()[..., None, :]
    return streams * size / streams.square().mean(-1, keepdim=True).clamp(min=LEAST_SQUARE).sqrt()


class Streams(NamedTuple):
    """The streams of a pass beside the one that hooks show: what mixes them, and they by the layer that they enter."""

    altup: AltUp
    others: dict[int, Float[Tensor, "batch pos stream d_model"]]


class LAuReL(nn.Module):
    """A low-rank map of what attention reads, by which the stream after attention is changed."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        rank = cfg.laurel_rank
        self.W_down = parameter(cfg.d_model, rank, lies=TRANSPOSED)
        self.W_up = parameter(rank, cfg.d_model, lies=TRANSPOSED)
        self.ln_post = norm(cfg, cfg.output_norm_type)
        self.hook_latent = HookPoint("batch pos latent", latent=rank)

    def forward(
        self, normalized: Float[Tensor, "*rows pos d_model"], stream: Float[Tensor, "*rows pos d_model"]
    ) -> Float[Tensor, "*rows pos d_model"]:
        """What is added to the stream after attention, whose norm gave `normalized`."""
        mapped = self.ln_post(linear(self.hook_latent(linear(normalized, self.W_down, None)), self.W_up, None))
        return (stream + normalized + mapped) * 2**-0.5 - stream
