"""Tokens into the residual stream, and the residual stream into logits."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.hooks import HookPoint


class Embed(nn.Module):
    """One vector per token of the vocabulary."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W_E = parameter(cfg.d_vocab, cfg.d_model)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return F.embedding(tokens, self.W_E)


class Unembed(nn.Module):
    """The linear map onto the output vocabulary. It always has a bias, which is zero where the checkpoint has none."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W_U = parameter(cfg.d_model, cfg.d_vocab_out, lies=TRANSPOSED)
        self.b_U = parameter(cfg.d_vocab_out)
        self.hook_in = HookPoint("batch pos d_model", d_model=cfg.d_model)
        self.hook_out = HookPoint("batch pos d_vocab", d_vocab=cfg.d_vocab_out)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.hook_out(linear(self.hook_in(x), self.W_U, self.b_U))
