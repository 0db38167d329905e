"""Persimmon."""

from typing import Any

_PERSIMMON = dict(
    model_type="persimmon",
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=61,
    max_position_embeddings=32,
)
_DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0, partial_rotary_factor=0.5)

CONFIGS: dict[str, dict[str, Any]] = {
    "persimmon": _PERSIMMON,
    "persimmon-tied-unnormed": _PERSIMMON
    | dict(qk_layernorm=False, hidden_act="gelu", tie_word_embeddings=True, rope_parameters=_DYNAMIC),
}
