"""TransformerLens' parts of a model, built and called as they are there; what they are is ours.

    attn = Attention(cfg, "global", layer_id=0)
    attn(query_input, key_input, value_input)         what all heads write [batch, pos, d_model]
    block = TransformerBlock(cfg, 0); block(resid)

`isinstance(model.blocks[0].mlp, MLP)` asks for our class. A part that is built here has weights as a model's are drawn,
where there they are whatever was in memory; a config may be a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.compat.attributes import HasMask
from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model import config as core
from interp_hooks.model.components import attention, block, embed, mlp, moe
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.positions import RotaryPositions
from interp_hooks.model.initialization import initialize

Config = core.HookedTransformerConfig | Mapping[str, Any]


class _Part(type):
    """A class that builds another's instances, and counts them as its own."""

    made: type[nn.Module]

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.made)

    def __call__(cls, cfg: Config, *args: Any, **options: Any) -> nn.Module:
        cfg = HookedTransformerConfig.unwrap(cfg)
        part = cls.build(cfg, *args, **options)
        initialize(part, cfg.init_mode, cfg.initializer_range, cfg.seed)
        return part.to(cfg.dtype)

    def build(cls, cfg: Any, *args: Any, **options: Any) -> nn.Module:
        return cls.made(cfg, *args, **options)


def _sized(cfg: core.HookedTransformerConfig, field: str) -> int:
    """A size that a part cannot do without.

    Raises:
        ConfigError: it is not set.
    """
    if not (size := getattr(cfg, field)) or size < 1:
        raise ConfigError(f"{field} must be set to build this part, got {size}")
    return size


class Embed(metaclass=_Part):
    """`Embed(cfg)`"""

    made = embed.Embed


class Unembed(metaclass=_Part):
    """`Unembed(cfg)`"""

    made = embed.Unembed


class TokenTypeEmbed(metaclass=_Part):
    """`TokenTypeEmbed(cfg)`"""

    made = embed.TokenTypeEmbed


class BertMLMHead(metaclass=_Part):
    """`BertMLMHead(cfg)`"""

    made = embed.MLMHead


