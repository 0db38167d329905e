"""Phi-3, Phi-4 and Phi-4-multimodal."""

from typing import Any

from tests.family_configs.llama import SIZES

_PHI3 = SIZES | dict(model_type="phi3", hidden_size=32, pad_token_id=0)

_VISION = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, image_size=28)
_AUDIO = dict(hidden_size=12, intermediate_size=20, num_blocks=1, num_attention_heads=2, ext_pw_out_channel=12)
_AUDIO |= dict(depthwise_separable_out_channel=12, nemo_conv_channels=12, input_size=16, num_hidden_layers=1)
_MULTIMODAL = _PHI3 | dict(
    model_type="phi4_multimodal", num_key_value_heads=2, vision_config=_VISION, audio_config=_AUDIO
)


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
    "phi4-multimodal": _MULTIMODAL | dict(sliding_window=4, original_max_position_embeddings=32),
    "phi4-multimodal-tied": _MULTIMODAL
    | dict(
        original_max_position_embeddings=16,
        partial_rotary_factor=0.75,
        rope_parameters=_longrope(),
        tie_word_embeddings=True,
    ),
}
