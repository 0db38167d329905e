"""OLMoE (Muennighoff et al. 2024): all heads' queries, and keys, are normalized together and may be clipped.

FlexOlmo (Shi et al. 2025) does not clip, and normalizes what attention and experts write instead of what they read.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, in_every_layer
from interp_hooks.loading.families.olmo import NORMALIZED_OUTPUTS, QK_NORM_ALL_HEADS


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(
        qk_norm="all_heads",
        qk_norm_type="RMS",
        experts=in_every_layer(hf, hf.num_experts, normalize_weights=hf.norm_topk_prob),
    )


OLMOE = replace(
    LLAMA,
    model_type="olmoe",
    name="OLMoE",
    config=lambda hf: _config(hf) | dict(qkv_clip=hf.clip_qkv or 0.0),
    weights=LLAMA.weights | QK_NORM_ALL_HEADS | expert_weights(),
    ignored_config=(*LLAMA.ignored_config, *TRAINING_ONLY),
)

FLEX_OLMO = replace(
    OLMOE,
    model_type="flex_olmo",
    name="FlexOlmo",
    config=lambda hf: _config(hf) | dict(norm_placement="output"),
    weights=NORMALIZED_OUTPUTS | QK_NORM_ALL_HEADS | expert_weights(),
)
