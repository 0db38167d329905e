"""Mixtures of experts with the attention of Llama."""

from typing import Any

from transformers import GptOssConfig

_SIZES = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=20,
    vocab_size=61,
    max_position_embeddings=32,
    num_experts_per_tok=2,
)
_YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=8)

_MIXTRAL = _SIZES | dict(model_type="mixtral", num_local_experts=5)

_PHIMOE = _SIZES | dict(model_type="phimoe", num_local_experts=5, attention_bias=True, lm_head_bias=True)
_PHIMOE_LONG = dict(
    rope_type="longrope",
    rope_theta=100.0,
    short_factor=[1.0, 1.3, 2.0],
    long_factor=[2.0, 3.0, 5.0],
    short_mscale=1.3,
    long_mscale=1.3,
    original_max_position_embeddings=16,  # beyond it, versions of transformers disagree on the factors
)

_QWEN2 = _SIZES | dict(
    model_type="qwen2_moe",
    intermediate_size=40,
    num_experts=5,
    moe_intermediate_size=14,
    shared_expert_intermediate_size=18,
    mlp_only_layers=[1],
)
_QWEN3 = _SIZES | dict(
    model_type="qwen3_moe",
    intermediate_size=40,
    head_dim=10,
    num_experts=5,
    moe_intermediate_size=14,
    mlp_only_layers=[1],
    attention_bias=True,
)

_MULTIPLIERS = dict(embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.7, logits_scaling=2.0)
_GRANITE = _SIZES | _MULTIPLIERS | dict(num_local_experts=5, attention_bias=True)

_OLMOE = _SIZES | dict(model_type="olmoe", num_experts=5, attention_bias=True, pad_token_id=1, eos_token_id=2)
_FLEX = _SIZES | dict(model_type="flex_olmo", num_experts=5, attention_bias=True, pad_token_id=1, eos_token_id=2)

_GPT_OSS = _SIZES | dict(
    model_type="gpt_oss",
    head_dim=10,
    num_local_experts=5,
    sliding_window=4,
    rope_parameters=_YARN | dict(truncate=False),
)
if hasattr(GptOssConfig, "swiglu_limit"):  # before, it was 7 whatever the config said
    _GPT_OSS["swiglu_limit"] = 0.8

_ERNIE = _SIZES | dict(
    model_type="ernie4_5_moe",
    num_hidden_layers=4,
    intermediate_size=40,
    use_bias=True,
    moe_num_experts=5,
    moe_k=2,
    moe_intermediate_size=14,
    moe_num_shared_experts=2,
    tie_word_embeddings=False,
)
_ERNIE.pop("num_experts_per_tok")

_SIGMOID = _SIZES | dict(
    intermediate_size=40,
    moe_intermediate_size=14,
    n_routed_experts=9,
    num_experts_per_tok=3,
    n_shared_experts=2,
    n_group=3,
    topk_group=2,
    first_k_dense_replace=1,
    norm_topk_prob=True,
    routed_scaling_factor=1.7,
    attention_bias=True,
)
_DOTS = _SIGMOID | dict(model_type="dots1", sliding_window=4, max_window_layers=2)
_GLM = _SIGMOID | dict(model_type="glm4_moe", head_dim=8, use_qk_norm=True)
_UNGROUPED = dict(n_group=1, topk_group=1, norm_topk_prob=False, attention_bias=False)
_SOLAR = {key: value for key, value in _SIGMOID.items() if key not in ("intermediate_size", "first_k_dense_replace")}
_SOLAR |= dict(model_type="solar_open", head_dim=8)
_EXAONE = _SIGMOID | dict(
    model_type="exaone_moe", num_hidden_layers=4, sliding_window=4, num_experts=9, num_shared_experts=2
)
_HUNYUAN = _SIGMOID | dict(
    model_type="hy_v3", head_dim=10, num_experts=9, num_shared_experts=2, router_scaling_factor=1.7, num_hidden_layers=3
)
for _other in (_EXAONE, _HUNYUAN):
    for _name in ("n_routed_experts", "n_shared_experts", "attention_bias"):
        _other.pop(_name)
for _name in ("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"):
    _HUNYUAN.pop(_name)
_MINIMAX = _SIZES | dict(model_type="minimax_m2", head_dim=10, num_local_experts=5)
_MELLUM = _SIZES | dict(
    model_type="mellum", intermediate_size=40, head_dim=10, num_experts=5, moe_intermediate_size=14, sliding_window=4
)
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_FLINT = _SIZES | dict(
    model_type="flint",
    intermediate_size=40,
    head_dim=10,
    num_experts=5,
    moe_intermediate_size=14,
    shared_expert_intermediate_size=18,
    mlp_only_layers=[1],
    layer_types=_MIXED,
    sliding_window=4,
)

_ARIA = _SIZES | dict(model_type="aria_text", head_dim=10, moe_num_experts=5, moe_topk=2)
_ARIA.pop("num_experts_per_tok")

_KOLIBRI = _SIZES | dict(
    model_type="kolibri1",
    num_hidden_layers=5,
    head_dim=10,
    num_experts=5,
    moe_intermediate_size=14,
    shared_expert_intermediate_size=18,
    sliding_window=4,
)
_KOLIBRI.pop("intermediate_size")

