"""Fields of a config that TransformerLens has under other names, and what they are here.

    use_local_attn, window_size, attn_types     window_sizes
    use_normalization_before_and_after          norm_placement="pre_and_output"
    post_embedding_ln                           embed_norm_type="LN"
    use_attention_sinks, clip_qkv               attn_sinks, qkv_clip
    uses_rms_norm                               normalization_type="RMS" or "RMSPre"
    layer_norm_folding                          normalization_type="LNPre" or "RMSPre"
    use_NTK_by_parts_rope, NTK_...              rotary_scaling={"rope_type": "llama3", ...}

Fields without a meaning here are dropped; values that are not implemented are refused.
"""

from collections.abc import Mapping
from typing import Any

from interp_hooks.errors import ConfigError

DROPPED = (
    *("from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),  # where weights came from
    *("n_params", "trust_remote_code"),  # found out here, or not needed
    *("train_seq_length", "experts_per_token", "norm_topk_prob", "decoder_start_token_id"),  # only if refused
    *("relative_attention_max_distance", "relative_attention_num_buckets", "NTK_original_ctx_len"),
    *(f"NTK_by_parts_{what}" for what in ("low_freq_factor", "high_freq_factor", "factor")),  # if translated
    *(f"yarn_{what}" for what in ("factor", "attention_factor", "beta_fast", "beta_slow", "truncate")),
    *("yarn_original_max_position_embeddings", "yarn_global_attn_only"),
)
# For each field the values that change nothing, and how to say the others here.
REQUIRED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n_devices": ((1,), "load with device_map= to spread a model"),
    "load_in_4bit": ((False,), "weights are dense here"),
    "quantization_method": ((), "weights are dense here"),
    "tie_word_embeddings": ((False,), "W_E and W_U are always two tensors"),
    "ungroup_grouped_query_attention": ((False,), "call model.set_ungroup_grouped_query_attention(True)"),
    "num_experts": ((0,), "give experts=ExpertsConfig(...)"),
    "use_qk_norm": ((False,), "give qk_norm='shared' (or 'all_heads') and qk_norm_type='RMS'"),
    "rotary_base_local": ((), "give rotary_layers, the rope_parameters of each layer"),
    "rotary_scaling_factor": ((1.0,), "give rotary_scaling={'rope_type': 'linear', 'rope_theta': ..., 'factor': ...}"),
    "use_yarn_rope": ((False,), "give rotary_scaling={'rope_type': 'yarn', ...}"),
    "use_dynamic_ntk_rope": ((False,), "the first Qwen is not implemented"),
    "use_logn_attn": ((False,), "the first Qwen is not implemented"),
}
TRANSLATED = (
    *("use_local_attn", "window_size", "attn_types", "use_normalization_before_and_after", "post_embedding_ln"),
    *("use_attention_sinks", "clip_qkv", "uses_rms_norm", "layer_norm_folding", "use_NTK_by_parts_rope"),
)
KNOWN = (*DROPPED, *REQUIRED, *TRANSLATED)


def in_our_words(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under the names that they have here; unknown ones stay as they are.

    Raises:
        ConfigError: a value that is not implemented, or fields that contradict each other.
    """
    for name, (values, instead) in REQUIRED.items():
        value = fields.get(name)
        if value is not None and value not in values:
            raise ConfigError(f"{name}={value!r} is not implemented: {instead}")
    _check_norms(fields)
    ours = {name: value for name, value in fields.items() if name not in KNOWN}
    said = _windows(fields)
    if fields.get("use_normalization_before_and_after"):
        said["norm_placement"] = "pre_and_output"
    if fields.get("post_embedding_ln"):
        said["embed_norm_type"] = "LN"
    if fields.get("use_attention_sinks"):
        said["attn_sinks"] = True
    if fields.get("clip_qkv") is not None:
        said["qkv_clip"] = fields["clip_qkv"]
    if fields.get("use_NTK_by_parts_rope"):
        said["rotary_scaling"] = _frequencies_by_parts(fields)
    for name, value in said.items():
        if name in ours and ours[name] != value:
            raise ConfigError(f"{name}={ours[name]!r} contradicts other fields, which say {name}={value!r}")
    return ours | said


def _frequencies_by_parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary frequencies of which low ones are divided and high ones kept, as Llama 3 has them."""
    return {
        "rope_type": "llama3",
        "rope_theta": fields.get("rotary_base", 10000.0),
        "factor": fields.get("NTK_by_parts_factor", 8.0),
        "low_freq_factor": fields.get("NTK_by_parts_low_freq_factor", 1.0),
        "high_freq_factor": fields.get("NTK_by_parts_high_freq_factor", 4.0),
        "original_max_position_embeddings": fields.get("NTK_original_ctx_len", 8192),
        "max_position_embeddings": fields["n_ctx"],
    }


def _check_norms(fields: Mapping[str, Any]) -> None:
    kind = fields.get("normalization_type", "LN")
    if fields.get("uses_rms_norm") and kind not in ("RMS", "RMSPre"):
        raise ConfigError(f"uses_rms_norm=True contradicts normalization_type={kind!r}")
    if fields.get("layer_norm_folding") and kind not in ("LNPre", "RMSPre", None):
        raise ConfigError(f"layer_norm_folding=True contradicts normalization_type={kind!r}")
    positions = fields.get("positional_embedding_type", "standard")
    if fields.get("post_embedding_ln") and positions in ("standard", "sinusoidal"):
        raise ConfigError(
            f"post_embedding_ln=True is not implemented where positional_embedding_type={positions!r}: "
            "embed_norm_type normalizes the sum of token and position embeddings"
        )


def _windows(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The field `window_sizes`, if a window is asked for."""
    window, kinds = fields.get("window_size"), fields.get("attn_types")
    if not fields.get("use_local_attn"):
        if window is not None or "local" in (kinds or ()):
            raise ConfigError("window_size and local attn_types mean nothing without use_local_attn=True")
        return {}
    if window is None or kinds is None:
        raise ConfigError("use_local_attn=True needs window_size, and attn_types for each layer: 'global' or 'local'")
    if unknown := set(kinds) - {"global", "local"}:
        raise ConfigError(f"attn_types must be 'global' or 'local', got {sorted(map(repr, unknown))[0]}")
    return {"window_sizes": tuple(window if kind == "local" else None for kind in kinds)}
