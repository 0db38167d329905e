"""Mistral (Jiang et al. 2023): Llama whose layers see a window of the last tokens.

Ministral (Mistral AI 2024) alternates windows with full attention; Ministral 3 (2025) sees everything and scales
queries up beyond the context of its pretraining.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import window_everywhere, windows


def _mistral_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(window_sizes=window_everywhere(hf))


def _ministral3_config(hf: Any) -> dict[str, Any]:
    rope = hf.rope_parameters
    return _mistral_config(hf) | dict(
        attn_log_scale=(rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"])
    )


MISTRAL = replace(LLAMA, model_type="mistral", name="Mistral", config=_mistral_config)

MINISTRAL = replace(
    LLAMA,
    model_type="ministral",
    name="Ministral",
    config=lambda hf: LLAMA.config(hf) | dict(window_sizes=windows(hf)),
)

MINISTRAL3 = replace(LLAMA, model_type="ministral3", name="Ministral 3", config=_ministral3_config)
