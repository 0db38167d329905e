"""OLMo (Groeneveld et al. 2024): LayerNorm without gain and bias; queries, keys and values may be clipped.

OLMo 2 (2024) has RMSNorm on what attention and MLP write, none on what they read, and normalizes queries and keys over
all heads at once. OLMo 3 (2025) gives three of four layers a window; scaled frequencies are for the others alone.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA, MLP
from interp_hooks.loading.families.shared import LAYER, llama_like, modules, windows


def _olmo_config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=1e-5) | dict(
        normalization_type="LNPre", qkv_clip=hf.clip_qkv or 0.0, gated_mlp=True
    )


def _olmo2_config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        normalization_type="RMS",
        norm_placement="output",
        qk_norm="all_heads",
        qk_norm_type="RMS",
        gated_mlp=True,
    )


OUTPUT_NORMS = modules(ln1_post="post_attention_layernorm", ln2_post="post_feedforward_layernorm")
NORMALIZED_OUTPUTS = ENDS | ATTENTION | MLP | OUTPUT_NORMS
QK_NORM_ALL_HEADS = {
    "blocks.{i}.attn.q_norm.w": f"{LAYER}.self_attn.q_norm.weight | (h k) -> h k",
    "blocks.{i}.attn.k_norm.w": f"{LAYER}.self_attn.k_norm.weight | (g k) -> g k",
}

OLMO = replace(LLAMA, model_type="olmo", name="OLMo", config=_olmo_config)

OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    name="OLMo 2",
    config=_olmo2_config,
    weights=NORMALIZED_OUTPUTS | QK_NORM_ALL_HEADS,
)

OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    name="OLMo 3",
    config=lambda hf: OLMO2.config(hf) | dict(window_sizes=windows(hf)),
)
