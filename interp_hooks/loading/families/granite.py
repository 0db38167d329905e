"""Granite 3 (IBM 2024): Llama with multipliers on embeddings, attention scores, what sublayers write, and logits."""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(
        embed_scale=hf.embedding_multiplier,
        attn_scale=1 / hf.attention_multiplier,
        residual_scale=hf.residual_multiplier,
        logits_scale=1 / hf.logits_scaling,
    )


GRANITE = replace(LLAMA, model_type="granite", name="Granite 3", config=_config)
