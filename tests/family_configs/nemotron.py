"""Nemotron, Jais 2 and Apertus."""

from typing import Any

_SIZES = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
)
_NEMOTRON = _SIZES | dict(model_type="nemotron")
_JAIS2 = _SIZES | dict(model_type="jais2")
_APERTUS = _SIZES | dict(model_type="apertus")
_LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=6,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "nemotron": _NEMOTRON | dict(head_dim=8, attention_bias=True, mlp_bias=True),
    "nemotron-tied-ungrouped": _NEMOTRON
    | dict(
        num_key_value_heads=4,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0, partial_rotary_factor=1.0),
    ),
    "jais2": _JAIS2 | dict(head_dim=8),
    "jais2-tied-ungrouped-unbiased": _JAIS2
    | dict(num_key_value_heads=None, attention_bias=False, mlp_bias=False, tie_word_embeddings=True),
    "apertus": _APERTUS | dict(attention_bias=True, rope_parameters=_LLAMA3),
    "apertus-tied-ungrouped-relu2": _APERTUS
    | dict(num_key_value_heads=None, tie_word_embeddings=True, hidden_act="relu2"),
}
