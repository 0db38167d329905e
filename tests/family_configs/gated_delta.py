"""Gated delta nets beside attention: Qwen3-Next, Qwen3.5 and OLMo Hybrid."""

from typing import Any

from tests.family_configs.llama import SIZES, YARN

_LAYERS = ["linear_attention", "full_attention", "linear_attention"]
_DELTA = dict(
    head_dim=10,
    layer_types=_LAYERS,
    linear_num_value_heads=6,
    linear_num_key_heads=3,
    linear_key_head_dim=5,
    linear_value_head_dim=7,
    linear_conv_kernel_dim=3,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4),
)
_EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=11, shared_expert_intermediate_size=13)
_NEXT = SIZES | _DELTA | _EXPERTS | dict(model_type="qwen3_next", decoder_sparse_step=2)
_OLMO = {key: value for key, value in (SIZES | _DELTA).items() if key not in ("head_dim", "rope_parameters")}
_OLMO |= dict(model_type="olmo_hybrid", pad_token_id=0)
_QWEN3_5 = SIZES | _DELTA | dict(model_type="qwen3_5_text")

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-next": _NEXT,
    "qwen3-next-tied": _NEXT
    | dict(tie_word_embeddings=True, attention_bias=True, linear_num_key_heads=6, decoder_sparse_step=1)
    | dict(mlp_only_layers=[2], norm_topk_prob=False),
    "qwen3.5": _QWEN3_5,
    "qwen3.5-tied": _QWEN3_5 | dict(tie_word_embeddings=True, attention_bias=True, linear_num_value_heads=3),
    "qwen3.5-moe": {key: value for key, value in (SIZES | _DELTA | _EXPERTS).items() if key != "intermediate_size"}
    | dict(model_type="qwen3_5_moe_text", moe_intermediate_size=9),
    "olmo-hybrid": _OLMO,
    "olmo-hybrid-yarn-tied": _OLMO
    | dict(rope_parameters=YARN, linear_allow_neg_eigval=False, tie_word_embeddings=True, attention_bias=True),
}
