"""The mixtures of Qwen: Qwen1.5-MoE and Qwen2 (Yang et al. 2024) with an expert that every token passes through a gate,
Qwen3 (Yang et al. 2025) without it but with normalized queries and keys. Some layers may be dense.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights
from interp_hooks.loading.families.shared import LAYER, QK_RMS, modules, window_everywhere, windows
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig


def experts_of_qwen(hf: Any) -> ExpertsConfig:
    """The experts that every mixture of theirs has, without a shared one."""
    return ExpertsConfig(
        n_experts=hf.num_experts,
        experts_per_token=hf.num_experts_per_tok,
        d_expert=hf.moe_intermediate_size,
        layers=tuple(
            layer not in hf.mlp_only_layers and (layer + 1) % hf.decoder_sparse_step == 0
            for layer in range(hf.num_hidden_layers)
        ),
        normalize_weights=hf.norm_topk_prob,
    )


def _qwen2_config(hf: Any) -> dict[str, Any]:
    experts = replace(experts_of_qwen(hf), d_shared=hf.shared_expert_intermediate_size, shared_gate=True)
    return LLAMA.config(hf) | dict(window_sizes=windows(hf), experts=experts)


def _qwen3_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | QK_RMS | dict(window_sizes=window_everywhere(hf), experts=experts_of_qwen(hf))


SHARED_EXPERT: Table = modules(
    shared_gate="mlp.shared_expert.gate_proj",
    shared_up="mlp.shared_expert.up_proj",
    shared_down="mlp.shared_expert.down_proj",
) | {
    "blocks.{i}.mlp.W_shared_gate": f"{LAYER}.mlp.shared_expert_gate.weight | 1 d -> d 1",
    "blocks.{i}.mlp.b_shared_gate": None,
}

_IGNORED = (
    *LLAMA.ignored_config,
    *TRAINING_ONLY,
    "qkv_bias",  # shows in the tensors
    "use_sliding_window",  # these two become sliding_window and layer_types
    "max_window_layers",
)

QWEN2_MOE = replace(
    LLAMA,
    model_type="qwen2_moe",
    name="Qwen1.5-MoE, Qwen2-MoE",
    config=_qwen2_config,
    weights=LLAMA.weights | expert_weights() | SHARED_EXPERT,
    ignored_config=_IGNORED,
)

QWEN3_MOE = replace(
    LLAMA,
    model_type="qwen3_moe",
    name="Qwen3-MoE",
    config=_qwen3_config,
    weights=LLAMA.weights | expert_weights(),
    ignored_config=_IGNORED,
)
