"""Kimi Linear."""

from typing import Any

from tests.family_configs.llama import SIZES

_KIMI = SIZES | dict(
    model_type="kimi_linear",
    num_key_value_heads=4,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    mlp_layer_types=["dense", "sparse", "sparse"],
    linear_num_heads=3,
    linear_head_dim=7,
    linear_conv_kernel_dim=3,
    kv_lora_rank=10,
    qk_rope_head_dim=4,
    qk_nope_head_dim=6,
    v_head_dim=5,
    num_local_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=11,
    n_group=3,
    topk_group=2,
    pad_token_id=0,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "kimi-linear": _KIMI,
    "kimi-linear-tied-queries": _KIMI
    | dict(q_lora_rank=12, tie_word_embeddings=True, attention_bias=True, norm_topk_prob=False),
}
