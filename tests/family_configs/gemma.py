"""Gemma, Gemma 2, Gemma 3 and VaultGemma."""

from typing import Any

from tests.family_configs.llama import LINEAR, LLAMA3, SIZES, YARN

_SIZES = SIZES | dict(head_dim=10, rms_norm_eps=0.01)
_WINDOWED = _SIZES | dict(sliding_window=4, query_pre_attn_scalar=7)
_GEMMA = _SIZES | dict(model_type="gemma")
_GEMMA2 = _WINDOWED | dict(model_type="gemma2")
_GEMMA3 = _WINDOWED | dict(model_type="gemma3_text")
_VAULTGEMMA = _WINDOWED | dict(model_type="vaultgemma")
_CAPS = dict(attn_logit_softcapping=3.0, final_logit_softcapping=5.0)  # small enough to bend these small numbers
_NO_CAPS = dict(attn_logit_softcapping=None, final_logit_softcapping=None)
_MIXED = ["sliding_attention", "full_attention", "full_attention"]
_TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": LINEAR | dict(rope_theta=1000.0),
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": _GEMMA | dict(rope_theta=100.0, attention_bias=True, tie_word_embeddings=False),
    "gemma-tied-one-key-head-relu": _GEMMA | dict(num_key_value_heads=1, hidden_act="relu", rope_parameters=LLAMA3),
    "gemma2": _GEMMA2 | _CAPS | dict(rope_theta=100.0, attention_bias=True, tie_word_embeddings=False),
    "gemma2-tied-no-caps": _GEMMA2 | _NO_CAPS | dict(layer_types=_MIXED, rope_parameters=YARN),
    "gemma3": _GEMMA3
    | dict(
        attention_bias=True,
        tie_word_embeddings=False,
        sliding_window_pattern=2,
        rope_parameters=_TWO_ROPES,
        final_logit_softcapping=5.0,
    ),
    "gemma3-tied-no-window-in-reach": _GEMMA3 | dict(sliding_window=32, layer_types=_MIXED),
    "vaultgemma": _VAULTGEMMA | _CAPS | dict(rope_theta=100.0, attention_bias=True, tie_word_embeddings=False),
    "vaultgemma-tied-no-caps": _VAULTGEMMA | _NO_CAPS | dict(layer_types=_MIXED, rope_parameters=LINEAR),
}
