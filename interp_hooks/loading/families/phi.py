"""Phi-1 to Phi-2 (Gunasekar et al. 2023, arxiv.org/abs/2306.11644): parallel blocks with one norm, partial rotary.

Everything has a bias, the unembedding too.
"""

from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import OLDER_ROPE, QK_LN, llama_like, modules
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    arranged = dict(parallel_attn_mlp=True, parallel_shared_norm=True, default_prepend_bos=False)
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | arranged | (QK_LN if hf.qk_layernorm else {})


PHI = Family(
    model_type="phi",
    name="Phi-1, Phi-2",
    config=_config,
    weights=LLAMA.weights
    | modules(
        o="self_attn.dense",
        q_norm="self_attn.q_layernorm",
        k_norm="self_attn.k_layernorm",
        up="mlp.fc1",
        down="mlp.fc2",
        ln_final="model.final_layernorm",
    ),
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=OLDER_ROPE,
)
