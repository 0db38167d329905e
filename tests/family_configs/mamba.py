"""Mamba, Falcon Mamba and Jamba."""

from typing import Any

from tests.family_configs.llama import SIZES

_MAMBA = dict(
    model_type="mamba",
    num_hidden_layers=3,
    hidden_size=24,
    vocab_size=61,
    state_size=5,
    conv_kernel=3,
    time_step_rank=7,
    tie_word_embeddings=False,
    residual_in_fp32=False,
)
_FALCON = _MAMBA | dict(model_type="falcon_mamba")
_JAMBA = SIZES | dict(
    model_type="jamba",
    attn_layer_period=3,
    attn_layer_offset=1,
    expert_layer_offset=1,
    expert_layer_period=2,
    num_experts=5,
    num_experts_per_tok=2,
    mamba_d_state=5,
    mamba_d_conv=3,
    mamba_dt_rank=7,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": _MAMBA,
    "mamba-tied-biases": _MAMBA
    | dict(tie_word_embeddings=True, use_bias=True, use_conv_bias=False, expand=3, residual_in_fp32=True),
    "falcon-mamba": _FALCON | dict(use_bias=True),
    "jamba": _JAMBA,
    "jamba-dense-tied": _JAMBA | dict(num_experts=1, tie_word_embeddings=True, mamba_proj_bias=True, mamba_expand=3),
}
