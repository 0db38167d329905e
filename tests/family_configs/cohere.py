"""Command R and its successors."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES, YARN

_COHERE = SIZES | dict(model_type="cohere", layer_norm_eps=0.01)
_COHERE2 = SIZES | dict(model_type="cohere2", num_hidden_layers=4, sliding_window=4, layer_norm_eps=0.01)
_MOE = _COHERE2 | dict(
    model_type="cohere2_moe",
    intermediate_size=20,
    prefix_dense_intermediate_size=40,
    num_experts=5,
    num_experts_per_tok=2,
    logit_scale=0.3,
)

_COMPASS = SIZES | dict(
    model_type="cohere_compass_text",
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    sliding_window=4,
    rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [1, 1, 1]},
        "full_attention": None,
    },
)

CONFIGS: dict[str, dict[str, Any]] = {
    "cohere": _COHERE | dict(use_qk_norm=True, attention_bias=True, tie_word_embeddings=False, logit_scale=0.3),
    "cohere-tied-ungrouped-no-qk-norm": _COHERE | dict(num_key_value_heads=None, rope_parameters=YARN),
    "cohere2": _COHERE2 | dict(attention_bias=True, tie_word_embeddings=False, logit_scale=0.3),
    "cohere2-tied-ungrouped": _COHERE2
    | dict(num_key_value_heads=None, sliding_window_pattern=2, rope_parameters=LLAMA3),
    "cohere2-moe": _MOE
    | dict(num_shared_experts=2, first_k_dense_replace=1, attention_bias=True, tie_word_embeddings=False),
    "cohere2-moe-sigmoid-summed": _MOE
    | dict(
        num_shared_experts=1,
        expert_selection_fn="sigmoid",
        shared_expert_combination_strategy="sum",
        first_k_dense_replace=2,
        prefix_dense_sliding_window_pattern=2,
        tie_word_embeddings=False,
    ),
    "cohere2-moe-rms-unshared": _MOE | dict(expert_selection_fn="sigmoid", norm_topk_prob=False, rms_norm_eps=0.01),
    "cohere-compass": _COMPASS | dict(attention_bias=True, tie_word_embeddings=False),
    "cohere-compass-tied-full": _COMPASS
    | dict(layer_types=["full_attention"] * 3, logit_scale=0.3, rope_parameters={"full_attention": YARN}),
}