class _LearnedPositions(embed.LearnedPositions):
    """Learned positions that are found from tokens, or from a mask of those that are real."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: Int[Tensor, "batch pos"],
        past_kv_pos_offset: int = 0,
        attention_mask: Int[Tensor, "batch all_pos"] | None = None,
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


class PosEmbed(metaclass=_Part):
    """`PosEmbed(cfg)`"""

    made = embed.LearnedPositions

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return _LearnedPositions(cfg)


class MLP(metaclass=_Part):
    """`MLP(cfg)`"""

    made = mlp.MLP

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return mlp.MLP(cfg, _sized(cfg, "d_mlp"))


class GatedMLP(metaclass=_Part):
    """`GatedMLP(cfg)`"""

    made = mlp.GatedMLP

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        return _GatedMLP(cfg, _sized(cfg, "d_mlp"))


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


class MoE(metaclass=_Part):
    """`MoE(cfg)`, of a config with experts."""

    made = moe.MoE

    @staticmethod
    def build(cfg: core.HookedTransformerConfig) -> nn.Module:
        if cfg.experts is None:
            raise ConfigError("num_experts and experts_per_token must be set to build a mixture of experts")
        return moe.MoE(cfg, cfg.experts)


class _Alone:
    """What a part of a model needs to know of a pass, where there is no model around it."""

    def __init__(self, cfg: core.HookedTransformerConfig, layer: int) -> None:
        self.layer, self.causal = layer, cfg.attention_dir == "causal"
        self.rotary = RotaryPositions(cfg) if cfg.positional_embedding_type == "rotary" else None

    def __call__(self, x: Tensor, attention_mask: Tensor | None) -> tuple[Any, Visibility]:
        """The rotation of the layer, and which keys each query sees; the mask is 0 at padding."""
        length = x.shape[1]
        real = None if attention_mask is None else attention_mask.bool().to(x.device)
        every = torch.ones(1, length, dtype=torch.long, device=x.device) if real is None else real.long()
        positions = (every.cumsum(1) - 1).clamp(min=0)
        rotation = None if self.rotary is None else self.rotary(positions, x.dtype)[self.layer]
        return rotation, Visibility(length, length, self.causal, real, positions)


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"{name} is taken by models here, not by a part of one")


class _Attention(attention.Attention):
    """Attention that takes what queries, keys and values read, and gives what all heads write."""

    alone: _Alone

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        query_input: Any,
        key_input: Any,
        value_input: Any,
        past_kv_cache_entry: Any = None,
        additive_attention_mask: None = None,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
        position_bias: None = None,
    ) -> Float[Tensor, "batch pos ..."]:
        """What all heads write [batch, pos, d_model]; inputs are [batch, pos, d_model], or have an axis for heads.

        `attention_mask` is 0 at padding. Within a model, which gives all three inputs at once, as our attention.

        Raises:
            BadInput: an argument that only makes sense within a model.
        """
        if isinstance(query_input, tuple):
            return super().forward(query_input, key_input, value_input, past_kv_cache_entry)
        _refuse(
            past_kv_cache_entry=past_kv_cache_entry,
            additive_attention_mask=additive_attention_mask,
            position_bias=position_bias,
        )
        rotation, visibility = self.alone(query_input, attention_mask)
        return self.write(super().forward((query_input, key_input, value_input), rotation, visibility))


class _AttentionOfModel(HasMask, _Attention):
    """Attention within a model, which tells what it sees."""


class _SingleAttention(_Attention):
    """Attention without a model around it, whose state dict has TransformerLens' buffers and names."""

    mask: Tensor
    IGNORE: Tensor

    def __init__(self, cfg: core.HookedTransformerConfig, attn_type: str, layer: int) -> None:
        super().__init__(cfg, layer)
        self.cfg, self.attn_type, self.layer_id, self.alone = cfg, attn_type, layer, _Alone(cfg, layer)
        self.register_buffer("mask", torch.zeros(0, 0, dtype=torch.bool))
        self.register_buffer("IGNORE", torch.tensor(-torch.inf))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`; grouped keys and values may be called `_W_K` and so on."""
        return super().load_state_dict(
            {name.removeprefix("_"): one for name, one in state_dict.items()}, *args, **options
        )


def callable_as_there(model: nn.Module) -> None:
    """Let attention and learned positions of a model be called as TransformerLens' are."""
    for layer, within in enumerate(model.blocks):
        if type(within.attn) is attention.Attention:
            within.attn.__class__ = _AttentionOfModel  # it has the same weights and state, and another way to be called
            within.attn.alone, within.attn.n_ctx = _Alone(model.cfg, layer), model.cfg.n_ctx
    if model.has_positions and type(model.pos_embed) is embed.LearnedPositions:
        model.pos_embed.__class__ = _LearnedPositions


class Attention(metaclass=_Part):
    """`Attention(cfg, attn_type="global", layer_id=None)`; "local" is attention through the config's window."""

    made = attention.AttentionCore

    @classmethod
    def build(
        cls, cfg: core.HookedTransformerConfig, attn_type: str = "global", layer_id: int | None = None
    ) -> nn.Module:
        layer = layer_id or 0
        if attn_type not in ("global", "local"):
            raise ConfigError(f"attn_type must be 'global' or 'local', got {attn_type!r}")
        if attn_type == "local" and cfg.window_at(layer) is None:
            raise ConfigError("attn_type='local' needs a config with use_local_attn, window_size and attn_types")
        return _SingleAttention(cls.shared(cfg), attn_type, layer)

    @staticmethod
    def shared(cfg: core.HookedTransformerConfig) -> core.HookedTransformerConfig:
        """A config in which every head has keys and values of its own."""
        return cfg.replace(n_key_value_heads=cfg.n_heads)

    @staticmethod
    def create_alibi_slope(n_ctx: int, device: torch.device | None = None) -> Float[Tensor, "query key"]:
        """Minus the number of tokens from each key to each query that may see it, else 0."""
        places = torch.arange(n_ctx, device=device)
        return (places[None] - places[:, None]).clamp(max=0).float()

    @staticmethod
    def create_alibi_multipliers(n_heads: int, device: torch.device | None = None) -> Float[Tensor, " head"]:
        """The slope of each head, of a geometric series (Press et al. 2021, arxiv.org/abs/2108.12409)."""
        power = 2 ** (n_heads - 1).bit_length() if n_heads & (n_heads - 1) else n_heads
        closest = power if power == n_heads else power // 2
        own = [2 ** (-8 * place / closest) for place in range(1, closest + 1)]
        more = [2 ** (-4 * place / closest) for place in range(1, 2 * (n_heads - closest) + 1, 2)]
        return torch.tensor(own + more, device=device)

    @classmethod
    def create_alibi_bias(
        cls, n_heads: int, n_ctx: int, device: torch.device | None = None
    ) -> Float[Tensor, "head query key"]:
        """What is added to the scores of each head."""
        return cls.create_alibi_multipliers(n_heads, device)[:, None, None] * cls.create_alibi_slope(n_ctx, device)


class GroupedQueryAttention(Attention):
    """The same, with `cfg.n_key_value_heads` heads for keys and values."""

    @staticmethod
    def shared(cfg: core.HookedTransformerConfig) -> core.HookedTransformerConfig:
        return cfg


class TransformerBlock(metaclass=_Part):
    """`TransformerBlock(cfg, block_index)`"""

    made = block.TransformerBlock

    @staticmethod
    def build(cfg: core.HookedTransformerConfig, block_index: int = 0) -> nn.Module:
        return _Block(cfg, block_index)


class _Block(block.TransformerBlock):
    """A block that is called with the residual stream alone."""

    def __init__(self, cfg: core.HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        self.cfg, self.alone = cfg, _Alone(cfg, layer)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None = None,
        past_kv_cache_entry: None = None,
        attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the block; `attention_mask` is 0 at padding."""
        _refuse(past_kv_cache_entry=past_kv_cache_entry)
        rotation, visibility = self.alone(resid_pre, attention_mask)
        return super().forward(resid_pre, rotation, visibility, pos_embed=shortformer_pos_embed)
