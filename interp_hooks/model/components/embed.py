"""Tokens and positions into the residual stream, and the residual stream into logits."""

import math

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
        self.W_E = parameter(cfg.d_vocab, cfg.d_embed or cfg.d_model)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_embed"]:
        embed = F.embedding(tokens, self.W_E)
        return embed if self.scale == 1 else embed * self.scale


class TokenTypeEmbed(nn.Module):
    """One vector per token type (BERT's first and second sentence)."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W_token_type = parameter(cfg.n_token_types, cfg.d_embed or cfg.d_model)

    def forward(self, token_types: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_embed"]:
        return F.embedding(token_types, self.W_token_type)


class LearnedPositions(nn.Module):
    """One vector per position; some models keep `offset` rows before that of position 0."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.offset = cfg.positions_offset
        self.W_pos = parameter(self.offset + cfg.n_ctx, cfg.d_embed or cfg.d_model)

    def forward(self, positions: Int[Tensor, "rows pos"], batch: int) -> Float[Tensor, "batch pos d_embed"]:
        return self.rows(positions).expand(batch, -1, -1)

    def rows(self, positions: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos d_embed"]:
        """The vectors of some positions."""
        return self.W_pos[positions + self.offset]


class SinusoidalPositions(nn.Module):
    """Fixed vectors: sines of falling frequencies, then their cosines (Vaswani et al. 2017, arxiv.org/abs/1706.03762).

    It has no weights.
    """

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.offset, self.d_model, self.to_end = cfg.positions_offset, cfg.d_model, cfg.sinusoids_to_end

    def forward(self, positions: Int[Tensor, "rows pos"], batch: int) -> Float[Tensor, "batch pos d_model"]:
        half = self.d_model // 2
        steps = torch.arange(half, dtype=torch.float32, device=positions.device)
        frequencies = torch.exp(steps * -(math.log(10000) / (half - self.to_end)))
        angles = (positions + self.offset)[..., None].float() * frequencies
        vectors = torch.cat((angles.sin(), angles.cos(), angles.new_zeros(*angles.shape[:2], self.d_model % 2)), dim=-1)
        return vectors.expand(batch, -1, -1)


POSITIONS = {"standard": LearnedPositions, "shortformer": LearnedPositions, "sinusoidal": SinusoidalPositions}


class EmbedMap(nn.Module):
    """The linear map of embeddings that are not as wide as the stream (Lan et al. 2019, arxiv.org/abs/1909.11942)."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W, self.b = parameter(cfg.d_embed, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)

    def forward(self, x: Float[Tensor, "*rows d_embed"]) -> Float[Tensor, "*rows d_model"]:
        return linear(x, self.W, self.b)


class MLMHead(nn.Module):
    """The dense layer, activation and norm that masked language models put before the unembedding."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.act_fn = activation(cfg)
        width = cfg.d_unembed or cfg.d_model
        self.W, self.b = parameter(cfg.d_model, width, lies=TRANSPOSED), parameter(width)
        self.ln = norm(cfg, cfg.normalization_type, width=width)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_unembed"]:
        return self.ln(self.act_fn(linear(x, self.W, self.b)))


class Unembed(nn.Module):
    """The linear map onto the output vocabulary, its multiplier and soft cap.

    It always has a bias, which is zero where the checkpoint has none.
    """

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.scale, self.soft_cap = cfg.logits_scale, cfg.output_logits_soft_cap
        width = cfg.d_unembed or cfg.d_model
        self.W_U = parameter(width, cfg.d_vocab_out, lies=TRANSPOSED)
        self.b_U = parameter(cfg.d_vocab_out)
        if cfg.d_unembed:
            self.hook_in = HookPoint("batch pos d_unembed", d_unembed=width)
        else:
            self.hook_in = HookPoint("batch pos d_model", d_model=width)
        self.hook_out = HookPoint("batch pos d_vocab", d_vocab=cfg.d_vocab_out)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.hook_out(self.shaped(linear(self.hook_in(x), self.W_U, self.b_U)))

    def shaped(self, logits: Tensor) -> Tensor:
        """Logits after the multiplier and the soft cap."""
        return self.capped(logits if self.scale == 1 else logits * self.scale)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits, multiplied already, after the soft cap."""
        return logits if not self.soft_cap else self.soft_cap * torch.tanh(logits / self.soft_cap)
