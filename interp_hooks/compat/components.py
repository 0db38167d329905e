"""TransformerLens' parts of a model, built and called as they are there; what they are is ours.

    mlp = GatedMLP(cfg); mlp(x)
    block = TransformerBlock(cfg, 0); block(resid)

`isinstance(model.blocks[0].mlp, MLP)` asks for our class. A part that is built here has weights as a model's are drawn,
where there they are whatever was in memory; a config may be a mapping.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.compat.attention import Alone, CalledAttention, Part, refuse, sized
from interp_hooks.errors import ConfigError
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model import config as core
from interp_hooks.model.components import attention, block, embed, mlp, moe
from interp_hooks.model.components.norm import Norm


class Embed(metaclass=Part):
    """`Embed(cfg)`"""

    made = embed.Embed


class Unembed(metaclass=Part):
    """`Unembed(cfg)`"""

    made = embed.Unembed


class TokenTypeEmbed(metaclass=Part):
    """`TokenTypeEmbed(cfg)`"""

    made = embed.TokenTypeEmbed


class BertMLMHead(metaclass=Part):
    """`BertMLMHead(cfg)`"""

    made = embed.MLMHead


class _LearnedPositions(embed.LearnedPositions):
    """Learned positions that are found from tokens, or from a mask of those that are real."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: Int[Tensor, "rows pos"],
        past_kv_pos_offset: int = 0,
        attention_mask: Int[Tensor, "rows all_pos"] | None = None,
        *,
        batch: int | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The vectors of the positions that tokens have; within a model (`batch`), of positions themselves."""
        if batch is not None:
            return super().forward(tokens, batch=batch)
        length = past_kv_pos_offset + tokens.shape[1]
        real = tokens.new_ones(1, length) if attention_mask is None else attention_mask
        positions = (real.cumsum(1) - 1)[:, past_kv_pos_offset:]
        vectors = super().forward(positions.clamp(min=0), batch=len(tokens))
        return vectors.masked_fill((real[:, past_kv_pos_offset:] == 0)[..., None], 0.0)


class _OffsetPositions(_LearnedPositions):
    """Learned positions of a model that keeps rows before that of position 0, which `W_pos` leaves out here."""

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        rows = self._parameters["W_pos"]
        assert rows is not None
        return rows[self.offset :]

    def rows(self, positions: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos d_model"]:
        return self.W_pos[positions]


class PosEmbed(metaclass=Part):
    """`PosEmbed(cfg)`"""

    made = embed.LearnedPositions

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return _LearnedPositions(cfg)


class MLP(metaclass=Part):
    """`MLP(cfg)`"""

    made = mlp.MLP

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return mlp.MLP(cfg, sized(cfg, "d_mlp"))


class GatedMLP(metaclass=Part):
    """`GatedMLP(cfg)`"""

    made = mlp.GatedMLP

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return _GatedMLP(cfg, sized(cfg, "d_mlp"))


class _GatedMLP(mlp.GatedMLP):
    """A gated MLP that has no `b_gate`, adds `b_in` after the product, and may normalize its neurons."""

    def __init__(self, cfg: core.HookedTransformerConfig, width: int) -> None:
        super().__init__(cfg.replace(act_fn=str(cfg.act_fn).removesuffix("_ln")), width)
        del self.b_gate
        self.act_fn, self.ln = mlp.activation(cfg), None
        if cfg.normalizes_neurons:
            self.hook_mid = HookPoint("batch pos neuron", neuron=width)
            self.ln = Norm("LN" if cfg.normalization_type == "LN" else "LNPre", (width,), cfg.eps)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        post = self.act_fn(self.hook_pre(x @ self.W_gate)) * self.hook_pre_linear(x @ self.W_in) + self.b_in
        if self.ln is not None:
            post = self.ln(self.hook_mid(post))
        return self.hook_post(post) @ self.W_out + self.b_out


class MoE(metaclass=Part):
    """`MoE(cfg)`, of a config with experts."""

    made = moe.MoE

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        if cfg.experts is None:
            raise ConfigError("num_experts and experts_per_token must be set to build a mixture of experts")
        return moe.MoE(cfg, cfg.experts)


class TransformerBlock(metaclass=Part):
    """`TransformerBlock(cfg, block_index)`"""

    made = block.TransformerBlock

    @staticmethod
    def build(cfg: core.HookedTransformerConfig, block_index: int = 0) -> nn.Module:
        return _Block(cfg, block_index)


class _Block(block.TransformerBlock):
    """A block that is called with the residual stream alone."""

    @property
    def cfg(self) -> core.HookedTransformerConfig:
        """The config that it was built from."""
        return self.alone.config

    def __init__(self, cfg: core.HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        self.alone = Alone(cfg, layer)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None = None,
        past_kv_cache_entry: None = None,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the block; `attention_mask` is 0 at padding."""
        refuse(past_kv_cache_entry=past_kv_cache_entry)
        rotation, visibility = self.alone(resid_pre, attention_mask, self.training)
        return super().forward(resid_pre, rotation, visibility, beside=block.Beside(pos_embed=shortformer_pos_embed))


def callable_as_there(model: Any) -> None:
    """Let attention and learned positions of a model be called as TransformerLens' are."""
    for layer, within in enumerate(model.blocks):
        if type(within.attn) is attention.Attention:
            within.attn.__class__ = CalledAttention  # it has the same weights and state, and another way to be called
            vars(within.attn)["alone"] = Alone(model.cfg, layer)
    if model.has_positions and type(model.pos_embed) is embed.LearnedPositions:
        model.pos_embed.__class__ = _OffsetPositions if model.pos_embed.offset else _LearnedPositions
