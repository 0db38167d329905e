"""StableLM 3B to 2 (Stability AI 2023-24): Llama with LayerNorm and partial rotary.

The 12B model has parallel blocks with one norm, and a norm of its own for every head's queries and keys.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, GATED_MLP, LLAMA
from interp_hooks.loading.families.nemotron import LAYER_NORMS, layer_norm_config


def _config(hf: Any) -> dict[str, Any]:
    normed = dict(qk_norm="per_head", qk_norm_type="LN") if hf.qk_layernorm else {}
    return (
        layer_norm_config(hf, hf.layer_norm_eps)
        | normed
        | dict(
            gated_mlp=True,
            parallel_attn_mlp=hf.use_parallel_residual,
            parallel_shared_norm=hf.use_parallel_residual,
        )
    )


_LAYER = "model.layers.{i}"

STABLELM = replace(
    LLAMA,
    model_type="stablelm",
    name="StableLM",
    config=_config,
    weights=ENDS
    | LAYER_NORMS
    | ATTENTION
    | GATED_MLP
    | {
        "blocks.{i}.attn.q_norm.w": f"{_LAYER}.self_attn.q_layernorm.norms.*.weight",
        "blocks.{i}.attn.q_norm.b": None,
        "blocks.{i}.attn.k_norm.w": f"{_LAYER}.self_attn.k_layernorm.norms.*.weight",
        "blocks.{i}.attn.k_norm.b": None,
    },
    ignored_config=(
        "use_qkv_bias",  # shows in the tensors
        "rope_theta",  # older names, which HuggingFace moves into rope_parameters
        "rope_scaling",
        "partial_rotary_factor",
    ),
)
