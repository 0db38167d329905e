"""What a transformer is, as one frozen value.

Every quirk of a published architecture is a field here, so that no other module needs to know which checkpoint a model
came from. The constructor resolves and checks everything once (`n_key_value_heads`, `d_mlp`, `rotary_dim` ... are
always numbers afterwards); nothing mutates it later. Sizes are counts, `rotary_base` is the usual theta.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from interp_hooks.errors import ConfigError, nearest

NormalizationType = Literal["LN", "LNPre", "RMS", "RMSPre"]
PositionalEmbeddingType = Literal["standard", "rotary", "none"]
AttentionDirection = Literal["causal", "bidirectional"]
Activation = Literal[
    "relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2", "tanh"
]

FOLDED = {"LN": "LNPre", "RMS": "RMSPre"}


@dataclass(frozen=True, kw_only=True)
class HookedTransformerConfig:
    """The architecture of a `HookedTransformer`.

    `normalization_type`: "LN" and "RMS" have a gain (and LN a bias), "LNPre" and "RMSPre" are what remains after these
    are folded into the next weights, None is no normalization at all. `n_key_value_heads` below `n_heads` is grouped
    query attention. `rotary_scaling` holds a HuggingFace `rope_parameters` mapping plus `max_position_embeddings`; None
    means unscaled frequencies. `attn_scale` divides the attention scores (default: sqrt of `d_head`).

    Raises:
        ConfigError: a size that does not fit the others, or an unknown choice.
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_vocab: int
    d_head: int = 0
    n_heads: int = 0
    n_key_value_heads: int = 0
    d_mlp: int = 0
    d_vocab_out: int = 0
    act_fn: Activation | None = None
    normalization_type: NormalizationType | None = "LN"
    eps: float = 1e-5
    positional_embedding_type: PositionalEmbeddingType = "standard"
    rotary_dim: int = 0
    rotary_base: float = 10000.0
    rotary_adjacent_pairs: bool = False
    rotary_scaling: Mapping[str, Any] | None = None
    attention_dir: AttentionDirection = "causal"
    attn_scale: float = 0.0
    scale_attn_by_inverse_layer_idx: bool = False
    attn_only: bool = False
    parallel_attn_mlp: bool = False
    gated_mlp: bool = False
    default_prepend_bos: bool = True
    initializer_range: float = 0.02
    seed: int | None = None
    model_name: str = "custom"
    original_architecture: str | None = None
    dtype: torch.dtype | str = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        for field in ("n_layers", "d_model", "n_ctx", "d_vocab"):
            self._check_positive(field)
        self._resolve_heads()
        self._resolve("d_vocab_out", self.d_vocab)
        self._resolve("attn_scale", self.d_head**0.5)
        self._check_choice("normalization_type", NormalizationType, none_allowed=True)
        self._check_choice("positional_embedding_type", PositionalEmbeddingType)
        self._check_choice("attention_dir", AttentionDirection)
        self._resolve_mlp()
        self._resolve_rotary()
        self._set("dtype", as_dtype(self.dtype))
        self._set("device", torch.device(self.device))

    def _resolve_heads(self) -> None:
        if not self.d_head and not self.n_heads:
            raise ConfigError("expected n_heads or d_head (or both), got neither")
        if not self.n_heads and self.d_model % self.d_head:
            raise ConfigError(f"n_heads is not given and d_head={self.d_head} does not divide d_model={self.d_model}")
        if not self.d_head and self.d_model % self.n_heads:
            raise ConfigError(f"d_head is not given and n_heads={self.n_heads} does not divide d_model={self.d_model}")
        self._resolve("n_heads", self.d_model // (self.d_head or 1))
        self._resolve("d_head", self.d_model // self.n_heads)
        self._resolve("n_key_value_heads", self.n_heads)
        if self.n_heads % self.n_key_value_heads:
            raise ConfigError(
                f"n_key_value_heads={self.n_key_value_heads} does not divide n_heads={self.n_heads}: "
                "every key/value head serves the same number of query heads"
            )

    def _resolve_mlp(self) -> None:
        if self.attn_only:
            if self.d_mlp or self.gated_mlp or self.parallel_attn_mlp:
                raise ConfigError("attn_only=True excludes d_mlp, gated_mlp and parallel_attn_mlp")
            return
        self._resolve("d_mlp", 4 * self.d_model)
        self._check_choice("act_fn", Activation)

    def _resolve_rotary(self) -> None:
        if self.positional_embedding_type != "rotary":
            if self.rotary_dim or self.rotary_scaling is not None:
                raise ConfigError("rotary_dim and rotary_scaling need positional_embedding_type='rotary'")
            return
        self._resolve("rotary_dim", self.d_head)
        if self.rotary_dim % 2 or self.rotary_dim > self.d_head:
            raise ConfigError(f"rotary_dim={self.rotary_dim} must be even and at most d_head={self.d_head}")
        if self.rotary_scaling is not None:
            self._set("rotary_scaling", MappingProxyType(dict(self.rotary_scaling)))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _resolve(self, field: str, default: float) -> None:
        """Fill an unset (zero or None) number with its default and refuse a negative one."""
        self._set(field, getattr(self, field) or default)
        self._check_positive(field)

    def _check_positive(self, field: str) -> None:
        if not getattr(self, field) > 0:
            raise ConfigError(f"{field} must be positive, got {getattr(self, field)!r}")

    def _check_choice(self, field: str, choices: Any, none_allowed: bool = False) -> None:
        value, known = getattr(self, field), get_args(choices)
        if value in known or (value is None and none_allowed):
            return
        listed = ", ".join(map(repr, (*known, None) if none_allowed else known))
        raise ConfigError(f"{field} must be one of {listed}, got {value!r}.{nearest(str(value), known)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HookedTransformerConfig":
        """Build from a mapping of field names; an unknown name is an error that suggests the nearest.

        Raises:
            ConfigError: a key that is no field.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"HookedTransformerConfig has no field {key!r}.{nearest(key, known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as a plain dict that `from_dict` accepts."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"rotary_scaling": None if self.rotary_scaling is None else dict(self.rotary_scaling)}

    def replace(self, **changes: Any) -> "HookedTransformerConfig":
        """A copy with some fields changed and everything checked again."""
        return dataclasses.replace(self, **changes)

    def __getstate__(self) -> dict[str, Any]:  # a MappingProxyType neither pickles nor deep-copies
        return self.to_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field, value in HookedTransformerConfig(**state).__dict__.items():
            self._set(field, value)

    @property
    def centres_residual(self) -> bool:
        """Whether every reader of the residual stream subtracts its mean, so that writers may be centred."""
        return self.normalization_type in ("LN", "LNPre")

    @property
    def norm_is_folded(self) -> bool:
        return self.normalization_type in ("LNPre", "RMSPre", None)

    def attn_scale_at(self, layer: int) -> float:
        """What the attention scores of `layer` are divided by."""
        return self.attn_scale * (layer + 1 if self.scale_attn_by_inverse_layer_idx else 1)


def as_dtype(dtype: "torch.dtype | str") -> torch.dtype:
    """'float32', 'bfloat16', ... or a torch.dtype, as a floating torch.dtype.

    Raises:
        ConfigError: not the name of a floating dtype.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype must be a floating torch dtype such as torch.float32 or 'bfloat16', got {dtype!r}")
    return found
