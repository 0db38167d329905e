"""Command R (Cohere 2024): parallel blocks around one LayerNorm without bias, rotated adjacent pairs, scaled logits.

Command R+ normalizes the queries and keys of each head. Command R7B and Command A (2024-25, `cohere2`) have windows in
three of four layers, and only these rotate. `cohere2_moe` (2026) has experts, and perhaps one for every token; a first
few layers may be dense, and rotate in any case. The language model of North Vision (2026, `cohere_compass_text`)
rotates halves of heads, with a base for each kind of layer, or not at all.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, in_every_layer, where_sparse
from interp_hooks.loading.families.shared import llama_like, modules, rotary_where, windows
from interp_hooks.model.config import ExpertsConfig


def _config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | dict(
        rotary_adjacent_pairs=True,
        parallel_attn_mlp=True,
        parallel_shared_norm=True,
        gated_mlp=True,
        logits_scale=hf.logit_scale,
    )


def _cohere_config(hf: Any) -> dict[str, Any]:
    return _config(hf) | (dict(qk_norm="per_head", qk_norm_type="LN") if hf.use_qk_norm else {})


def _cohere2_config(hf: Any) -> dict[str, Any]:
    return rotary_where(windows(hf), _config(hf)) | dict(window_sizes=windows(hf))


COHERE2 = replace(
    LLAMA,
    model_type="cohere2",
    name="Command R7B, Command A",
    config=_cohere2_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "sliding_window_pattern",  # older configs; layer_types say what comes of it
        "cache_implementation",  # how generation lays out its memory
        # Published configs describe by these what transformers builds in any case
        *("layer_switch", "order_of_interleaved_layers", "position_embedding_type", "rotary_pct", "use_qk_norm"),
        *(f"use_{what}" for what in ("embedding_sharing", "gated_activation", "parallel_block", "parallel_embedding")),
    ),
)

COHERE = replace(
    COHERE2,
    model_type="cohere",
    name="Command R",
    config=_cohere_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "model_max_length",  # a limit of the service, which transformers does not read
    ),
)


def _experts(hf: Any) -> ExpertsConfig:
    averages = hf.shared_expert_combination_strategy == "average" and hf.num_shared_experts > 0
    return in_every_layer(
        hf,
        hf.num_experts,
        scores=hf.expert_selection_fn,
        normalize_weights=hf.norm_topk_prob or hf.expert_selection_fn == "softmax",
        weight_scale=0.5 if averages else 1.0,
        shared_scale=0.5 if averages else 1.0,
        d_shared=hf.num_shared_experts * hf.intermediate_size,
    )


def _moe_config(hf: Any) -> dict[str, Any]:
    sparse, always = where_sparse(hf), hf.prefix_dense_sliding_window_pattern == 1
    rotates = [window or (always and not here) for window, here in zip(windows(hf), sparse, strict=True)]
    fields = rotary_where(rotates, _config(hf)) | dict(
        window_sizes=windows(hf), experts=replace(_experts(hf), layers=sparse)
    )
    if hf.rms_norm_eps is not None:
        fields |= dict(normalization_type="RMS", eps=hf.rms_norm_eps)
    return fields | dict(d_mlp=hf.prefix_dense_intermediate_size or hf.intermediate_size)


COHERE2_MOE = replace(
    COHERE2,
    model_type="cohere2_moe",
    name="Command A MoE",
    config=_moe_config,
    weights=COHERE2.weights
    | expert_weights()
    | modules(
        shared_gate="mlp.shared_experts.gate_proj",
        shared_up="mlp.shared_experts.up_proj",
        shared_down="mlp.shared_experts.down_proj",
    ),
    ignored_config=(*COHERE2.ignored_config, *TRAINING_ONLY),
)


def _compass_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf) | dict(rotary_adjacent_pairs=False, window_sizes=windows(hf))
    return fields | dict(logits_scale=1.0 if hf.logit_scale is None else hf.logit_scale)


COHERE_COMPASS = replace(
    LLAMA,
    model_type="cohere_compass_text",
    name="North Vision (language model)",
    config=_compass_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "pooling",  # of a head that classifies
    ),
)
