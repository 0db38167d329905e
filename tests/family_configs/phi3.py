"""Phi-3 and Phi-4."""

from typing import Any

from tests.family_configs.llama import SIZES

_PHI3 = SIZES | dict(model_type="phi3", hidden_size=32, pad_token_id=0)


def _longrope(**more: Any) -> dict[str, Any]:
    return dict(
        rope_type="longrope", rope_theta=100.0, short_factor=[1.0, 1.1, 1.3], long_factor=[1.2, 2.0, 4.0], **more
    )


CONFIGS: dict[str, dict[str, Any]] = {
    "phi3": _PHI3 | dict(sliding_window=4, original_max_position_embeddings=32),
    "phi3-tied-short-context": _PHI3
    | dict(
        original_max_position_embeddings=16,
        partial_rotary_factor=0.75,
        rope_parameters=_longrope(),
        tie_word_embeddings=True,
        lm_head_bias=False,
        full_attn_mod=1,
        interpolate_factor=1,
        attention_bias=False,
        mlp_bias=False,
    ),
    "phi3-long-context": _PHI3
    | dict(
        num_key_value_heads=4,
        original_max_position_embeddings=6,  # some rows of a padded batch are longer, some are not
        partial_rotary_factor=0.75,
        rope_parameters=_longrope(attention_factor=1.3),
    ),
}
