"""DBRX."""

from typing import Any

from tests.family_configs.llama import LINEAR

_DBRX = dict(model_type="dbrx", d_model=24, n_heads=4, n_layers=3, max_seq_len=32, vocab_size=61)
_FFN = dict(hidden_size=24, ffn_hidden_size=14, moe_num_experts=5, moe_top_k=2)

CONFIGS: dict[str, dict[str, Any]] = {
    "dbrx": _DBRX
    | dict(
        attn_config=dict(kv_n_heads=2, clip_qkv=0.5, rope_theta=10000.0),
        ffn_config=_FFN | dict(moe_jitter_eps=0.01),
    ),
    "dbrx-one-key-head": _DBRX
    | dict(
        attn_config=dict(kv_n_heads=1, clip_qkv=8.0, rope_theta=100.0),
        ffn_config=_FFN | dict(moe_normalize_expert_weights=None, ffn_act_fn={"name": "gelu"}),
        rope_parameters=LINEAR,
    ),
}
