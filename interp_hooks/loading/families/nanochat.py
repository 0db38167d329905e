"""nanochat (Karpathy 2025): RMSNorm without gains, also of the embeddings; squared ReLU; capped logits.

Rotations turn the other way round, and queries and keys are normalized after them.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA
from interp_hooks.loading.families.shared import activation, head_width, rotary, sizes


def _config(hf: Any) -> dict[str, Any]:
    return (
        sizes(hf)
        | rotary(hf, head_width(hf))
        | dict(
            act_fn=activation(hf.hidden_act),
            normalization_type="RMSPre",
            eps=hf.rms_norm_eps,
            embed_norm_type="RMSPre",
            qk_norm="shared",
            qk_norm_type="RMSPre",
            qk_norm_after_rotary=True,
            rotary_reversed=True,
            output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
        )
    )


_LAYER = "model.layers.{i}"

NANOCHAT = replace(
    LLAMA,
    model_type="nanochat",
    name="nanochat",
    config=_config,
    weights={ours: theirs for ours, theirs in ENDS.items() if ours != "ln_final.w"}
    | ATTENTION
    | {
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.fc1.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": None,
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.fc2.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": None,
    },
)
