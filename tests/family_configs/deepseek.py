"""DeepSeek-V2 and V3, and others with latent attention."""

from typing import Any

_DEEPSEEK = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    num_key_value_heads=3,
    kv_lora_rank=10,
    q_lora_rank=14,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=7,
    intermediate_size=40,
    moe_intermediate_size=9,
    n_routed_experts=6,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    n_shared_experts=2,
    routed_scaling_factor=1.7,
    vocab_size=61,
    max_position_embeddings=32,
)
_V2, _V3 = (
    _DEEPSEEK | dict(model_type="deepseek_v2"),
    _DEEPSEEK | dict(model_type="deepseek_v3", n_group=2, topk_group=1),
)
_YARN = dict(
    rope_type="yarn",
    rope_theta=100.0,
    factor=8.0,
    beta_fast=32,
    beta_slow=1,
    original_max_position_embeddings=6,
)
_DENSE = {
    name: _DEEPSEEK[name]
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "kv_lora_rank")
}
_DENSE |= {
    name: _DEEPSEEK[name]
    for name in ("q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size")
}
_DENSE |= dict(vocab_size=61, max_position_embeddings=32)
_YOUTU = _DENSE | dict(model_type="youtu")
_MINICPM3 = _DENSE | dict(model_type="minicpm3", scale_emb=7, scale_depth=1.1, dim_model_base=10)
_GLM = _DEEPSEEK | dict(model_type="glm4_moe_lite", n_group=2, topk_group=1)
_AXK1 = {name: value for name, value in _GLM.items() if name != "first_k_dense_replace"} | dict(model_type="axk1")
_INDEXED = _DEEPSEEK | dict(index_n_heads=8, index_head_dim=6, index_topk=4, n_group=2, topk_group=1)
_V32, _DSA = _INDEXED | dict(model_type="deepseek_v32"), _INDEXED | dict(model_type="glm_moe_dsa")

CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek-v2": _V2 | dict(attention_bias=True, mlp_bias=True),
    "deepseek-v2-groups": _V2 | dict(topk_method="group_limited_greedy", n_group=3, topk_group=2),
    "deepseek-v2-lite": _V2 | dict(q_lora_rank=None, first_k_dense_replace=0, n_shared_experts=1),
    "deepseek-v2-yarn": _V2 | dict(rope_parameters=_YARN, tie_word_embeddings=True),
    "deepseek-v3": _V3 | dict(attention_bias=True),
    "deepseek-v3-yarn": _V3 | dict(rope_parameters=_YARN | dict(mscale=0.7, mscale_all_dim=1.2), rope_interleave=False),
    "moonlight": _V3 | dict(q_lora_rank=None, n_group=1, topk_group=1, norm_topk_prob=False),
    "youtu": _YOUTU | dict(attention_bias=True, tie_word_embeddings=False),
    "youtu-tied-halves-yarn": _YOUTU
    | dict(q_lora_rank=None, rope_interleave=False, tie_word_embeddings=True, rope_parameters=_YARN),
    "minicpm3": _MINICPM3 | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "minicpm3-tied-unscaled": _MINICPM3 | dict(scale_depth=None, dim_model_base=None, q_lora_rank=None),
    "glm4-moe-lite": _GLM | dict(attention_bias=True),
    "glm4-moe-lite-tied-ungrouped": _GLM
    | dict(n_group=1, mlp_layer_types=["sparse", "dense", "sparse"], norm_topk_prob=False, tie_word_embeddings=True),
    "deepseek-v3.2": _V32 | dict(attention_bias=True),
    "deepseek-v3.2-yarn-all-seen": _V32
    | dict(
        index_topk=12,
        mlp_layer_types=["sparse", "dense", "sparse"],
        rope_parameters=_YARN | dict(mscale=0.7, mscale_all_dim=1.2),
    ),
    "deepseek-v3.2-one": _V32 | dict(index_topk=1, index_head_dim=4, n_group=1, topk_group=1, norm_topk_prob=False),
    "glm-5": _DSA | dict(attention_bias=True, n_group=1),
    "glm-5.1": _DSA | dict(index_topk=5, indexer_types=["full", "full", "shared"], tie_word_embeddings=True),
    "axk1": _AXK1 | dict(attention_bias=True),
    "axk1-yarn-halves": _AXK1
    | dict(
        n_group=1,
        topk_group=1,
        mlp_layer_types=["sparse", "dense", "sparse"],
        norm_topk_prob=False,
        rope_interleave=False,
        rope_parameters=_YARN | dict(mscale=0.7, mscale_all_dim=1.2),
    ),
}
