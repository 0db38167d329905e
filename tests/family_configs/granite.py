"""Granite 3, Granite SWA and HyperCLOVA X."""

from typing import Any

from tests.family_configs.llama import LINEAR, SIZES

_GRANITE = SIZES | dict(
    model_type="granite",
    embedding_multiplier=12.0,
    attention_multiplier=0.15,
    residual_multiplier=0.22,
    logits_scaling=8.0,
)
_SWA = _GRANITE | dict(model_type="granite_swa", sliding_window=4)
_HYPERCLOVAX = _GRANITE | dict(model_type="hyperclovax", logits_scaling=0.3)

CONFIGS: dict[str, dict[str, Any]] = {
    "granite": _GRANITE | dict(attention_bias=True, mlp_bias=True),
    "granite-tied-ungrouped": _GRANITE | dict(num_key_value_heads=4, tie_word_embeddings=True),
    "granite-swa": _SWA
    | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False, layer_rope_theta=[0, 50.0, 1000.0]),
    "granite-swa-tied-linear": _SWA | dict(rope_parameters=LINEAR),
    "hyperclovax": _HYPERCLOVAX | dict(head_dim=10, attention_bias=True, mlp_bias=True),
    "hyperclovax-tied-ungrouped-no-post-norm": _HYPERCLOVAX
    | dict(num_key_value_heads=4, use_post_norm=False, tie_word_embeddings=True),
}
