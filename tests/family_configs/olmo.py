"""OLMo, OLMo 2 and OLMo 3."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES, YARN

_OLMO = SIZES | dict(model_type="olmo")
_OLMO2 = SIZES | dict(model_type="olmo2", rms_norm_eps=0.01)
_OLMO3 = SIZES | dict(model_type="olmo3", num_hidden_layers=4, sliding_window=4, rms_norm_eps=0.01)

CONFIGS: dict[str, dict[str, Any]] = {
    "olmo": _OLMO | dict(rope_theta=100.0, attention_bias=True, clip_qkv=0.5),
    "olmo-tied-ungrouped-no-clip": _OLMO
    | dict(num_key_value_heads=None, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "olmo2": _OLMO2 | dict(rope_theta=100.0, attention_bias=True),
    "olmo2-tied-ungrouped-llama3": _OLMO2
    | dict(num_key_value_heads=None, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "olmo3": _OLMO3 | dict(attention_bias=True, rope_scaling=YARN, rope_theta=100.0),
    "olmo3-tied-ungrouped": _OLMO3
    | dict(
        num_key_value_heads=None, tie_word_embeddings=True, layer_types=["full_attention", *["sliding_attention"] * 3]
    ),
}
