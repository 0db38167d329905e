"""Llama 4 (Meta 2025): experts that read weighted inputs beside one for every token, adjacent pairs rotated in three of
four layers, and queries and keys normalized after it, without gains.

Beyond `attention_chunk_size` tokens these layers see only their own chunk, and others scale their queries: neither is
implemented, so that the context ends there.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA, NORMS
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, experts_of
from interp_hooks.loading.families.shared import LAYER, head_width, modules, rotary, rotary_where


def _config(hf: Any) -> dict[str, Any]:
    rotates = tuple(map(bool, hf.no_rope_layers))  # those that do not are listed as 0, the others as 1
    fields = rotary_where(rotates, LLAMA.config(hf) | rotary(hf, head_width(hf)))
    normalized = dict(qk_norm="shared", qk_norm_type="RMSPre", qk_norm_after_rotary=True, qk_norm_layers=rotates)
    width, sparse = hf.intermediate_size, tuple(layer in hf.moe_layers for layer in range(hf.num_hidden_layers))
    how: dict[str, Any] = dict(scores="sigmoid", normalize_weights=False, weighted_inputs=True, d_shared=width)
    return (
        fields
        | (normalized if hf.use_qk_norm else {})
        | dict(
            n_ctx=_as_far_as_nothing_changes(hf),
            rotary_adjacent_pairs=True,
            d_mlp=hf.intermediate_size_mlp,
            experts=experts_of(hf, hf.num_local_experts, width, sparse, **how),
        )
    )


def _as_far_as_nothing_changes(hf: Any) -> int:
    limits = [hf.max_position_embeddings]
    chunk, before_scaled = hf.attention_chunk_size, hf.floor_scale - 1
    limits += [chunk] if "chunked_attention" in hf.layer_types else []
    limits += [before_scaled] if hf.attn_temperature_tuning else []
    return min(limits)


LLAMA4 = replace(
    LLAMA,
    model_type="llama4_text",
    name="Llama 4",
    ends=True,
    config=_config,
    weights=ENDS
    | NORMS
    | ATTENTION
    | modules(
        gate="feed_forward.gate_proj",
        up="feed_forward.up_proj",
        down="feed_forward.down_proj",
        router="feed_forward.router",
        shared_gate="feed_forward.shared_expert.gate_proj",
        shared_up="feed_forward.shared_expert.up_proj",
        shared_down="feed_forward.shared_expert.down_proj",
    )
    | {
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{LAYER}.feed_forward.experts.gate_up_proj | e d (two n) -> two e d n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{LAYER}.feed_forward.experts.down_proj",
        **NO_EXPERT_BIASES,
    },
    ignored_config=(
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
        "interleave_moe_layer_step",  # moe_layers and no_rope_layers say what comes of these
        "no_rope_layer_interval",
        "attn_scale",  # by how much queries are scaled, beyond the context
        "for_llm_compressor",
    ),
)
