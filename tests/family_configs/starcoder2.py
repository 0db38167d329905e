"""StarCoder 2."""

from typing import Any

_STARCODER2 = dict(
    model_type="starcoder2",
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
)
_YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=8)

CONFIGS: dict[str, dict[str, Any]] = {
    "starcoder2": _STARCODER2 | dict(sliding_window=4, tie_word_embeddings=False),
    "starcoder2-tied-unbiased-yarn": _STARCODER2 | dict(use_bias=False, rope_parameters=_YARN),
}
