"""LFM2, dense and with experts."""

from typing import Any

from tests.family_configs.llama import SIZES, YARN

_CONV = SIZES | dict(layer_types=["conv", "full_attention", "conv"], pad_token_id=0)
_LFM2 = _CONV | dict(model_type="lfm2", block_auto_adjust_ff_dim=False, tie_word_embeddings=False)
_MOE = _CONV | dict(
    model_type="lfm2_moe",
    num_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=11,
    num_dense_layers=1,
    tie_word_embeddings=False,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": _LFM2,
    "lfm2-tied-biases": _LFM2
    | dict(tie_word_embeddings=True, conv_bias=True, conv_L_cache=4, rope_parameters=YARN)
    | dict(block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.3, block_multiple_of=7),
    "lfm2-moe": _MOE,
    "lfm2-moe-plain": _MOE | dict(norm_topk_prob=False, use_expert_bias=False, routed_scaling_factor=0.7),
}
