"""The architecture of what mixes tokens in place of attention, as one frozen value."""

from dataclasses import dataclass
from typing import Literal

from interp_hooks.errors import ConfigError
from interp_hooks.model.field_types import check_fields, make_tuples

MixerKind = Literal[
    "attention",
    "mixture_of_heads",
    "differential",
    "gated_delta",
    "kimi_delta",
    "gated_convolution",
    "mamba2",
    "mamba",
    "rg_lru",
    "lightning",
    "none",
]
OF_ATTENTION = ("attention", "mixture_of_heads", "differential")
"""These have as many heads, and as wide ones, as the config says of attention."""
PartNorm = Literal["RMS", "RMSPre"]
WITH_STATES = ("gated_delta", "kimi_delta", "mamba2", "mamba", "rg_lru", "lightning")
WITH_KEYS = ("gated_delta", "kimi_delta", "mamba2", "mamba", "lightning")
MixerNorms = Literal["pre", "output", "pre_and_output"]


@dataclass(frozen=True, kw_only=True)
class MixersConfig:
    """Which layers mix tokens by something else than attention, and the sizes of that.

        >>> mixers = MixersConfig(layers=("gated_delta", "attention"), n_heads=4, n_key_heads=2, d_key=6, d_value=8)
        >>> sizes = dict(n_layers=2, d_model=16, n_ctx=8, n_heads=2, d_vocab=50, act_fn="relu")
        >>> HookedTransformerConfig(**sizes, mixers=mixers).mixer_at(0)
        'gated_delta'

    `layers` names the mixer of each layer; those that are not "attention" have these sizes:

    "gated_delta" (Yang et al. 2024, arxiv.org/abs/2412.06464): `n_heads` heads with a state [d_key, d_value] each;
    `n_key_heads` heads of queries and keys (default: `n_heads`) serve as many heads each. `taps` is the length of the
    convolution before it, `beta_scale` the most that beta can be (2: eigenvalues of the state's update may be
    negative), `eps` that of the norm of what heads read.

    "kimi_delta" (Kimi Team 2025, arxiv.org/abs/2510.26692): as "gated_delta", with a decay for each dimension of the
    key; `gate_rank` is the width between the two matrices that decays and gates are made with.

    "gated_convolution" (Liquid AI 2025, arxiv.org/abs/2511.23404): as wide as the stream, without heads.

    "mamba2" (Dao and Gu 2024, arxiv.org/abs/2405.21060): as "gated_delta", with steps of at least `dt_min` and at
    most `dt_max` (0: any length); the norm is over `norm_groups` groups of channels (0: none), and comes before the
    gate with `norm_first`.

    "mamba" (Gu and Dao 2023, arxiv.org/abs/2312.00752): `d_value` channels with a state [d_key] each, without heads;
    `dt_rank` is the width between the two matrices that steps are made with, `part_norm` the kind of norm of keys,
    queries and steps, `eps` its.

    "rg_lru" (De et al. 2024, arxiv.org/abs/2402.19427): `n_heads` heads of `d_value` channels with a state of one
    number each.

    "lightning" (Qin et al. 2024, arxiv.org/abs/2401.04658): as "mamba2", with a fixed decay for each head,
    and without a convolution.

    "mixture_of_heads" (Zhang et al. 2022, arxiv.org/abs/2210.05144): attention, with the sizes that the config gives
    it, where every token passes `experts_per_token` of the heads that share keys, which a router chooses.

    "differential" (Ye et al. 2024, arxiv.org/abs/2410.05258): attention, with the sizes that the config gives it, where
    every head has two queries and two keys of half of `d_head`, and subtracts the second softmax from the first.

    `beside` is a recurrence that stands beside attention in every layer that has attention, and reads what attention
    reads; its sizes are these too. In "mamba2", `read_scales` multiply what gates, values, keys, queries and steps are
    read as (default: all 1), and `write_scale` z.

    "none": such a layer has an MLP alone. `mlps` says of each layer whether it has an MLP (default: all have one).

    `norm_placement` is that of the layers with such mixers, if it is another than the config's.
    """

    layers: tuple[MixerKind, ...]
    n_heads: int = 1
    n_key_heads: int = 0
    d_key: int = 0
    d_value: int = 0
    taps: int = 4
    beta_scale: float = 1.0
    eps: float = 1e-6
    gate_rank: int = 0
    dt_min: float = 0.0
    dt_max: float = 0.0
    norm_groups: int = 0
    norm_first: bool = False
    dt_rank: int = 0
    experts_per_token: int = 1
    part_norm: PartNorm | None = None
    mlps: tuple[bool, ...] = ()
    norm_placement: MixerNorms | None = None
    beside: MixerKind | None = None
    read_scales: tuple[float, ...] = ()
    write_scale: float = 1.0

    def __post_init__(self) -> None:
        make_tuples(self)
        check_fields(self)
        object.__setattr__(self, "n_key_heads", self.n_key_heads or self.n_heads)
        if len(self.mlps) not in (0, len(self.layers)):
            raise ConfigError(f"mixers.mlps must have {len(self.layers)} entries or none, got {len(self.mlps)}")
        if self.beside not in (None, *WITH_STATES):
            raise ConfigError(f"mixers.beside must be one of {', '.join(WITH_STATES)} or None, got {self.beside!r}")
        if len(self.read_scales) not in (0, 5):
            raise ConfigError(f"mixers.read_scales must have 5 entries or none, got {len(self.read_scales)}")
        scaled = self.read_scales or self.write_scale != 1
        if scaled and {*self.layers, self.beside} - {"attention", "none", None} != {"mamba2"}:
            raise ConfigError(
                "mixers.read_scales and mixers.write_scale are for models whose one other mixer is mamba2"
            )
        sized = ("n_heads", "d_value") if any(map(self.has, WITH_STATES)) else ()
        sized += ("d_key",) if any(map(self.has, WITH_KEYS)) else ()
        ranks = {"mamba": "dt_rank", "kimi_delta": "gate_rank"}
        for field in ("taps", "experts_per_token", *sized, *(rank for kind, rank in ranks.items() if self.has(kind))):
            if getattr(self, field) < 1:
                raise ConfigError(f"mixers.{field} must be positive, got {getattr(self, field)}")
        if 0 < self.dt_max <= self.dt_min:
            raise ConfigError(f"mixers.dt_max must be above dt_min={self.dt_min} or 0 (none), got {self.dt_max}")
        if self.norm_groups and (self.n_heads * self.d_value) % self.norm_groups:
            raise ConfigError(
                f"mixers.norm_groups={self.norm_groups} does not divide the {self.n_heads * self.d_value} channels "
                "that heads write from"
            )
        if self.n_heads % self.n_key_heads:
            raise ConfigError(
                f"mixers.n_key_heads={self.n_key_heads} does not divide mixers.n_heads={self.n_heads}: every head of "
                "queries and keys serves the same number of heads"
            )

    def has(self, kind: str) -> bool:
        """Whether some layer has a mixer of this kind, in place of attention or beside it."""
        return kind in self.layers or kind == self.beside

    @property
    def channels(self) -> int:
        """How many channels pass the convolution: those of queries, keys and values, or of values alone."""
        if self.has("mamba"):
            return self.d_value
        if self.has("rg_lru"):
            return self.n_heads * self.d_value
        return 2 * self.n_key_heads * self.d_key + self.n_heads * self.d_value

    def writes(self, kind: MixerKind, d_model: int) -> tuple[int, int]:
        """How many heads of such a mixer write, and how wide what each of them writes from is."""
        if kind in ("gated_convolution", "none"):
            return (1, d_model) if kind == "gated_convolution" else (0, 1)
        return 1 if kind == "mamba" else self.n_heads, self.d_value

    def n_weights(self, kind: MixerKind, d_model: int) -> int:
        """How many weights such a mixer has, without biases and gains."""
        if kind == "none":
            return 0
        if kind == "gated_convolution":
            return 4 * d_model**2 + self.taps * d_model
        if kind == "mamba":
            return self.d_value * (3 * d_model + 2 * self.dt_rank + 3 * self.d_key + self.taps)
        if kind == "rg_lru":
            return self.channels * (3 * d_model + 2 * self.d_value + self.taps)
        if kind == "lightning":
            return d_model * (self.channels + 2 * self.n_heads * self.d_value)
        if kind == "kimi_delta":
            inner = self.gate_rank * (2 * d_model + self.n_heads * (self.d_key + self.d_value))
            return d_model * (self.channels + self.n_heads * (self.d_value + 1)) + inner + self.taps * self.channels
        values, gates = self.n_heads * self.d_value, self.n_heads * (2 if kind == "gated_delta" else 1)
        return d_model * (self.channels + 2 * values + gates) + self.taps * self.channels
