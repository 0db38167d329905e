"""Phi-3 and Phi-4 (Abdin et al. 2024): Llama with fused matrices, windows, and LongRoPE (arxiv.org/abs/2402.13753).

Of Phi-4-multimodal (Abouelenin et al. 2025) the language model converts, without the low-rank adapters of its other
modalities.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ENDS, LLAMA, NORMS
from interp_hooks.loading.families.shared import head_width, modules, rotary, window_everywhere


def _config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | rotary(hf, head_width(hf))
    fields["window_sizes"] = window_everywhere(hf)
    original = hf.original_max_position_embeddings
    if fields["rotary_scaling"] is not None:
        fields["rotary_scaling"] |= dict(original_max_position_embeddings=original)
    return fields


PHI3 = replace(
    LLAMA,
    model_type="phi3",
    name="Phi-3, Phi-4",
    config=_config,
    weights=ENDS
    | NORMS
    | modules(qkv="self_attn.qkv_proj", o="self_attn.o_proj", gate_up="mlp.gate_up_proj", down="mlp.down_proj"),
    ignored_config=(
        *LLAMA.ignored_config,
        "partial_rotary_factor",  # HuggingFace moves it into rope_parameters
    ),
    requires={"lm_head_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
)

PHI4_MULTIMODAL = replace(
    PHI3,
    model_type="phi4_multimodal",
    name="Phi-4-multimodal",
    ignored_weights=(*LLAMA.ignored_weights, r"model\.embed_tokens_extend\..*"),  # of images and sounds
    ignored_config=(*PHI3.ignored_config, "vision_config", "audio_config", "resid_pdrop", "embd_pdrop"),
)
