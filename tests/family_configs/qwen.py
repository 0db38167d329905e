"""Qwen 2 and 3, Hunyuan and its mixture."""

from typing import Any

from tests.family_configs.llama import SIZES, YARN

_QWEN2 = SIZES | dict(model_type="qwen2")
_QWEN3 = SIZES | dict(model_type="qwen3", head_dim=10)
_HUNYUAN = SIZES | dict(model_type="hunyuan_v1_dense", head_dim=10)
_WINDOW = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
_HUNYUAN_MOE = _HUNYUAN | dict(model_type="hunyuan_v1_moe", intermediate_size=20, num_experts=5, moe_topk=2)

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": _QWEN2 | _WINDOW,
    "qwen2-tied-yarn": _QWEN2 | dict(tie_word_embeddings=True, rope_parameters=YARN, use_mrope=False),
    "qwen3": _QWEN3 | _WINDOW | dict(attention_bias=True),
    "qwen3-tied-yarn": _QWEN3 | dict(tie_word_embeddings=True, rope_parameters=YARN),
    "hunyuan": _HUNYUAN | dict(attention_bias=True),
    "hunyuan-tied-alpha": _HUNYUAN
    | dict(
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="dynamic", rope_theta=10.0, factor=1.0, alpha=7.0),
        attention_head_dim=10,
        org_vocab_size=61,
        use_qk_norm=True,
        use_cla=False,
        cla_share_factor=2,
        norm_type="rms",
    ),
    "hunyuan-moe": _HUNYUAN_MOE | dict(attention_bias=True),
    "hunyuan-moe-tied-listed": _HUNYUAN_MOE | dict(moe_topk=[3, 3, 3], tie_word_embeddings=True),
}
