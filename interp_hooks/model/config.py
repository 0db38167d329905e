"""What a transformer is, as one frozen value.

Every quirk of a published architecture is a field here, so that no other module needs to know which checkpoint a model
came from. The constructor resolves and checks everything once (`n_key_value_heads`, `d_mlp`, `rotary_dim` ... are
always numbers afterwards); nothing changes it later. Sizes are counts; `rotary_base` is what others call theta.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

import torch

from interp_hooks.errors import ConfigError, nearest
from interp_hooks.errors.arguments import misfit
from interp_hooks.model.experts_config import ExpertsConfig
from interp_hooks.model.field_names import KNOWN, in_our_words
from interp_hooks.model.field_types import check_fields, kinds_of, make_tuples
from interp_hooks.model.indexer_config import IndexerConfig
from interp_hooks.model.mixers_config import OF_ATTENTION, MixerKind, MixersConfig

NormalizationType = Literal["LN", "LNPre", "RMS", "RMSPre"]
NormPlacement = Literal["pre", "output", "pre_and_output", "post"]
QKNorm = Literal["shared", "per_head", "all_heads"]
PositionalEmbeddingType = Literal["standard", "shortformer", "sinusoidal", "rotary", "alibi", "none"]
AttentionDirection = Literal["causal", "bidirectional"]
Elementwise = Literal[
    "relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2", "tanh"
]
Activation = Literal[Elementwise, "xielu", "solu", "solu_ln", "gelu_ln"]
InitMode = Literal["gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "muP"]

RESOLVED = (  # -1 and None are how people leave these unset
    *("d_head", "n_heads", "n_key_value_heads", "d_mlp", "d_vocab_out", "rotary_dim", "attn_scale"),
    *("attn_scores_soft_cap", "output_logits_soft_cap", "initializer_range"),
)
BY_LAYER = (  # tuples with an entry for each layer, or none
    *("rotary_layers", "window_sizes", "qk_norm_layers", "stream_scales"),
    *("d_head_layers", "n_key_value_heads_layers", "values_from_keys", "keys_values_from", "d_mlp_layers"),
    *("attn_sink_layers", "mlp_sparsity_layers"),
)
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")  # methods of a model set these
FOLDED = {"LN": "LNPre", "RMS": "RMSPre", "LNPre": "LNPre", "RMSPre": "RMSPre"}
NEEDED = ("n_layers", "d_model", "n_ctx")
C = TypeVar("C")


def _named_as_elsewhere(cls: type[C]) -> type[C]:
    """Let a config be made with TransformerLens' names of its fields too, and say what to do in place of assigning."""
    init: Callable[..., None] = cls.__init__
    known = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]

    @functools.wraps(init)
    def __init__(self: C, **fields: Any) -> None:
        for name in fields:
            if name not in known and name not in KNOWN:
                raise ConfigError(f"HookedTransformerConfig has no field {name!r}.{nearest(name, {*known, *KNOWN})}")
        fields = in_our_words(fields)
        if missing := [name for name in NEEDED if name not in fields]:
            raise ConfigError(f"a config needs n_layers, d_model and n_ctx; got none for {', '.join(missing)}")
        init(self, **fields)

    def __setattr__(self: C, name: str, value: Any) -> None:
        way = f"model.set_{name}({value!r})" if name in SWITCHES else f"cfg.replace({name}=...), and a model of that"
        raise dataclasses.FrozenInstanceError(
            f"cannot assign to field {name!r} of a config, which is a value: use {way}; or, for code that "
            "assigns, call interp_hooks.compat.install() first"
        )

    setattr(cls, "__init__", __init__)  # noqa: B010
    setattr(cls, "__setattr__", __setattr__)  # noqa: B010
    return cls


