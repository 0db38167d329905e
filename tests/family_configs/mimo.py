"""MiMo-V2-Flash."""

from typing import Any

from tests.family_configs.llama import SIZES

_ROPE = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.4}
_MIMO = SIZES | dict(
    model_type="mimo_v2_flash",
    num_key_value_heads=1,
    head_dim=10,
    v_head_dim=6,
    n_routed_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=7,
    sliding_window=4,
    layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    rope_parameters={"full_attention": _ROPE | dict(rope_theta=50.0), "sliding_attention": _ROPE},
)

CONFIGS: dict[str, dict[str, Any]] = {
    "mimo": _MIMO | dict(attention_bias=True),
    "mimo-groups-unscaled": _MIMO
    | dict(
        n_group=2,
        attention_value_scale=None,
        norm_topk_prob=False,
        routed_scaling_factor=1.5,
        mlp_layer_types=["sparse", "dense", "sparse"],
    ),
}
