"""RecurrentGemma, whose heads of both kinds are as many, and whose windows are shorter than the tests' texts."""

from typing import Any

from tests.family_configs.llama import SIZES

_SIZES = {name: value for name, value in SIZES.items() if name != "max_position_embeddings"}
_GEMMA = _SIZES | dict(
    model_type="recurrent_gemma",
    hidden_size=32,
    intermediate_size=72,
    attention_window_size=4,
    conv1d_width=3,
    logits_soft_cap=5.0,
    rms_norm_eps=0.01,
    tie_word_embeddings=False,
    pads=False,  # its recurrence reads padding as tokens
)

CONFIGS: dict[str, dict[str, Any]] = {
    "recurrent-gemma": _GEMMA | dict(block_types=["recurrent", "attention"], attention_bias=True),
    "recurrent-gemma-tied-wide": _GEMMA
    | dict(
        lru_width=40,
        tie_word_embeddings=True,
        num_key_value_heads=1,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.75),
    ),
}
