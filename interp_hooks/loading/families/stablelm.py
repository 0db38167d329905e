"""StableLM 3B to 2 (Stability AI 2023-24): Llama with LayerNorm and partial rotary.

The 12B model has parallel blocks with one norm, and a norm of its own for every head's queries and keys.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import OLDER_ROPE, llama_like, modules


def _config(hf: Any) -> dict[str, Any]:
    parallel = hf.use_parallel_residual
    fields = llama_like(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps)
    fields |= dict(gated_mlp=True, parallel_attn_mlp=parallel, parallel_shared_norm=parallel)
    return fields | (dict(qk_norm="per_head", qk_norm_type="LN") if hf.qk_layernorm else {})


STABLELM = replace(
    LLAMA,
    model_type="stablelm",
    name="StableLM",
    config=_config,
    weights=LLAMA.weights | modules(q_norm="self_attn.q_layernorm.norms.*", k_norm="self_attn.k_layernorm.norms.*"),
    ignored_config=(*OLDER_ROPE, "use_qkv_bias"),  # shows in the tensors
)
