"""TransformerLens' config, which code reads under its names of fields and edits: a frozen config of ours, and a view.

    model.cfg.use_attn_result = True        calls model.set_use_attn_result(True)
    model.cfg.default_prepend_bos = False   sets model.default_prepend_bos
    model.cfg.eps = 1e-6                    is refused: the model is built already
    cfg.n_ctx = 64                          of a config that no model has yet: checked, and so it is

What a model computes is said by its config as it was built, here and there; there, most assignments change nothing.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from interp_hooks.errors import BadInput, ConfigError, nearest
from interp_hooks.errors.arguments import told
from interp_hooks.loading.checkpoints import aliases
from interp_hooks.model import config as core
from interp_hooks.model.experts_config import ExpertsConfig
from interp_hooks.model.field_names import KNOWN

if TYPE_CHECKING:
    from interp_hooks.model.transformer import HookedTransformer

POSITIONAL = ("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "d_mlp", "d_vocab")  # in the order they have there
OWN = frozenset(field.name for field in dataclasses.fields(core.HookedTransformerConfig))
SWITCHES = (
    *("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"),
    "ungroup_grouped_query_attention",
)
LABELS = (
    "model_name",
    "original_architecture",
    "tokenizer_name",
    "seed",
    "init_mode",
    "initializer_range",
    "init_weights",
)
OF_QWEN = ("use_dynamic_ntk_rope", "use_logn_attn")  # what `compat.rotary` does, and nothing else here
WITHOUT_OWNER = ("openai-community", "distilbert", "google-bert")  # whose models the hub finds by their names alone
UNSET: dict[str, Any] = {  # what a field says there that nothing here answers to
    **dict.fromkeys(("from_checkpoint", "load_in_4bit", "tie_word_embeddings", "trust_remote_code"), False),
    **dict.fromkeys(("use_dynamic_ntk_rope", "use_logn_attn", "yarn_global_attn_only"), False),
    **dict.fromkeys(("checkpoint_index", "checkpoint_label_type", "checkpoint_value", "quantization_method")),
    **dict.fromkeys(("decoder_start_token_id", "train_seq_length", "rotary_base_local")),
    **dict.fromkeys(("relative_attention_max_distance", "relative_attention_num_buckets")),
    "n_devices": 1,
    "ungroup_grouped_query_attention": False,
}


def _scaling(kind: str, name: str, otherwise: Any) -> Callable[[core.HookedTransformerConfig], Any]:
    """A number of the rotary scaling, if it is of this kind."""

    def read(cfg: core.HookedTransformerConfig) -> Any:
        rope = cfg.rotary_scaling or {}
        return rope.get(name, otherwise) if rope.get("rope_type") == kind else otherwise

    return read


def _scaled(kind: str) -> Callable[[core.HookedTransformerConfig], bool]:
    return lambda cfg: (cfg.rotary_scaling or {}).get("rope_type") == kind


_CONTEXT = "original_max_position_embeddings"
READ: dict[str, Callable[[core.HookedTransformerConfig], Any]] = {
    "use_local_attn": lambda cfg: any(cfg.window_sizes),
    "window_size": lambda cfg: next(filter(None, cfg.window_sizes), None),
    "attn_types": lambda cfg: ["local" if size else "global" for size in cfg.window_sizes] or None,
    "use_normalization_before_and_after": lambda cfg: cfg.norm_placement == "pre_and_output",
    "post_embedding_ln": lambda cfg: cfg.embed_norm_type is not None,
    "uses_rms_norm": lambda cfg: cfg.normalization_type in ("RMS", "RMSPre"),
    "layer_norm_folding": lambda cfg: cfg.normalization_type in ("LNPre", "RMSPre"),
    "use_attention_sinks": lambda cfg: cfg.attn_sinks,
    "clip_qkv": lambda cfg: cfg.qkv_clip or None,
    "use_qk_norm": lambda cfg: cfg.qk_norm is not None,
    "num_experts": lambda cfg: cfg.experts and cfg.experts.n_experts,
    "experts_per_token": lambda cfg: cfg.experts and cfg.experts.experts_per_token,
    "norm_topk_prob": lambda cfg: bool(cfg.experts and cfg.experts.normalize_weights),
    "rotary_scaling_factor": _scaling("linear", "factor", 1.0),
    "use_NTK_by_parts_rope": _scaled("llama3"),
    "NTK_by_parts_factor": _scaling("llama3", "factor", 8.0),
    "NTK_by_parts_low_freq_factor": _scaling("llama3", "low_freq_factor", 1.0),
    "NTK_by_parts_high_freq_factor": _scaling("llama3", "high_freq_factor", 4.0),
    "NTK_original_ctx_len": _scaling("llama3", _CONTEXT, 8192),
    "use_yarn_rope": _scaled("yarn"),
    "yarn_factor": _scaling("yarn", "factor", 1.0),
    "yarn_attention_factor": _scaling("yarn", "attention_factor", 1.0),
    "yarn_beta_fast": _scaling("yarn", "beta_fast", 32.0),
    "yarn_beta_slow": _scaling("yarn", "beta_slow", 1.0),
    "yarn_truncate": _scaling("yarn", "truncate", True),
    "yarn_original_max_position_embeddings": _scaling("yarn", _CONTEXT, 4096),
}


class HookedTransformerConfig(core.HookedTransformerConfig):
    """A config that has TransformerLens' names and defaults too, and that takes assignments; see the module.

    Raises:
        ConfigError: as `interp_hooks.HookedTransformerConfig`; an assignment that a built model cannot follow.
    """

    def __init__(self, *args: Any, **fields: Any) -> None:
        fields = dict(zip(POSITIONAL, args, strict=False)) | fields
        ungroup = bool(fields.pop("ungroup_grouped_query_attention", False))
        if fields.get("attn_only"):
            fields = {name: value for name, value in fields.items() if name not in ("d_mlp", "use_hook_mlp_in")}
        else:
            fields.setdefault("act_fn", "relu")
        ours: dict[str, Any] = {"device": None} | _translated(fields)
        super().__init__(**ours)
        said = {name: fields[name] for name in UNSET.keys() & fields}
        if not self.use_local_attn and "window_size" in fields:  # of a single layer that is built as a local one
            said["window_size"] = fields["window_size"]
        self._keep(said=said, ungroup=ungroup)

    @classmethod
    def of(cls, cfg: core.HookedTransformerConfig, model: HookedTransformer | None = None) -> HookedTransformerConfig:
        """A view of a config, whose assignments go to a model."""
        view = cls.__new__(cls)
        view.__dict__.update(
            {name: getattr(cfg, name) for name in OWN} | {"model_name": _without_owner(cfg.model_name)}
        )
        kept = cfg.__dict__ if isinstance(cfg, HookedTransformerConfig) else {}
        view._keep(said=kept.get("_said", {}), ungroup=kept.get("_ungroup", False), model=model)
        return view

    def _keep(self, said: Mapping[str, Any], ungroup: bool, model: HookedTransformer | None = None) -> None:
        self.__dict__.update(_said=dict(said), _ungroup=ungroup, _model=lambda: None)
        if model is not None:
            self.__dict__["_model"] = weakref.ref(model)  # which has this config itself

    @property
    def model(self) -> HookedTransformer | None:
        """The model that assignments go to."""
        return self.__dict__["_model"]()

    @classmethod
    def unwrap(cls, config: Any) -> Any:
        """The config, or one of a mapping of its fields.

        Raises:
            BadInput: it is neither.
        """
        if not isinstance(config, core.HookedTransformerConfig | Mapping):
            raise BadInput(f"cfg must be a HookedTransformerConfig or a mapping of its fields, got {told(config)}")
        return config if isinstance(config, core.HookedTransformerConfig) else cls.from_dict(config)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HookedTransformerConfig:
        """A config from a mapping of field names to values."""
        return cls.of(super().from_dict(values))

    def is_layer_norm_activation(self) -> bool:
        """Whether a LayerNorm follows the activation function."""
        return self.normalizes_neurons

    def set_seed_everywhere(self, seed: int) -> None:
        """Seed torch's global generator; nothing here draws from others."""
        torch.manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        if name in (said := self.__dict__.get("_said", {})):
            return said[name]
        if name in READ:
            return READ[name](self)
        if name == "ungroup_grouped_query_attention":
            each = self.model is not None and self.n_key_value_heads == self.n_heads
            return each or self._ungrouped  # code asks for it where `n_key_value_heads` is no None, as nowhere here
        if name in UNSET:
            return UNSET[name]
        raise AttributeError(f"the config has no field {name!r}.{nearest(name, {*OWN, *READ, *UNSET})}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in OWN and name not in READ and name not in UNSET and name not in KNOWN:
            raise ConfigError(f"the config has no field {name!r}.{nearest(name, {*OWN, *READ, *UNSET})}")
        if (model := self.model) is not None:
            _tell(model, name, value)
        elif name == "ungroup_grouped_query_attention":
            self.__dict__["_ungroup"] = bool(value)
        elif name in UNSET:
            core.in_our_words({} if name in OF_QWEN else {name: value})  # which refuses what is not implemented
            self._said[name] = value
        else:
            told = {name: value} if name in OWN else core.in_our_words({name: value})
            changed = self.replace(**(told if name != "d_vocab" else {"d_vocab_out": 0} | told))
            self.__dict__.update({field: getattr(changed, field) for field in OWN})

    def replace(self, **changes: Any) -> HookedTransformerConfig:
        """A copy with some fields changed and everything checked again."""
        plain = core.HookedTransformerConfig(**{name: getattr(self, name) for name in OWN} | changes)
        view = self.of(plain)
        view._keep(said=self._said, ungroup=self._ungroup)
        return view

    @property
    def _ungrouped(self) -> bool:
        """Whether heads that shared keys and values have copies of their own."""
        model = self.model
        return self.__dict__.get("_ungroup", False) if model is None else model.n_groups is not None

    def to_dict(self) -> dict[str, Any]:
        """All fields, under TransformerLens' names too."""
        told = {name: getattr(self, name) for name in (*READ, *UNSET)}
        return told | {"ungroup_grouped_query_attention": self._ungrouped} | super().to_dict()

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedTransformerConfig:
        return self.of(self)

    def __reduce__(self) -> Any:
        return _restored, (core.HookedTransformerConfig.to_dict(self),)


def _without_owner(name: Any) -> Any:
    """The name that a model has on the hub, as it is there, if that is enough to load it."""
    full = aliases().get(str(name).lower(), name)
    owner, _, short = str(full).rpartition("/")
    return short if owner in WITHOUT_OWNER or (owner and aliases().get(short.lower()) == full) else name


def _translated(fields: dict[str, Any]) -> dict[str, Any]:
    """Experts, norms of queries and keys, bases of layers as they are said here; the rest is the constructor's affair.

    Raises:
        ConfigError: one of the two numbers of experts without the other.
    """
    names = ("num_experts", "experts_per_token", "norm_topk_prob")
    n_experts, chosen, normalize = (fields.get(name) for name in names)
    fields = {name: value for name, value in fields.items() if name not in names}
    if bool(n_experts) != bool(chosen):
        raise ConfigError(f"num_experts={n_experts} and experts_per_token={chosen}: give both, or neither")
    if n_experts and chosen:
        width = fields.get("d_mlp") or 4 * fields["d_model"]
        layers = (True,) * fields["n_layers"]
        fields["experts"] = ExpertsConfig(
            n_experts=n_experts,
            experts_per_token=chosen,
            d_expert=width,
            layers=layers,
            normalize_weights=bool(normalize),
        )
    if not fields.get("use_local_attn"):
        fields = {name: value for name, value in fields.items() if name != "window_size"}
    fields = {name: value for name, value in fields.items() if name not in OF_QWEN}
    base, kinds = fields.pop("rotary_base_local", None), fields.get("attn_types")
    if base is not None and kinds is not None:
        bases = {"local": base, "global": fields.get("rotary_base", 10000)}
        fields["rotary_layers"] = tuple({"rope_type": "default", "rope_theta": bases[kind]} for kind in kinds)
    if fields.pop("use_qk_norm", False):
        fields = {"qk_norm": "shared", "qk_norm_type": "RMS"} | fields
    return fields


def _restored(fields: dict[str, Any]) -> HookedTransformerConfig:
    return HookedTransformerConfig.from_dict(fields)


def _tell(model: HookedTransformer, name: str, value: Any) -> None:
    """Let a model do what an assignment to its config says.

    Raises:
        ConfigError: it was built otherwise.
    """
    if name in SWITCHES:
        getattr(model, f"set_{name}")(value)
    elif name == "default_prepend_bos":
        model.default_prepend_bos = value
    elif name in ("device", "dtype"):
        model.to(value)
    elif name == "n_ctx":  # to which texts are truncated
        model._reconfigure(n_ctx=value)
        model.text.n_ctx = value
    elif name in LABELS:
        model._reconfigure(**{name: value})
    elif (built := getattr(model.cfg, name, None)) != value:
        raise ConfigError(
            f"cfg.{name} = {value!r}: the model was built with {built!r} and cannot change it. Build another, "
            f"HookedTransformer(model.cfg.replace({name}={value!r}), tokenizer=model.tokenizer), and call its "
            "load_state_dict(model.state_dict())"
        )
