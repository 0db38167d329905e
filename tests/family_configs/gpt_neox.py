"""GPT-NeoX, Pythia and the Japanese GPT-NeoX."""

from typing import Any

_NEOX = dict(
    model_type="gpt_neox",
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=61,
    max_position_embeddings=32,
)
_JAPANESE = dict(
    model_type="gpt_neox_japanese",
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_multiple_size=2,
    vocab_size=61,
    max_position_embeddings=32,
)


def _rope(fraction: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction} | more


CONFIGS: dict[str, dict[str, Any]] = {
    "neox": _NEOX | dict(rope_parameters=_rope(0.5)),
    "neox-serial": _NEOX
    | dict(
        rope_parameters=_rope(0.5, rope_type="linear", factor=3.0), use_parallel_residual=False, attention_bias=False
    ),
    "neox-japanese": _JAPANESE | dict(tie_word_embeddings=False),
    "neox-japanese-tied-partial": _JAPANESE
    | dict(intermediate_multiple_size=3, hidden_act="relu", rope_parameters=_rope(0.5)),
    "neox-japanese-linear": _JAPANESE | dict(rope_parameters=_rope(1.0, rope_type="linear", factor=3.0)),
}
