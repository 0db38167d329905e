"""Granite 3 (IBM 2024): Llama with multipliers on embeddings, attention scores, what sublayers write, and logits.

Granite SWA (IBM 2026) has windows, sinks, and a base of the rotation for every layer, or none. HyperCLOVA X SEED Think
(NAVER 2025) normalizes what attention and MLP write too.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import LAYER, modules, windows
from interp_hooks.loading.rules import Table


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(
        embed_scale=hf.embedding_multiplier,
        attn_scale=1 / hf.attention_multiplier,
        residual_scale=hf.residual_multiplier,
        logits_scale=1 / hf.logits_scaling,
    )


GRANITE = replace(LLAMA, model_type="granite", name="Granite 3", config=_config)


def windowed(hf: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields for a model with windows and sinks whose layers rotate each at a base of its own, 0 for not."""
    rope = hf.rope_parameters | dict(max_position_embeddings=hf.max_position_embeddings)
    layers = tuple(rope | dict(rope_theta=theta) if theta else None for theta in hf.layer_rope_theta)
    return fields | dict(attn_sinks=True, window_sizes=windows(hf), rotary_layers=layers)


SINKS: Table = {"blocks.{i}.attn.sinks": f"{LAYER}.self_attn.sinks"}

GRANITE_SWA = replace(
    GRANITE,
    model_type="granite_swa",
    name="Granite SWA",
    config=lambda hf: windowed(hf, GRANITE.config(hf)),
    weights=GRANITE.weights | SINKS,
)


def _hyperclovax_config(hf: Any) -> dict[str, Any]:
    placement = "pre_and_output" if hf.use_post_norm else "pre"
    return GRANITE.config(hf) | dict(norm_placement=placement, logits_scale=hf.logits_scaling)


HYPERCLOVAX = replace(
    GRANITE,
    model_type="hyperclovax",
    name="HyperCLOVA X SEED Think",
    config=_hyperclovax_config,
    weights=GRANITE.weights | modules(ln1_post="post_norm1", ln2_post="post_norm2"),
)
