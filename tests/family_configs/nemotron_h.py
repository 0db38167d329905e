"""Nemotron-H."""

from typing import Any

from tests.family_configs.llama import SIZES

_NEMOTRON_H = {key: value for key, value in SIZES.items() if key != "num_hidden_layers"} | dict(
    model_type="nemotron_h",
    head_dim=10,
    mamba_num_heads=6,
    mamba_head_dim=8,
    ssm_state_size=5,
    n_groups=2,
    conv_kernel=3,
    chunk_size=4,
    n_routed_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=11,
    moe_shared_expert_intermediate_size=13,
    n_group=3,
    topk_group=2,
    routed_scaling_factor=1.7,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "nemotron-h": _NEMOTRON_H | dict(layers_block_type=["linear_attention", "moe", "full_attention", "mlp"]),
    "nemotron-h-dense-biases": _NEMOTRON_H
    | dict(layers_block_type=["linear_attention", "full_attention", "mlp"], mlp_bias=True, use_bias=True)
    | dict(tie_word_embeddings=True, use_conv_bias=False),
}
