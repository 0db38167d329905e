"""Llama 4."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES

_LLAMA4 = SIZES | dict(
    model_type="llama4_text",
    num_hidden_layers=4,
    head_dim=10,
    intermediate_size=14,
    intermediate_size_mlp=40,
    num_local_experts=5,
    num_experts_per_tok=2,
    interleave_moe_layer_step=2,
    attention_chunk_size=20,
    floor_scale=31,
    rms_norm_eps=0.01,
    pad_token_id=0,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "llama4": _LLAMA4 | dict(attention_bias=True),
    "llama4-tied-every-layer": _LLAMA4
    | dict(
        interleave_moe_layer_step=1,
        num_experts_per_tok=1,
        no_rope_layers=[1, 0, 1, 1],
        tie_word_embeddings=True,
        rope_parameters=LLAMA3,
    ),
    "llama4-no-qk-norm": _LLAMA4 | dict(use_qk_norm=False, attn_temperature_tuning=False),
}