@_named_as_elsewhere
@dataclass(frozen=True, kw_only=True)
class HookedTransformerConfig:
    """The architecture of a `HookedTransformer`, as a frozen value.

        >>> cfg = HookedTransformerConfig(n_layers=2, d_model=64, n_ctx=32, n_heads=4, d_vocab=100, act_fn="gelu")
        >>> cfg.d_head, cfg.replace(n_layers=3).n_layers
        (16, 3)

    Norms. `normalization_type`: "LN" and "RMS" have a gain (and LN a bias); "LNPre" and "RMSPre" have neither, or had
    them folded into the next weights; None is no normalization. `norm_gain_offset` is added to every gain.
    `norm_placement` says what is normalized: what a sublayer reads ("pre"), what it writes ("output"), both
    ("pre_and_output"), or the stream after each addition ("post"). `output_norm_type` is the kind of norm on what is
    written. `embed_norm_type` normalizes the embeddings (None: not; with `embed_norm_eps`, if it is another than
    `eps`), `final_norm` what the unembedding reads (by an RMSNorm if `final_rms`, where the others are LayerNorms), and
    `first_attn_norm` what attention in layer 0 reads, where norms are before what reads. `qk_norm` normalizes queries
    and keys: each head with one gain for all heads ("shared") or with its own ("per_head"), or all heads together
    ("all_heads"); in all layers, or where `qk_norm_layers` says so. `v_norm_type` is the kind of norm of each head's
    values. `stream_scales` are for models that multiply the stream itself by a number after each layer: here it stays a
    sum, since what enters a layer is theirs divided by `stream_scale_at(layer)`, as what the layer writes is, and norms
    that read it have eps to match.

    Positions. "shortformer" adds learned positions to what queries and keys read, after the norm, instead of to the
    stream (Press et al. 2021, arxiv.org/abs/2012.15832). `rotary_scaling` is a HuggingFace `rope_parameters` mapping
    plus `max_position_embeddings`; None means unscaled frequencies. `rotary_layers` gives such a mapping, or None for
    no rotation, for every layer instead. `alibi_slopes` are per head, subtracted per token of distance. The slowest of
    the fixed "sinusoidal" positions has 1/10000 of the first's frequency if `sinusoids_to_end`, else the one before
    that in the series. `positions_offset` is the number of rows of `W_pos` before that of position 0. `window_sizes` is
    the number of tokens that a query sees in each layer, itself included (None: all), on each side if both are seen.

    Attention. `n_key_value_heads` below `n_heads` is grouped query attention. `attn_scale` divides the scores (default:
    the square root of `d_head`, or 1 without `use_attn_scale`); `attn_log_scale=(beta, n)` multiplies queries by
    1 + beta log(1 + floor(position / n)). `qkv_clip` bounds values, and queries and keys (after `qk_norm`, if there is
    one). `attn_sinks` adds a learned score per head to every softmax, which attends to nothing (in all
    layers, or where `attn_sink_layers` says so). `value_scale` multiplies values. `gated_attn` multiplies
    what heads mix by a sigmoid of what their queries read. `d_value` is the width of values (default: `d_head`);
    `kv_latent` and `q_latent` are those of the low-rank streams of latent attention, in which an `indexer` may choose
    the keys that each query sees. `d_head_layers` and
    `n_key_value_heads_layers` give each layer sizes of its own; heads of other widths rotate whole. In the layers that
    `values_from_keys` marks, values are keys before their norm and rotation; `keys_values_from` names for each layer an
    earlier one whose keys and values it attends to (None: its own). `mixers` puts something else in the place of
    attention in some layers.

    MLP. `d_mlp_layers` gives the MLP of each layer a width of its own. `mlp_sparsity_layers` is for each layer the
    share of neurons whose gates are cut off, were they normally distributed: of each gate is taken what it is above
    that quantile (0: no cut). An `act_fn` that ends in "_ln" is followed by a LayerNorm over the neurons. `mlp_clamp`
    bounds both factors of a gated MLP, `mlp_linear_offset` is added to the linear one, `mlp_gate_scale` multiplies its
    gates before the activation, and `mlp_out_scale` its neurons. `experts` replaces the MLP of some layers.
    `embed_scale`, `residual_scale` (of what every sublayer writes) and `logits_scale` are multipliers. A soft cap c
    turns x into c tanh(x / c); 0 is none. `d_layer_embed` is the width of embeddings that each layer has for itself
    (`interp_hooks.model.components.layer_embed`; 0: none); tokens from `d_vocab_layer_embed` on (0: `d_vocab`) have
    that of token 0. `n_streams` above 1 is for models that carry several streams, which are mixed after each layer and
    of which layers read and write the first (`interp_hooks.model.components.altup`); `laurel_rank` is the rank of the
    map beside attention in such models (0: none). `mlm_head` puts a dense layer, activation and norm before
    the unembedding. `d_embed` is the width of the vectors of tokens, positions and token types, where it is not that of
    the stream, onto which a linear map takes them after their norm; `d_unembed` that of what the `mlm_head` writes and
    the unembedding reads (0: d_model; Lan et al. 2019, arxiv.org/abs/1909.11942).

    Starting. `init_mode` and `initializer_range` are explained in `interp_hooks.model.initialization`; without
    `init_weights` weights hold whatever was in memory. `d_vocab` may be left to the tokenizer that the model is given,
    or that `tokenizer_name` names; with 0 a model reads and leaves streams alone. `tokenizer_prepends_bos` is found out
    from the tokenizer. `use_hook_tokens` adds a hook point on token ids; the other `use_` flags of hooks say what a
    caching run without a filter collects. `generate` stops at any of `eos_token_ids` (default: at the tokenizer's EOS).
    `device=None` is the GPU if there is one. For numbers whose default depends on other fields, -1, None and 0 mean
    unset.

    Fields that TransformerLens has under other names (`use_local_attn`, `post_embedding_ln`, ...) are taken too and
    translated; `interp_hooks.model.field_names` is the table.

    Raises:
        ConfigError: a size that does not fit the others, an unknown field or choice, or one that is not implemented.
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_vocab: int = -1
    d_head: int = 0
    n_heads: int = 0
    n_key_value_heads: int = 0
    d_mlp: int = 0
    d_vocab_out: int = 0
    act_fn: Activation | None = None
    normalization_type: NormalizationType | None = "LN"
    eps: float = 1e-5
    norm_gain_offset: float = 0.0
    norm_placement: NormPlacement = "pre"
    final_norm: bool = True
    final_rms: bool = False
    first_attn_norm: bool = True
    output_norm_type: NormalizationType | None = None
    embed_norm_type: NormalizationType | None = None
    embed_norm_eps: float = 0.0
    qk_norm: QKNorm | None = None
    qk_norm_type: NormalizationType | None = None
    qk_norm_after_rotary: bool = False
    qk_norm_layers: tuple[bool, ...] = ()
    v_norm_type: NormalizationType | None = None
    stream_scales: tuple[float, ...] = ()
    positional_embedding_type: PositionalEmbeddingType = "standard"
    positions_offset: int = 0
    sinusoids_to_end: bool = True
    n_token_types: int = 0
    d_embed: int = 0
    d_unembed: int = 0
    rotary_dim: int = 0
    rotary_base: float = 10000.0
    rotary_adjacent_pairs: bool = False
    rotary_reversed: bool = False
    rotary_scaling: Mapping[str, Any] | None = None
    rotary_layers: tuple[Mapping[str, Any] | None, ...] = ()
    alibi_slopes: tuple[float, ...] = ()
    window_sizes: tuple[int | None, ...] = ()
    attention_dir: AttentionDirection = "causal"
    use_attn_scale: bool = True
    attn_scale: float = 0.0
    scale_attn_by_inverse_layer_idx: bool = False
    attn_log_scale: tuple[float, int] | None = None
    attn_scores_soft_cap: float = 0.0
    attn_sinks: bool = False
    attn_sink_layers: tuple[bool, ...] = ()
    value_scale: float = 1.0
    gated_attn: bool = False
    qkv_clip: float = 0.0
    d_value: int = 0
    kv_latent: int = 0
    q_latent: int = 0
    d_head_layers: tuple[int, ...] = ()
    n_key_value_heads_layers: tuple[int, ...] = ()
    values_from_keys: tuple[bool, ...] = ()
    keys_values_from: tuple[int | None, ...] = ()
    latent_eps: float = 1e-6
    indexer: IndexerConfig | None = None
    mixers: MixersConfig | None = None
    attn_only: bool = False
    parallel_attn_mlp: bool = False
    parallel_shared_norm: bool = False
    gated_mlp: bool = False
    d_mlp_layers: tuple[int, ...] = ()
    mlp_sparsity_layers: tuple[float, ...] = ()
    mlp_clamp: float = 0.0
    mlp_linear_offset: float = 0.0
    mlp_gate_scale: float = 1.0
    mlp_out_scale: float = 1.0
    experts: ExpertsConfig | None = None
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    output_logits_soft_cap: float = 0.0
    d_layer_embed: int = 0
    d_vocab_layer_embed: int = 0
    n_streams: int = 1
    laurel_rank: int = 0
    mlm_head: bool = False
    default_prepend_bos: bool = True
    init_weights: bool = True
    init_mode: InitMode = "gpt2"
    initializer_range: float = 0.0
    seed: int | None = None
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False
    use_hook_tokens: bool = False
    tokenizer_name: str | None = None
    tokenizer_prepends_bos: bool | None = None
    model_name: str = "custom"
    original_architecture: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: torch.dtype | str = torch.float32
    device: torch.device | str | None = "cpu"

    def __post_init__(self) -> None:
        for field in RESOLVED:
            value = getattr(self, field)
            if value is None or (isinstance(value, Real) and value == -1):
                self._set(field, 0)
        make_tuples(self)
        check_fields(self)
        for field in NEEDED:
            self._check_positive(field)
        if self.mixers is not None and len(self.mixers.layers) != self.n_layers:
            raise ConfigError(f"mixers.layers must have {self.n_layers} entries, got {len(self.mixers.layers)}")
        if self.d_vocab not in (-1, 0):
            self._check_positive("d_vocab")
            self._resolve("d_vocab_out", self.d_vocab)
        self._resolve_heads()
        self._resolve("attn_scale", self.d_head**0.5 if self.use_attn_scale else 1.0)
        if not self.use_attn_scale and self.attn_scale != 1:
            raise ConfigError(f"use_attn_scale=False contradicts attn_scale={self.attn_scale}")
        self._resolve("d_value", self.d_head)
        self._set("final_rms", self.final_rms and self.normalization_type in ("LN", "LNPre"))
        if self.writes_normalized and self.output_norm_type is None:
            self._set("output_norm_type", self.normalization_type)
        if (self.qk_norm is None) != (self.qk_norm_type is None):
            raise ConfigError(f"qk_norm={self.qk_norm!r} needs a qk_norm_type, and the other way round")
        self._resolve_mlp()
        self._resolve_rotary()
        self._resolve_layers()
        self._check_arrangement()
        self._resolve("initializer_range", 0.8 / self.d_model**0.5 if self.init_mode == "gpt2" else 1.0)
        self._set("dtype", as_dtype(self.dtype))
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self._set("device", _as_device(found if self.device is None else self.device))

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
        if self.kv_latent and self.n_key_value_heads != self.n_heads:
            raise ConfigError("latent attention (kv_latent) has as many key/value heads as query heads")
        if self.n_heads % self.n_key_value_heads:
            raise ConfigError(
                f"n_key_value_heads={self.n_key_value_heads} does not divide n_heads={self.n_heads}: "
                "every key/value head serves the same number of query heads"
            )

    def _resolve_mlp(self) -> None:
        if self.attn_only:
            if self.d_mlp or self.gated_mlp or self.parallel_attn_mlp or self.experts:
                raise ConfigError("attn_only=True excludes d_mlp, gated_mlp, parallel_attn_mlp and experts")
            return
        self._resolve("d_mlp", 4 * self.d_model)
        if self.act_fn not in get_args(Activation):
            raise ConfigError(misfit("act_fn", self.act_fn, Activation))
        if self.normalizes_neurons and (self.gated_mlp or self.experts or self.mlm_head):
            raise ConfigError(f"act_fn={self.act_fn!r} is for plain MLPs: no gated_mlp, no experts, no mlm_head")

    def _resolve_rotary(self) -> None:
        if self.positional_embedding_type != "rotary":
            if self.rotary_dim or self.rotary_scaling is not None or self.rotary_layers:
                raise ConfigError(
                    "rotary_dim, rotary_scaling and rotary_layers need positional_embedding_type='rotary'"
                )
            return
        self._resolve("rotary_dim", self.d_head)
        if self.rotary_dim % 2 or self.rotary_dim > self.d_head:
            raise ConfigError(f"rotary_dim={self.rotary_dim} must be even and at most d_head={self.d_head}")
        if self.rotary_scaling is not None:
            self._set("rotary_scaling", MappingProxyType(dict(self.rotary_scaling)))

    def _resolve_layers(self) -> None:
        """Turn what is given per layer or head into tuples, and check their lengths."""
        if self.rotary_layers:
            frozen = (None if rope is None else MappingProxyType(dict(rope)) for rope in self.rotary_layers)
            self._set("rotary_layers", tuple(frozen))
        if self.positional_embedding_type == "alibi" and not self.alibi_slopes:
            raise ConfigError("positional_embedding_type='alibi' needs alibi_slopes, one for each head")
        lengths = {**dict.fromkeys(BY_LAYER, self.n_layers), "alibi_slopes": self.n_heads}
        for field, length in lengths.items():
            if len(getattr(self, field)) not in (0, length):
                raise ConfigError(f"{field} must have {length} entries, got {len(getattr(self, field))}")
        if self.experts is not None and len(self.experts.layers) != self.n_layers:
            raise ConfigError(f"experts.layers must have {self.n_layers} entries, got {len(self.experts.layers)}")
        for size in self.window_sizes:
            if size is not None and size < 1:
                raise ConfigError(f"window_sizes must be positive or None, got {size}")
        for field in ("d_head_layers", "n_key_value_heads_layers", "d_mlp_layers", "stream_scales"):
            if wrong := [size for size in getattr(self, field) if size <= 0]:
                raise ConfigError(f"{field} must be positive, got {wrong[0]}")
        if wrong := [share for share in self.mlp_sparsity_layers if share >= 1]:
            raise ConfigError(f"mlp_sparsity_layers must be below 1, got {wrong[0]}")
        if wrong := [groups for groups in self.n_key_value_heads_layers if self.n_heads % groups]:
            raise ConfigError(f"n_key_value_heads_layers: {wrong[0]} does not divide n_heads={self.n_heads}")

    def _check_arrangement(self) -> None:
        """Refuse combinations of norms, positions and blocks that are not implemented."""
        if self.parallel_shared_norm and not self.parallel_attn_mlp:
            raise ConfigError("parallel_shared_norm needs parallel_attn_mlp")
        if not self.first_attn_norm and (self.parallel_shared_norm or not self.reads_normalized_at(0)):
            raise ConfigError("first_attn_norm=False is for norms before attention that are not the MLP's too")
        if self.norm_placement == "post":
            if self.parallel_attn_mlp or self.attn_only:
                raise ConfigError("norm_placement='post' needs serial blocks with an MLP")
            self._set("final_norm", False)
        if self.positional_embedding_type == "shortformer" and (self.kv_latent or self.mixers):
            raise ConfigError(
                "latent attention (kv_latent) and other mixers have one input for queries, keys and values: "
                "no shortformer"
            )
        if self.d_embed and (
            self.embed_norm_type is None or self.positional_embedding_type not in ("standard", "none")
        ):
            raise ConfigError("d_embed needs an embed_norm_type, and positions that are learned or none")
        if self.d_unembed and not self.mlm_head:
            raise ConfigError("d_unembed needs an mlm_head, which writes what the unembedding reads")
        for layer, source in enumerate(self.keys_values_from):
            if source is not None and not (0 <= source < layer and self._lends(source, layer)):
                raise ConfigError(
                    f"keys_values_from: layer {layer} cannot use the keys and values of {source}, which must be an "
                    "earlier layer with attention of its own, and heads of the same number and width"
                )
        if self.d_layer_embed and (
            self.norm_placement == "post" or self.attn_only or self.parallel_attn_mlp or str(self.act_fn) == "xielu"
        ):
            raise ConfigError("d_layer_embed needs serial blocks with an MLP, whose stream is not normalized itself")
        if self.experts is not None and self.experts.own_norms:
            if self.parallel_attn_mlp or self.norm_placement == "post":
                raise ConfigError("experts with own_norms need serial blocks whose stream is not normalized itself")
            if self.experts.shared_gate:
                raise ConfigError("experts with own_norms have no shared_gate")
        if self.n_streams > 1 and (
            self.norm_placement == "post"
            or self.attn_only
            or self.parallel_attn_mlp
            or self.positional_embedding_type == "shortformer"
            or self.stream_scales
        ):
            raise ConfigError(
                "n_streams above 1 needs serial blocks with an MLP, whose stream is not normalized or multiplied "
                "itself, and no shortformer"
            )
        if self.laurel_rank and self.n_streams == 1:
            raise ConfigError("laurel_rank is for models with several streams: it needs n_streams above 1")
        if self.d_vocab_layer_embed > (self.d_vocab if self.d_layer_embed else 0):
            raise ConfigError(
                f"d_vocab_layer_embed={self.d_vocab_layer_embed} needs d_layer_embed, and at least as many tokens in "
                f"d_vocab, got {self.d_vocab}"
            )
        if any(self.mlp_sparsity_layers) and not self.gated_mlp:
            raise ConfigError("mlp_sparsity_layers cuts off gates: it needs gated_mlp")
        begins = self.adds_positions or self.n_token_types or self.embed_norm_type is not None
        if begins and (self.d_layer_embed or self.n_streams > 1):
            raise ConfigError(
                "d_layer_embed and n_streams above 1 need a stream that begins as embeddings of tokens alone: no "
                "positions or token types that are added to it, and no embed_norm_type"
            )
        by_layer = any(source is not None for source in self.keys_values_from)
        by_layer = by_layer or self.d_head_layers or self.n_key_value_heads_layers or any(self.values_from_keys)
        if self.kv_latent and (by_layer or self.v_norm_type):
            raise ConfigError(
                "latent attention (kv_latent) has heads of one size, and values of their own without a norm: no "
                "d_head_layers, n_key_value_heads_layers, values_from_keys, keys_values_from or v_norm_type"
            )
        if self.d_head_layers and (self.d_value != self.d_head or self.rotary_dim not in (0, self.d_head)):
            raise ConfigError("d_head_layers needs values as wide as keys, and heads that rotate whole")
        if any(size % 2 for size in self.d_head_layers) and self.positional_embedding_type == "rotary":
            raise ConfigError(f"d_head_layers must be even where heads rotate, got {self.d_head_layers}")
        if any(self.values_from_keys) and self.d_value != self.d_head:
            raise ConfigError(f"values_from_keys needs d_value={self.d_value} to be d_head={self.d_head}")
        reads_normalized = all(map(self.reads_normalized_at, range(self.n_layers))) and self.first_attn_norm
        if self.stream_scales and not (reads_normalized and self.final_norm and self.normalization_type):
            raise ConfigError("stream_scales needs a norm before everything that reads the stream")
        if self.gated_attn and self.kv_latent:
            raise ConfigError("latent attention (kv_latent) has no gates (gated_attn)")
        if self.kv_latent and self.value_scale != 1:
            raise ConfigError("latent attention (kv_latent) has no value_scale")
        self._check_indexer()
        if not self.gated_mlp and (self.mlp_gate_scale, self.mlp_out_scale) != (1.0, 1.0):
            raise ConfigError("mlp_gate_scale and mlp_out_scale need gated_mlp")
        if self.mixers is not None and self.mixers.beside and (self.kv_latent or self.norm_placement != "pre"):
            raise ConfigError(
                "a recurrence beside attention (mixers.beside) needs norm_placement='pre', and attention without "
                "latents"
            )
        if self.mixers is not None and self.attention_dir != "causal":
            raise ConfigError("mixers other than attention need a causal model")
        if self.mixers is not None:
            self._check_attention_by_another_name(self.mixers)
        if self.mixers is not None and self.norm_placement == "post" and (self.mixers.mlps or self.mixers.has("none")):
            raise ConfigError("layers without attention or MLP need a model whose stream is not normalized itself")

    def _check_attention_by_another_name(self, mixers: MixersConfig) -> None:
        """Refuse mixers that are attention of a kind of its own and cannot be it in this model."""
        kinds = {*mixers.layers} & {*OF_ATTENTION} - {"attention"}
        if kinds and (self.kv_latent or any(self.values_from_keys)):
            raise ConfigError(
                f"{', '.join(sorted(kinds))} needs keys and values of its own: no kv_latent, no values_from_keys"
            )
        groups = min(self.kv_heads_at(layer) for layer in range(self.n_layers))
        if mixers.has("mixture_of_heads") and mixers.experts_per_token > self.n_heads // groups:
            raise ConfigError(
                f"mixers.experts_per_token={mixers.experts_per_token} is more than the {self.n_heads // groups} heads "
                "that share keys (n_heads / n_key_value_heads)"
            )
        halves = {size // 2 for size in (self.d_head, *self.d_head_layers)}
        if mixers.has("differential") and (
            self.attn_sinks or self.alibi_slopes or self.rotary_dim > min(halves) or self.d_head % 2
        ):
            raise ConfigError(
                f"differential attention has two queries of half of d_head={self.d_head} for every head, of which "
                f"rotary_dim={self.rotary_dim} must be no more, and no attn_sinks and no alibi_slopes"
            )

    def _check_indexer(self) -> None:
        """Refuse an indexer that does not fit the attention whose keys it chooses."""
        if (indexer := self.indexer) is None:
            return
        if not (self.kv_latent and self.q_latent) or self.attention_dir != "causal" or self.mixers is not None:
            raise ConfigError(
                "an indexer needs causal latent attention in all layers, with a latent of queries (q_latent)"
            )
        if len(indexer.layers) != self.n_layers:
            raise ConfigError(f"indexer.layers must have {self.n_layers} entries, got {len(indexer.layers)}")
        if self.positional_embedding_type != "rotary" or None in self.rotary_layers or self.rotary_dim > indexer.d_head:
            raise ConfigError(
                f"an indexer rotates rotary_dim={self.rotary_dim} of its indexer.d_head={indexer.d_head} dimensions: "
                "it needs as many, in layers that all rotate"
            )
        if any(size is not None for size in self.window_sizes):
            raise ConfigError("an indexer chooses among all earlier keys: no window_sizes")

    def _lends(self, source: int, layer: int) -> bool:
        """Whether `layer` can use the keys and values of `source`."""
        attend = self.mixer_at(source) == self.mixer_at(layer) == "attention"
        own = self.keys_values_from[source] is None
        alike = all(size(source) == size(layer) for size in (self.d_head_at, self.kv_heads_at))
        return attend and own and alike and (self.rotary_at(source) is None) == (self.rotary_at(layer) is None)

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _resolve(self, field: str, default: float) -> None:
        """Fill an unset (zero or None) number with its default and refuse a negative one."""
        self._set(field, getattr(self, field) or default)
        self._check_positive(field)

    def _check_positive(self, field: str) -> None:
        if not getattr(self, field) > 0:
            raise ConfigError(f"{field} must be positive, got {getattr(self, field)!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HookedTransformerConfig":
        """A config from a mapping of field names to values, in which lists may stand for tuples.

        Raises:
            ConfigError: as the constructor.
        """
        values = _with_tuples(values)  # a list may be what a file made of a tuple
        for name, group in GROUPS.items():
            if isinstance(found := values.get(name), Mapping):
                values[name] = _group(name, group, found)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, which `json.dumps` and `from_dict` accept; dtype and device are their names."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        thawed = {
            "rotary_scaling": None if self.rotary_scaling is None else dict(self.rotary_scaling),
            "rotary_layers": tuple(None if rope is None else dict(rope) for rope in self.rotary_layers),
            **{name: None if (group := getattr(self, name)) is None else dataclasses.asdict(group) for name in GROUPS},
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }
        return values | thawed

    def replace(self, **changes: Any) -> "HookedTransformerConfig":
        """A copy with some fields changed and everything checked again."""
        return dataclasses.replace(self, **changes)

    def __getstate__(self) -> dict[str, Any]:  # a MappingProxyType neither pickles nor deep-copies
        return self.to_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field, value in HookedTransformerConfig.from_dict(state).__dict__.items():
            self._set(field, value)

    @property
    def final_norm_type(self) -> NormalizationType | None:
        """The kind of the norm that the unembedding reads through."""
        if self.final_rms and self.final_norm:
            return "RMS" if self.normalization_type == "LN" else "RMSPre"
        return self.normalization_type if self.final_norm else None

    @property
    def centres_residual(self) -> bool:
        """Whether every reader of the residual stream subtracts its mean, so that writers may be centred."""
        placed = all(self.norm_placement_at(layer) == "pre" for layer in range(self.n_layers))
        everywhere = placed and self.final_norm and not self.final_rms and self.first_attn_norm
        return self.normalization_type in ("LN", "LNPre") and everywhere

    def norm_placement_at(self, layer: int) -> NormPlacement:
        """What is normalized in `layer`."""
        if self.mixers is None or self.mixer_at(layer) == "attention":
            return self.norm_placement
        return self.mixers.norm_placement or self.norm_placement

    def reads_normalized_at(self, layer: int) -> bool:
        """Whether attention and MLP of `layer` read the stream through a norm (otherwise they read it as it is)."""
        return self.norm_placement_at(layer) in ("pre", "pre_and_output")

    def writes_normalized_at(self, layer: int) -> bool:
        """Whether what attention and MLP of `layer` write is normalized before it is added to the stream."""
        return self.norm_placement_at(layer) in ("output", "pre_and_output")

    @property
    def writes_normalized(self) -> bool:
        """Whether what attention and MLP write is normalized before it is added to the stream, in some layer."""
        return any(map(self.writes_normalized_at, range(self.n_layers)))

    @property
    def norm_is_folded(self) -> bool:
        """Whether norms have no gain: it was folded into the next weights, or there are no norms."""
        return self.normalization_type in ("LNPre", "RMSPre", None)

    @property
    def adds_positions(self) -> bool:
        """Whether positions are a part of the stream, as `hook_pos_embed` shows it."""
        return self.positional_embedding_type in ("standard", "sinusoidal")

    @property
    def normalizes_neurons(self) -> bool:
        """Whether a LayerNorm follows the activation function."""
        return str(self.act_fn).endswith("_ln")

    @property
    def n_params(self) -> int:
        """How many weights attention and MLPs have, without embeddings, biases, gains (arxiv.org/abs/2001.08361)."""
        beside = 2 * self.n_layers * self.d_model * (self.d_layer_embed + self.laurel_rank)
        return beside + sum(self._mixer_weights(layer) + self._mlp_weights(layer) for layer in range(self.n_layers))

    def _mixer_weights(self, layer: int) -> int:
        kind = self.beside_attention(layer)
        beside = 0 if self.mixers is None or kind is None else self.mixers.n_weights(kind, self.d_model)
        return beside + self._own_mixer_weights(layer)

    def _own_mixer_weights(self, layer: int) -> int:
        kind = self.mixer_at(layer)
        if self.mixers is not None and kind not in OF_ATTENTION:
            return self.mixers.n_weights(kind, self.d_model)
        heads, groups, read, d_value = self.n_heads, self.kv_heads_at(layer), self.d_model, self.d_value_at(layer)
        if not self.kv_latent:
            d_head, values = self.d_head_at(layer), groups * d_value
            own = self.source_of_keys(layer) is None
            tied = bool(self.values_from_keys) and self.values_from_keys[layer]
            keys = groups * d_head + (0 if tied else values) if own else 0
            router = heads // groups if kind == "mixture_of_heads" else 0
            beyond = read * router + (2 * d_head if kind == "differential" else 0)
            return read * (heads * (d_head + d_value) + keys + self.gated_attn * heads * d_value) + beyond
        queries = read * self.q_latent + self.q_latent * heads * self.d_head or read * heads * self.d_head
        latent = read * (self.kv_latent + self.rotary_dim)
        if self.indexer is not None and self.indexer.layers[layer]:
            latent += self.indexer.n_weights(read, self.q_latent)
        return queries + latent + heads * (self.kv_latent * (self.d_head - self.rotary_dim + d_value) + d_value * read)

    def _mlp_weights(self, layer: int) -> int:
        matrices, experts = 2 + self.gated_mlp, self.experts
        if not self.has_mlp(layer):
            return 0
        if experts is None or not self.has_experts(layer):
            return matrices * self.d_model * self.d_mlp_at(layer)
        width = experts.n_experts * experts.d_expert + experts.d_shared
        return self.d_model * (matrices * width + experts.n_experts + experts.shared_gate)

    @property
    def maps_embeddings(self) -> bool:
        """Whether the embeddings pass something together before they enter the first layer, so that it reads no sum."""
        return self.embed_norm_type is not None or self.n_streams > 1

    def rotary_at(self, layer: int) -> Mapping[str, Any] | None:
        """The `rope_parameters` of a layer, or None if it does not rotate."""
        if self.positional_embedding_type != "rotary":
            return None
        if self.rotary_layers:
            rope = self.rotary_layers[layer]
        else:
            rope = self.rotary_scaling or MappingProxyType({"rope_type": "default", "rope_theta": self.rotary_base})
        if rope is None or not self.d_head_layers:
            return rope
        return MappingProxyType({**rope, "head_dim": self.d_head_at(layer)})

    @property
    def rotary_kinds(self) -> tuple[Mapping[str, Any], ...]:
        """The different `rope_parameters` of all layers."""
        kinds: list[Mapping[str, Any]] = []
        for layer in range(self.n_layers):
            rope = self.rotary_at(layer)
            if rope is not None and rope not in kinds:
                kinds.append(rope)
        return tuple(kinds)

    def normalizes_qk(self, layer: int) -> bool:
        """Whether queries and keys of `layer` are normalized."""
        return self.qk_norm is not None and (not self.qk_norm_layers or self.qk_norm_layers[layer])

    def d_head_at(self, layer: int) -> int:
        """The width of queries and keys of `layer`."""
        return self.d_head_layers[layer] if self.d_head_layers else self.d_head

    def d_value_at(self, layer: int) -> int:
        """The width of values of `layer`."""
        return self.d_head_layers[layer] if self.d_head_layers else self.d_value

    def kv_heads_at(self, layer: int) -> int:
        """How many heads of keys and values the attention of `layer` has."""
        return self.n_key_value_heads_layers[layer] if self.n_key_value_heads_layers else self.n_key_value_heads

    def d_mlp_at(self, layer: int) -> int:
        """How many neurons the MLP of `layer` has."""
        return self.d_mlp_layers[layer] if self.d_mlp_layers else self.d_mlp

    def mlp_sparsity_at(self, layer: int) -> float:
        """The share of neurons whose gates the MLP of `layer` cuts off; 0 for none."""
        return self.mlp_sparsity_layers[layer] if self.mlp_sparsity_layers else 0.0

    def source_of_keys(self, layer: int) -> int | None:
        """The earlier layer whose keys and values `layer` attends to; None if it makes its own."""
        return self.keys_values_from[layer] if self.keys_values_from else None

    def lender_of(self, layer: int) -> int | None:
        """The earlier layer whose keys and values, or whose choice of keys, `layer` uses; None if it needs none."""
        if self.indexer is not None and not self.indexer.layers[layer]:
            return max(at for at in range(layer) if self.indexer.layers[at])
        return self.source_of_keys(layer)

    @property
    def lends(self) -> bool:
        """Whether layers use what earlier layers lend them."""
        return any(self.lender_of(layer) is not None for layer in range(self.n_layers))

    def lends_keys(self, layer: int) -> bool:
        """Whether later layers attend to the keys and values of `layer`."""
        return layer in self.keys_values_from

    def stream_scale_at(self, layer: int) -> float:
        """By what the stream that enters `layer` would have to be multiplied to be that of a model whose layers
        multiply it themselves (`stream_scales`).
        """
        return math.prod(self.stream_scales[:layer])

    def residual_scale_at(self, layer: int) -> float:
        """What multiplies all that `layer` writes."""
        return self.residual_scale / self.stream_scale_at(layer)

    def sinks_at(self, layer: int) -> bool:
        """Whether the softmaxes of `layer` have a sink."""
        return self.attn_sinks and (not self.attn_sink_layers or self.attn_sink_layers[layer])

    def window_at(self, layer: int) -> int | None:
        """The number of tokens that a query of `layer` sees, itself included; None means all."""
        return self.window_sizes[layer] if self.window_sizes else None

    @property
    def mixer_kinds(self) -> tuple[MixerKind, ...]:
        """What mixes the tokens in each layer."""
        return ("attention",) * self.n_layers if self.mixers is None else self.mixers.layers

    def mixer_at(self, layer: int) -> MixerKind:
        """What mixes the tokens in `layer`."""
        return "attention" if self.mixers is None else self.mixers.layers[layer]

    def beside_attention(self, layer: int) -> MixerKind | None:
        """The recurrence that stands beside the attention of `layer`, if there is one."""
        return self.mixers.beside if self.mixers is not None and self.mixer_at(layer) == "attention" else None

    def writes_at(self, layer: int) -> tuple[int, int]:
        """How many heads write in `layer`, and how wide what each of them writes from (z) is."""
        if self.mixers is None or (kind := self.mixer_at(layer)) in OF_ATTENTION:
            return self.n_heads, self.d_value_at(layer)
        return self.mixers.writes(kind, self.d_model)

    def has_mlp(self, layer: int) -> bool:
        """Whether `layer` has an MLP, or experts in its place."""
        without = self.mixers is not None and self.mixers.mlps and not self.mixers.mlps[layer]
        return not (self.attn_only or without)

    def has_experts(self, layer: int) -> bool:
        """Whether a mixture of experts stands in place of the MLP of `layer`."""
        return self.experts is not None and self.experts.layers[layer] and self.has_mlp(layer)

    def attn_scale_at(self, layer: int) -> float:
        """The number that divides the attention scores of `layer`."""
        return self.attn_scale * (layer + 1 if self.scale_attn_by_inverse_layer_idx else 1)


GROUPS: dict[str, Any] = {"experts": ExpertsConfig, "mixers": MixersConfig, "indexer": IndexerConfig}


def _group(name: str, group: Any, values: Mapping[str, Any]) -> Any:
    """A group of fields from a mapping.

    Raises:
        ConfigError: a field that the group does not have, or one that it needs and that is missing.
    """
    known = kinds_of(group)
    needed = [field.name for field in dataclasses.fields(group) if field.default is dataclasses.MISSING]
    if wrong := [*(one for one in values if one not in known), *(one for one in needed if one not in values)]:
        expected = f"{name} must have {', '.join(needed)}, and no fields but {', '.join(known)}"
        raise ConfigError(f"{expected}; look at {wrong[0]!r}")
    return group(**_with_tuples(values))


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _as_device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be one that torch knows, got {device!r}") from error


def as_dtype(dtype: "torch.dtype | str") -> torch.dtype:
    """A floating torch.dtype from itself or its name ('float32', 'bfloat16', ...).

    Raises:
        ConfigError: another dtype, or a name that is none.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:  # 8 bits only store
        raise ConfigError(f"dtype must be a floating torch dtype such as torch.float32 or 'bfloat16', got {dtype!r}")
    return found
