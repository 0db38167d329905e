"""Llama."""

from typing import Any

_LLAMA = dict(
    model_type="llama",
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
)
_LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=6,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama-biases": _LLAMA | dict(head_dim=10, attention_bias=True, mlp_bias=True),
    "llama-tied-ungrouped-llama3": _LLAMA
    | dict(num_key_value_heads=4, tie_word_embeddings=True, rope_parameters=_LLAMA3),
}
