"""Command R (Cohere 2024): parallel blocks around one LayerNorm without bias, rotated adjacent pairs, scaled logits.

Command R+ normalizes the queries and keys of each head. Command R7B and Command A (2024-25, `cohere2`) have windows in
three of four layers, and only these rotate.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import llama_like, rotary_where, windows


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
