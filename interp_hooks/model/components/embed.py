"""Tokens into the residual stream, and the residual stream into logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.mlp import activation
from interp_hooks.model.components.norm import norm
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig


class Embed(nn.Module):
    """One vector per token of the vocabulary, times `cfg.embed_scale`."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.scale = cfg.embed_scale
        self.W_E = parameter(cfg.d_vocab, cfg.d_model)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        embed = F.embedding(tokens, self.W_E)
        return embed if self.scale == 1 else embed * self.scale


class TokenTypeEmbed(nn.Module):
    """One vector per token type (BERT's first and second sentence)."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W_token_type = parameter(cfg.n_token_types, cfg.d_model)

    def forward(self, token_types: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return F.embedding(token_types, self.W_token_type)


class MLMHead(nn.Module):
    """What masked language models do to the stream before they unembed it: a dense layer, activation and norm."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.act_fn = activation(cfg)
        self.W, self.b = parameter(cfg.d_model, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)
        self.ln = norm(cfg, cfg.normalization_type)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.ln(self.act_fn(linear(x, self.W, self.b)))


class Unembed(nn.Module):
    """The linear map onto the output vocabulary, its multiplier and soft cap.

    It always has a bias, which is zero where the checkpoint has none.
    """

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.scale, self.soft_cap = cfg.logits_scale, cfg.output_logits_soft_cap
        self.W_U = parameter(cfg.d_model, cfg.d_vocab_out, lies=TRANSPOSED)
        self.b_U = parameter(cfg.d_vocab_out)
        self.hook_in = HookPoint("batch pos d_model", d_model=cfg.d_model)
        self.hook_out = HookPoint("batch pos d_vocab", d_vocab=cfg.d_vocab_out)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.hook_out(self.shaped(linear(self.hook_in(x), self.W_U, self.b_U)))

    def shaped(self, logits: Tensor) -> Tensor:
        """Multiplied and soft-capped, number by number."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if not self.soft_cap else self.soft_cap * torch.tanh(logits / self.soft_cap)
