"""OLMo (Groeneveld et al. 2024): LayerNorm without gain and bias; queries, keys and values may be clipped.

OLMo 2 (2024) has RMSNorm on what attention and MLP write, none on what they read, and normalizes queries and keys over
all heads at once. OLMo 3 (2025) gives three of four layers a window; scaled frequencies are for the others alone.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, GATED_MLP, LLAMA
from interp_hooks.loading.families.shared import activation, head_width, rotary, rotary_of_types, sizes, windows


def _olmo_config(hf: Any) -> dict[str, Any]:
    return (
        sizes(hf)
        | rotary(hf, head_width(hf))
        | dict(
            act_fn=activation(hf.hidden_act),
            normalization_type="LNPre",
            eps=1e-5,
            qkv_clip=hf.clip_qkv or 0.0,
            gated_mlp=True,
        )
    )


def _normalized_outputs(hf: Any) -> dict[str, Any]:
    return sizes(hf) | dict(
        act_fn=activation(hf.hidden_act),
        normalization_type="RMS",
        eps=hf.rms_norm_eps,
        norm_placement="output",
        qk_norm="all_heads",
        qk_norm_type="RMS",
        gated_mlp=True,
    )


def _olmo2_config(hf: Any) -> dict[str, Any]:
    return _normalized_outputs(hf) | rotary(hf, head_width(hf))


def _olmo3_config(hf: Any) -> dict[str, Any]:
    by_type = "full_attention" in hf.rope_parameters  # older transformers have one mapping for all layers
    rope = rotary_of_types(hf) if by_type else rotary(hf, head_width(hf))
    return _normalized_outputs(hf) | rope | dict(window_sizes=windows(hf))


_LAYER = "model.layers.{i}"

OUTPUT_NORMS = {
    "blocks.{i}.ln1_post.w": f"{_LAYER}.post_attention_layernorm.weight",
    "blocks.{i}.ln2_post.w": f"{_LAYER}.post_feedforward_layernorm.weight",
}
QK_NORM_ALL_HEADS = {
    "blocks.{i}.attn.q_norm.w": f"{_LAYER}.self_attn.q_norm.weight | (h k) -> h k",
    "blocks.{i}.attn.k_norm.w": f"{_LAYER}.self_attn.k_norm.weight | (g k) -> g k",
}

OLMO = replace(
    LLAMA,
    model_type="olmo",
    name="OLMo",
    config=_olmo_config,
    weights={ours: theirs for ours, theirs in ENDS.items() if ours != "ln_final.w"} | ATTENTION | GATED_MLP,
)

OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    name="OLMo 2",
    config=_olmo2_config,
    weights=ENDS | ATTENTION | QK_NORM_ALL_HEADS | GATED_MLP | OUTPUT_NORMS,
)

OLMO3 = replace(OLMO2, model_type="olmo3", name="OLMo 3", config=_olmo3_config)
