"""nanochat (Karpathy 2025): RMSNorm without gains, also of the embeddings; squared ReLU; capped logits.

Rotations turn the other way round, and queries and keys are normalized after them.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA
from interp_hooks.loading.families.shared import llama_like, modules


def _config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        normalization_type="RMSPre",
        embed_norm_type="RMSPre",
        qk_norm="shared",
        qk_norm_type="RMSPre",
        qk_norm_after_rotary=True,
        rotary_reversed=True,
        output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
    )


NANOCHAT = replace(
    LLAMA,
    model_type="nanochat",
    name="nanochat",
    config=_config,
    weights=ENDS | ATTENTION | modules(up="mlp.fc1", down="mlp.fc2"),
)
