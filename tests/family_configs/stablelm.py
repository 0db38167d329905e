"""StableLM."""

from typing import Any

_STABLELM = dict(
    model_type="stablelm",
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    vocab_size=61,
    max_position_embeddings=32,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "stablelm": _STABLELM | dict(use_qkv_bias=True, qk_layernorm=True),
    "stablelm-parallel": _STABLELM | dict(use_parallel_residual=True, qk_layernorm=True),
    "stablelm-tied-ungrouped": _STABLELM
    | dict(
        num_key_value_heads=4,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5),
    ),
}
