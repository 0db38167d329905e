"""Granite 3."""

from typing import Any

from tests.family_configs.llama import SIZES

_GRANITE = SIZES | dict(
    model_type="granite",
    embedding_multiplier=12.0,
    attention_multiplier=0.15,
    residual_multiplier=0.22,
    logits_scaling=8.0,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "granite": _GRANITE | dict(attention_bias=True, mlp_bias=True),
    "granite-tied-ungrouped": _GRANITE | dict(num_key_value_heads=4, tie_word_embeddings=True),
}
