"""Phi-1 to Phi-2."""

from typing import Any

_PHI = dict(
    model_type="phi",
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    vocab_size=61,
    max_position_embeddings=32,
    qk_layernorm=True,
)


def _rope(fraction: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction} | more


CONFIGS: dict[str, dict[str, Any]] = {
    "phi": _PHI,
    "phi-tied-ungrouped": _PHI
    | dict(
        num_key_value_heads=None,
        qk_layernorm=False,
        tie_word_embeddings=True,
        rope_parameters=_rope(0.75, rope_type="linear", factor=3.0),
    ),
}
