"""Embeddings of each layer's own (Gemma 3n, Google DeepMind 2025), and the part of a block that reads them.

    e       = (W_T[token] sqrt(width) + norm(embedding W_S / sqrt(d_model))) / sqrt(2)      for every layer its own
    pre     = x W_gate                           x: the stream after the MLP, as it is
    post    = act(pre) * e
    ple_out = norm(post W_out)                   which is added to the stream

In models with several streams x is the first one after correction, and ple_out is added to the others. Tables of
embeddings are large, but cost no time: of each token one row is read.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.mlp import ACTIVATIONS
from interp_hooks.model.components.norm import Norm, norm
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig


class LayerEmbed(nn.Module):
    """What every layer reads of a token: a vector from its own table, and one from the token's embedding."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        width = self.width = cfg.d_layer_embed
        self.W_T = parameter(cfg.d_vocab_layer_embed or cfg.d_vocab, cfg.n_layers, width)
        self.W_S = parameter(cfg.d_model, cfg.n_layers, width)
        kind = cfg.normalization_type or "RMSPre"
        axes, offset = "batch pos of_layer width", cfg.norm_gain_offset
        self.ln = Norm(kind, (width,), cfg.eps, gain_offset=offset, axes=axes, of_layer=cfg.n_layers)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], embedding: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos of_layer width"]:
        of_stream = embedding @ self.W_S.flatten(1) * embedding.shape[-1] ** -0.5
        tokens = tokens.where(tokens < len(self.W_T), 0)
        own = F.embedding(tokens, self.W_T.flatten(1)) * self.width**0.5
        return (self.ln(of_stream.unflatten(-1, (-1, self.width))) + own.unflatten(-1, (-1, self.width))) * 2**-0.5


class LayerEmbedReader(nn.Module):
    """A gate from the stream on the embedding of a layer, written to the stream through a norm."""

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        width, self.read_scale = cfg.d_layer_embed, cfg.stream_scale_at(layer)
        self.act_fn: Callable[[Tensor], Tensor] = ACTIVATIONS[str(cfg.act_fn)]
        self.W_gate = parameter(cfg.d_model, width, lies=TRANSPOSED)
        self.W_out = parameter(width, cfg.d_model, lies=TRANSPOSED)
        self.ln_post = norm(cfg, cfg.output_norm_type)
        self.hook_pre = HookPoint("batch pos width", width=width)
        self.hook_post = HookPoint("batch pos width", width=width)

    def forward(
        self, x: Float[Tensor, "*rows pos d_model"], embedded: Float[Tensor, "*rows pos width"]
    ) -> Float[Tensor, "*rows pos d_model"]:
        read = x if self.read_scale == 1 else x * self.read_scale
        post = self.hook_post(self.act_fn(self.hook_pre(linear(read, self.W_gate, None))) * embedded)
        return self.ln_post(linear(post, self.W_out, None))