_AFMOE = _SIZES | dict(
    model_type="afmoe",
    intermediate_size=40,
    head_dim=10,
    num_experts=5,
    moe_intermediate_size=14,
    num_shared_experts=2,
    layer_types=_MIXED,
    sliding_window=4,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": _MIXTRAL,
    "mixtral-tied-window": _MIXTRAL | dict(sliding_window=4, head_dim=10, tie_word_embeddings=True),
    "phimoe": _PHIMOE | dict(router_jitter_noise=0.1),
    "phimoe-longrope-no-biases": _PHIMOE
    | dict(rope_parameters=_PHIMOE_LONG, sliding_window=6, attention_bias=False, lm_head_bias=False),
    "qwen2-moe": _QWEN2,
    "qwen2-moe-tied-window": _QWEN2
    | dict(
        mlp_only_layers=[],
        decoder_sparse_step=2,
        norm_topk_prob=True,
        qkv_bias=False,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        tie_word_embeddings=True,
    ),
    "qwen3-moe": _QWEN3,
    "qwen3-moe-tied-window": _QWEN3
    | dict(
        norm_topk_prob=True,
        attention_bias=False,
        use_sliding_window=True,
        sliding_window=4,
        tie_word_embeddings=True,
        rope_parameters=_YARN,
    ),
    "granite-moe": _GRANITE | dict(model_type="granitemoe"),
    "granite-moe-tied": _GRANITE | dict(model_type="granitemoe", attention_bias=False, tie_word_embeddings=True),
    "granite-moe-shared": _GRANITE | dict(model_type="granitemoeshared", shared_intermediate_size=14),
    "granite-moe-shared-tied-unshared": _GRANITE
    | dict(model_type="granitemoeshared", attention_bias=False, tie_word_embeddings=True),
    "granite-moe-swa": _GRANITE
    | dict(model_type="granitemoe_swa", sliding_window=4, shared_intermediate_size=14, layer_rope_theta=[50.0, 0, 9.0]),
    "granite-moe-swa-tied-unshared": _GRANITE
    | dict(model_type="granitemoe_swa", sliding_window=4, attention_bias=False, tie_word_embeddings=True),
    "olmoe": _OLMOE | dict(clip_qkv=0.2),
    "olmoe-tied-unclipped": _OLMOE | dict(attention_bias=False, norm_topk_prob=True, tie_word_embeddings=True),
    "flex-olmo": _FLEX,
    "flex-olmo-tied": _FLEX | dict(attention_bias=False, norm_topk_prob=True, tie_word_embeddings=True),
    "gpt-oss": _GPT_OSS,
    "gpt-oss-tied-no-biases": _GPT_OSS
    | dict(attention_bias=False, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=50.0)),
    "ernie4.5-moe": _ERNIE | dict(moe_layer_start_index=1, moe_layer_end_index=2),
    "ernie4.5-moe-tied-unshared": _ERNIE
    | dict(use_bias=False, moe_layer_interval=2, moe_num_shared_experts=0, tie_word_embeddings=True),
    "dots1": _DOTS,
    "dots1-tied-ungrouped": _DOTS | _UNGROUPED | dict(sliding_window=None, tie_word_embeddings=True),
    "glm4-moe": _GLM,
    "glm4-moe-tied-ungrouped": _GLM | _UNGROUPED | dict(use_qk_norm=False, tie_word_embeddings=True),
    "solar-open": _SOLAR,
    "solar-open-tied-ungrouped": _SOLAR | _UNGROUPED | dict(tie_word_embeddings=True),
    "exaone-moe": _EXAONE,
    "exaone-moe-tied-ungrouped": _EXAONE
    | dict(n_group=1, topk_group=1, norm_topk_prob=False, tie_word_embeddings=True, rope_parameters=_YARN),
    "hy-v3": _HUNYUAN | dict(attention_bias=True, mlp_bias=True),
    "hy-v3-tied-sparse": _HUNYUAN | dict(mlp_layer_types=["sparse"] * 3, tie_word_embeddings=True),
    "minimax-m2": _MINIMAX | dict(rotary_dim=4),
    "minimax-m2-tied": _MINIMAX | dict(tie_word_embeddings=True, num_key_value_heads=4),
    "mellum": _MELLUM | dict(layer_types=_MIXED, mlp_layer_types=["dense", "sparse", "sparse"], attention_bias=True),
    "mellum-tied-yarn": _MELLUM
    | dict(
        layer_types=_MIXED,
        norm_topk_prob=False,
        tie_word_embeddings=True,
        rope_parameters={
            "full_attention": _YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    ),
    "flint": _FLINT | dict(attention_bias=True),
    "flint-tied-unnormalized": _FLINT | dict(norm_topk_prob=False, mlp_only_layers=[], tie_word_embeddings=True),
    "aria": _ARIA | dict(attention_bias=True),
    "aria-tied": _ARIA | dict(moe_num_shared_experts=1, moe_topk=3, tie_word_embeddings=True),
    "kolibri": _KOLIBRI,
    "kolibri-tied-normalized": _KOLIBRI | dict(norm_topk_prob=True, tie_word_embeddings=True, rope_parameters=_YARN),
    "afmoe": _AFMOE | dict(attention_bias=True, mup_enabled=True, route_scale=1.7),
    "afmoe-tied-yarn": _AFMOE
    | dict(num_dense_layers=2, num_shared_experts=1, tie_word_embeddings=True, rope_parameters=_YARN),
}
