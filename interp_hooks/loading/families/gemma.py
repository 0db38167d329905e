"""Gemma (Gemma Team 2024): Llama with scaled embeddings, gains stored as their difference from one, and a gated GELU.

Gemma 2 (2024) also normalizes what attention and MLP write, caps attention scores and logits, and gives every second
layer a window. Gemma 3 (2025) normalizes queries and keys instead of capping scores, and rotates layers with a window
at another base. VaultGemma (2025) is Gemma 2, trained with differential privacy, without the norms of what is written.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, GATED_MLP, LLAMA
from interp_hooks.loading.families.olmo import OUTPUT_NORMS
from interp_hooks.loading.families.qwen import QK_NORM
from interp_hooks.loading.families.shared import activation, rotary, rotary_of_types, sizes, windows


def _common(hf: Any) -> dict[str, Any]:
    return sizes(hf) | dict(
        normalization_type="RMS",
        norm_gain_offset=1.0,
        eps=hf.rms_norm_eps,
        embed_scale=hf.hidden_size**0.5,
        gated_mlp=True,
    )


def _gemma_config(hf: Any) -> dict[str, Any]:
    return _common(hf) | rotary(hf, hf.head_dim) | dict(act_fn=activation(hf.hidden_act))


def _windowed(hf: Any) -> dict[str, Any]:
    """What every Gemma has since the second."""
    return _common(hf) | dict(
        act_fn=activation(hf.hidden_activation),
        attn_scale=hf.query_pre_attn_scalar**0.5,
        window_sizes=windows(hf),
        output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
    )


def _vaultgemma_config(hf: Any) -> dict[str, Any]:
    return _windowed(hf) | rotary(hf, hf.head_dim) | dict(attn_scores_soft_cap=hf.attn_logit_softcapping or 0.0)


def _gemma2_config(hf: Any) -> dict[str, Any]:
    return _vaultgemma_config(hf) | dict(norm_placement="pre_and_output")


def _gemma3_config(hf: Any) -> dict[str, Any]:
    return (
        _windowed(hf)
        | rotary_of_types(hf)
        | dict(norm_placement="pre_and_output", qk_norm="shared", qk_norm_type="RMS")
    )


_LAYER = "model.layers.{i}"

GEMMA = replace(
    LLAMA,
    model_type="gemma",
    name="Gemma",
    config=_gemma_config,
    ignored_config=(*LLAMA.ignored_config, "hidden_activation"),  # older configs name hidden_act twice
    requires={"use_bidirectional_attention": None},
)

VAULTGEMMA = replace(
    LLAMA,
    model_type="vaultgemma",
    name="VaultGemma",
    config=_vaultgemma_config,
    weights=ENDS
    | ATTENTION
    | GATED_MLP
    | {
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.ln2.w": f"{_LAYER}.pre_feedforward_layernorm.weight",
    },
    ignored_config=(
        *LLAMA.ignored_config,
        "hidden_act",  # older configs name hidden_activation and sliding_window twice
        "sliding_window_size",
        "cache_implementation",  # how generation lays out its memory
    ),
)

GEMMA2 = replace(
    VAULTGEMMA,
    model_type="gemma2",
    name="Gemma 2",
    config=_gemma2_config,
    weights=VAULTGEMMA.weights | OUTPUT_NORMS,
    requires={"use_bidirectional_attention": None},
)

GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    name="Gemma 3",
    config=_gemma3_config,
    weights=GEMMA2.weights | QK_NORM,
    ignored_config=(
        *GEMMA2.ignored_config,
        "sliding_window_pattern",  # older configs; layer_types say what comes of it
    ),
    requires={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
)
