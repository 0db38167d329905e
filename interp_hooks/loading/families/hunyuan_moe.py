"""The mixtures of Hunyuan (Tencent 2025): Hunyuan with experts in every layer, and an MLP that every token passes."""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights
from interp_hooks.loading.families.qwen import HUNYUAN
from interp_hooks.loading.families.shared import modules
from interp_hooks.model.config import ExpertsConfig


def _config(hf: Any) -> dict[str, Any]:
    experts = ExpertsConfig(
        n_experts=hf.num_experts,
        experts_per_token=_experts_per_token(hf.moe_topk),
        d_expert=hf.intermediate_size,
        layers=(True,) * hf.num_hidden_layers,
        d_shared=hf.intermediate_size,
        precise_router=True,
    )
    return HUNYUAN.config(hf) | dict(experts=experts)


def _experts_per_token(moe_topk: Any) -> int:
    """The number, which may be listed for each layer."""
    counts = {moe_topk} if isinstance(moe_topk, int) else {*moe_topk}
    if len(counts) > 1:
        raise UnsupportedConfig(f"moe_topk={moe_topk} differs between layers, which interp_hooks does not implement")
    return counts.pop()


HUNYUAN_MOE = replace(
    HUNYUAN,
    model_type="hunyuan_v1_moe",
    name="Hunyuan MoE",
    config=_config,
    weights=HUNYUAN.weights
    | expert_weights(router="mlp.gate.wg")
    | modules(
        shared_gate="mlp.shared_mlp.gate_proj",
        shared_up="mlp.shared_mlp.up_proj",
        shared_down="mlp.shared_mlp.down_proj",
    ),
    ignored_config=(*HUNYUAN.ignored_config, *TRAINING_ONLY),
)
