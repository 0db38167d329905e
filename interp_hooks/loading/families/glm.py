"""GLM-4 (GLM Team 2024): half of each head rotates, in adjacent pairs; gate and linear part of the MLP are one matrix.

GLM-4-0414 (2025) also normalizes what attention and MLP write.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA, NORMS
from interp_hooks.loading.families.shared import head_width, modules, rotary


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | rotary(hf, head_width(hf)) | dict(rotary_adjacent_pairs=True)


GLM = replace(
    LLAMA,
    model_type="glm",
    name="GLM-4",
    config=_config,
    weights=ENDS | NORMS | ATTENTION | modules(gate_up="mlp.gate_up_proj", down="mlp.down_proj"),
    ignored_config=(*LLAMA.ignored_config, "partial_rotary_factor"),  # an older name of what rope_parameters hold
)

GLM4 = replace(
    GLM,
    model_type="glm4",
    name="GLM-4-0414",
    config=lambda hf: GLM.config(hf) | dict(norm_placement="pre_and_output"),
    weights=GLM.weights | modules(ln1_post="post_self_attn_layernorm", ln2_post="post_mlp_layernorm"),
)
