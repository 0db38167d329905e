"""Falcon-H1."""

from typing import Any

from tests.family_configs.llama import SIZES

_FALCON_H1 = SIZES | dict(
    model_type="falcon_h1",
    mamba_d_ssm=48,
    mamba_n_heads=6,
    mamba_d_head=8,
    mamba_n_groups=2,
    mamba_d_state=5,
    mamba_d_conv=3,
    mamba_chunk_size=4,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "falcon-h1": _FALCON_H1
    | dict(
        embedding_multiplier=2.5,
        lm_head_multiplier=0.4,
        attention_in_multiplier=0.8,
        attention_out_multiplier=1.3,
        key_multiplier=0.6,
        mlp_multipliers=[0.7, 1.6],
        ssm_multipliers=[0.6, 1.2, 0.9, 1.4, 0.8],
        ssm_in_multiplier=1.1,
        ssm_out_multiplier=0.7,
    ),
    "falcon-h1-norm-biases": _FALCON_H1
    | dict(
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        pads=False,  # whose biases the recurrence reads as text
        attention_bias=True,
        mlp_bias=True,
        mamba_proj_bias=True,
        projectors_bias=True,
        mamba_conv_bias=False,
        tie_word_embeddings=True,
        key_multiplier=0.6,
        mlp_multipliers=[0.7, 1.0],
        ssm_multipliers=[0.6, 1.2, 0.9, 1.4, 0.8],
    ),
    "falcon-h1-norm-first": _FALCON_H1 | dict(mamba_rms_norm=True, mamba_norm_before_gate=True),
}
