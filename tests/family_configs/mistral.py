"""Mistral and Ministral."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES

_MISTRAL = SIZES | dict(model_type="mistral")
_MINISTRAL = SIZES | dict(model_type="ministral", head_dim=10)
_MINISTRAL3 = SIZES | dict(model_type="ministral3", head_dim=10, pad_token_id=0)
_YARN = dict(
    rope_type="yarn",
    rope_theta=100.0,
    factor=4.0,
    original_max_position_embeddings=3,
    beta_fast=4.0,
    beta_slow=1.0,
    mscale=1.0,
    mscale_all_dim=1.0,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "mistral": _MISTRAL | dict(head_dim=10, sliding_window=4),
    "mistral-tied-no-window-llama3": _MISTRAL
    | dict(sliding_window=None, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "ministral": _MINISTRAL
    | dict(sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "ministral-tied-no-window": _MINISTRAL
    | dict(sliding_window=4, layer_types=["full_attention"] * 3, tie_word_embeddings=True),
    "ministral3": _MINISTRAL3 | dict(rope_parameters=_YARN | dict(llama_4_scaling_beta=0.7)),
    "ministral3-tied-window": _MINISTRAL3
    | dict(
        rope_parameters=_YARN | dict(llama_4_scaling_beta=0.1, mscale_all_dim=0.0),
        sliding_window=4,
        tie_word_embeddings=True,
    ),
}
