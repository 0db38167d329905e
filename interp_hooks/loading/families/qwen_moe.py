"""The mixtures of Qwen: Qwen1.5-MoE and Qwen2 (Yang et al. 2024) with an expert that every token passes through a gate,
Qwen3 (Yang et al. 2025) without it but with normalized queries and keys. Some layers may be dense.

Mellum 2 (JetBrains 2026) is Qwen3-MoE with windows that rotate at a base of their own. Flint (2026) has sinks, a
router of sigmoids and an expert for every token, and rotates only where there are windows.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, experts_of, where_sparse
from interp_hooks.loading.families.shared import (
    LAYER,
    QK_RMS,
    head_width,
    modules,
    rotary,
    rotary_where,
    window_everywhere,
    windows,
)
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig


def experts_of_qwen(hf: Any, layers: tuple[bool, ...] | None = None) -> ExpertsConfig:
    """The experts that every mixture of theirs has, without a shared one, in the usual layers or in the given ones."""
    usual = (
        layer not in hf.mlp_only_layers and (layer + 1) % hf.decoder_sparse_step == 0
        for layer in range(hf.num_hidden_layers)
    )
    width, normalizes = hf.moe_intermediate_size, hf.norm_topk_prob
    return experts_of(hf, hf.num_experts, width, layers or tuple(usual), normalize_weights=normalizes)


def _qwen2_config(hf: Any) -> dict[str, Any]:
    experts = replace(experts_of_qwen(hf), d_shared=hf.shared_expert_intermediate_size, shared_gate=True)
    return LLAMA.config(hf) | dict(window_sizes=windows(hf), experts=experts)


def _qwen3_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | QK_RMS | dict(window_sizes=window_everywhere(hf), experts=experts_of_qwen(hf))


def _mellum_config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | rotary(hf, head_width(hf)) | QK_RMS
    return fields | dict(window_sizes=windows(hf), experts=experts_of_qwen(hf, where_sparse(hf)))


def _flint_config(hf: Any) -> dict[str, Any]:
    shared = hf.shared_expert_intermediate_size
    experts = replace(experts_of_qwen(hf), scores="sigmoid", d_shared=shared, precise_router=True)
    fields = LLAMA.config(hf) | QK_RMS | dict(attn_sinks=True, window_sizes=windows(hf), experts=experts)
    return rotary_where(windows(hf), fields)


_SHARED_MLP = modules(
    shared_gate="mlp.shared_expert.gate_proj",
    shared_up="mlp.shared_expert.up_proj",
    shared_down="mlp.shared_expert.down_proj",
)
SHARED_EXPERT: Table = _SHARED_MLP | {
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

MELLUM = replace(
    QWEN3_MOE,
    model_type="mellum",
    name="Mellum 2",
    config=_mellum_config,
    ignored_weights=(*LLAMA.ignored_weights, r"mtp\..*"),  # the module that predicts the token after the next
    ignored_config=(
        *_IGNORED,
        "num_nextn_predict_layers",  # what that module is like
        "mtp_layer_types",
        "mtp_mlp_layer_types",
    ),
)

FLINT = replace(
    QWEN3_MOE,
    model_type="flint",
    name="Flint",
    config=_flint_config,
    weights=QWEN3_MOE.weights | _SHARED_MLP | {"blocks.{i}.attn.sinks": f"{LAYER}.self_attn.sinks"},
)
