"""Gemma 4."""

from typing import Any

from tests.family_configs.llama import SIZES

_GEMMA4 = SIZES | dict(
    model_type="gemma4_text",
    hidden_size=36,  # its root, by which embeddings are multiplied, is not rounded
    head_dim=6,
    global_head_dim=8,
    rms_norm_eps=0.01,
    sliding_window=4,
    hidden_size_per_layer_input=0,
    layer_types=["sliding_attention", "full_attention", "full_attention"],
)
_UNIFIED = {name: value for name, value in _GEMMA4.items() if name != "hidden_size_per_layer_input"}
_UNIFIED |= dict(model_type="gemma4_unified_text")
_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma4": _GEMMA4
    | dict(
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        rope_parameters=_ROPES,
        attention_bias=True,
        tie_word_embeddings=False,
        final_logit_softcapping=5.0,
    ),
    "gemma4-embeddings": _GEMMA4
    | dict(
        hidden_size_per_layer_input=9,
        vocab_size_per_layer_input=61,
        num_kv_shared_layers=1,
        use_double_wide_mlp=True,
        rope_parameters=_ROPES,
    ),
    "gemma4-two-borrow": _GEMMA4
    | dict(
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=9,  # without which HuggingFace does not compute that
        vocab_size_per_layer_input=61,
        layer_types=["sliding_attention", "full_attention"] * 2,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    ),
    "gemma4-tied": _GEMMA4 | dict(use_bidirectional_attention="vision"),
    "gemma4-experts": _GEMMA4
    | dict(
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=7,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    ),
    "gemma4-unified": _UNIFIED | dict(attention_k_eq_v=True, num_global_key_value_heads=1, attention_bias=True),
    "gemma4-unified-borrows": _UNIFIED | dict(num_kv_shared_layers=1, use_double_wide_mlp=True),
}
