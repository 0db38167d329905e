"""Gemma (Gemma Team 2024): Llama with scaled embeddings, gains stored as their difference from one, and a gated GELU.

Gemma 2 (2024) also normalizes what attention and MLP write, caps attention scores and logits, and gives every second
layer a window. Gemma 3 (2025) normalizes queries and keys instead of capping scores, and rotates layers with a window
at another base. VaultGemma (2025) is Gemma 2, trained with differential privacy, without the norms of what is written.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import QK_RMS, llama_like, modules, windows


def _common(hf: Any, *, act_fn: str) -> dict[str, Any]:
    return llama_like(hf, act_fn=act_fn, eps=hf.rms_norm_eps) | dict(
        normalization_type="RMS", norm_gain_offset=1.0, embed_scale=hf.hidden_size**0.5, gated_mlp=True
    )


def _windowed(hf: Any) -> dict[str, Any]:
    """The fields that all Gemmas since the second have in common."""
    return _common(hf, act_fn=hf.hidden_activation) | dict(
        attn_scale=hf.query_pre_attn_scalar**0.5,
        window_sizes=windows(hf),
        output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
    )


def _vaultgemma_config(hf: Any) -> dict[str, Any]:
    return _windowed(hf) | dict(attn_scores_soft_cap=hf.attn_logit_softcapping or 0.0)


GEMMA = replace(
    LLAMA,
    model_type="gemma",
    name="Gemma",
    config=lambda hf: _common(hf, act_fn=hf.hidden_act),
    ignored_config=(*LLAMA.ignored_config, "hidden_activation"),  # older configs name hidden_act twice
    requires={"use_bidirectional_attention": None},
)

VAULTGEMMA = replace(
    LLAMA,
    model_type="vaultgemma",
    name="VaultGemma",
    config=_vaultgemma_config,
    weights=LLAMA.weights | modules(ln2="pre_feedforward_layernorm"),
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
    config=lambda hf: _vaultgemma_config(hf) | dict(norm_placement="pre_and_output"),
    weights=VAULTGEMMA.weights | modules(ln1_post="post_attention_layernorm", ln2_post="post_feedforward_layernorm"),
    requires={"use_bidirectional_attention": None},
)

GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    name="Gemma 3",
    config=lambda hf: _windowed(hf) | QK_RMS | dict(norm_placement="pre_and_output"),
    ignored_config=(
        *GEMMA2.ignored_config,
        "sliding_window_pattern",  # older configs; layer_types say what comes of it
    ),
    requires={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
)
