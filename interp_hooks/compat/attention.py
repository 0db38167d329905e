"""TransformerLens' attention, built and called alone, and what it shares with the other parts that are.

attn = Attention(cfg, "global", layer_id=0)
attn(query_input, key_input, value_input)         what all heads write [batch, pos, d_model]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.rotary import QwenPositions, RotaryTables, as_in_qwen
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.model import config as core
from interp_hooks.model.components import attention
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.positions import RotaryPositions
from interp_hooks.model.initialization import initialize

Config = core.HookedTransformerConfig | Mapping[str, Any]


class Part(type):
    """A class that builds another's instances, and counts them as its own."""

    made: type[nn.Module]

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.made)

    def __call__(cls, cfg: Config, *args: Any, **options: Any) -> nn.Module:
        built_from = HookedTransformerConfig.unwrap(cfg)
        part = cls.build(built_from, *args, **options)
        initialize(part, built_from.init_mode, built_from.initializer_range, built_from.seed)
        return part.to(built_from.dtype)

    def build(cls, cfg: Any, *args: Any, **options: Any) -> nn.Module:
        return cls.made(cfg, *args, **options)


def sized(cfg: core.HookedTransformerConfig, field: str) -> int:
    """A size that a part cannot do without.

    Raises:
        ConfigError: it is not set.
    """
    if not (size := getattr(cfg, field)) or size < 1:
        raise ConfigError(f"{field} must be set to build this part, got {size}")
    return size


class Alone:
    """What a part of a model needs to know of a pass, where there is no model around it."""

    def __init__(self, cfg: core.HookedTransformerConfig, layer: int) -> None:
        self.config = cfg if isinstance(cfg, HookedTransformerConfig) else HookedTransformerConfig.of(cfg)
        self.layer, self.causal = layer, cfg.attention_dir == "causal"
        made = QwenPositions if as_in_qwen(self.config) else RotaryPositions
        self.rotary = made(self.config) if cfg.positional_embedding_type == "rotary" else None

    def __call__(self, x: Tensor, attention_mask: Tensor | None, training: bool = False) -> tuple[Any, Visibility]:
        """The rotation of the layer, and which keys each query sees; the mask is 0 at padding."""
        length = x.shape[1]
        real = None if attention_mask is None else attention_mask.bool().to(x.device)
        every = torch.ones(1, length, dtype=torch.long, device=x.device) if real is None else real.long()
        positions = (every.cumsum(1) - 1).clamp(min=0)
        rotation = None if self.rotary is None else self.rotary.train(training)(positions, x.dtype)[self.layer]
        return rotation, Visibility(length, length, self.causal, real, positions)


def refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"{name} is taken by models here, not by a part of one")


def simple_attn_linear(
    input: Float[Tensor, "batch pos d_model"], w: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head"]
) -> Float[Tensor, "batch pos head d_head"]:
    """Queries, keys or values of all heads, which read the same."""
    return torch.einsum("bpd,hdk->bphk", input, w) + b


def complex_attn_linear(
    input: Float[Tensor, "batch pos head d_model"],
    w: Float[Tensor, "head d_model d_head"],
    b: Float[Tensor, "head d_head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Queries, keys or values of heads that each read something else."""
    return torch.einsum("bphd,hdk->bphk", input, w) + b


class CalledAttention(RotaryTables, attention.Attention):
    """Attention that takes what queries, keys and values read, and gives what all heads write."""

    alone: Alone

    @property
    def cfg(self) -> core.HookedTransformerConfig:
        """The config that it was built from."""
        return self.alone.config

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
        refuse(
            past_kv_cache_entry=past_kv_cache_entry,
            additive_attention_mask=additive_attention_mask,
            position_bias=position_bias,
        )
        rotation, visibility = self.alone(query_input, attention_mask, self.training)
        return self.write(super().forward((query_input, key_input, value_input), rotation, visibility))


class _SingleAttention(CalledAttention):
    """Attention without a model around it, whose state dict has TransformerLens' buffers and names."""

    mask: Tensor
    IGNORE: Tensor

    def __init__(self, cfg: core.HookedTransformerConfig, attn_type: str, layer: int) -> None:
        super().__init__(cfg, layer)
        self.attn_type, self.layer_id, self.alone = attn_type, layer, Alone(cfg, layer)
        self.register_buffer("mask", torch.zeros(0, 0, dtype=torch.bool))
        self.register_buffer("IGNORE", torch.tensor(-torch.inf))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`; grouped keys and values may be called `_W_K` and so on.

        A mask and rotary tables, as older files have them, are passed over.
        """
        tables = ("rotary_sin", "rotary_cos")
        named = {name.removeprefix("_"): one for name, one in state_dict.items() if name not in tables}
        return super().load_state_dict(named | dict(self.named_buffers()), *args, **options)


def _local(cfg: HookedTransformerConfig, layer: int) -> HookedTransformerConfig:
    """The config of attention through a window, which has a rotary base of its own if the config says one.

    Raises:
        ConfigError: the config says no window.
    """
    if cfg.window_size is None:
        raise ConfigError("attn_type='local' needs a config with window_size")
    if cfg.window_at(layer) is None:
        cfg = cfg.replace(window_sizes=(cfg.window_size,) * cfg.n_layers)
    if (base := cfg.rotary_base_local) is not None:
        cfg = cfg.replace(rotary_layers=({"rope_type": "default", "rope_theta": base},) * cfg.n_layers)
    return cfg


class Attention(metaclass=Part):
    """`Attention(cfg, attn_type="global", layer_id=None)`; "local" is attention through the config's window."""

    made = attention.AttentionCore

    @classmethod
    def build(
        cls, cfg: core.HookedTransformerConfig, attn_type: str = "global", layer_id: int | None = None
    ) -> nn.Module:
        layer = layer_id or 0
        if attn_type not in ("global", "local"):
            raise ConfigError(f"attn_type must be 'global' or 'local', got {attn_type!r}")
        if attn_type == "local":
            cfg = _local(HookedTransformerConfig.of(cfg), layer)
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
