"""StarCoder 2 (Lozhkov et al. 2024, arxiv.org/abs/2402.19173): grouped heads and windows, LayerNorm, a plain MLP."""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import llama_like, modules, window_everywhere


def _config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.norm_epsilon) | dict(window_sizes=window_everywhere(hf))


STARCODER2 = replace(
    LLAMA,
    model_type="starcoder2",
    name="StarCoder 2",
    config=_config,
    weights=LLAMA.weights | modules(up="mlp.c_fc", down="mlp.c_proj"),
    ignored_config=(
        *LLAMA.ignored_config,
        "use_bias",  # shows in the tensors
        "mlp_type",  # HuggingFace reads none of these; they are as it computes in every published checkpoint
        "norm_type",
        "layer_norm_epsilon",
        "scale_attn_weights",
        "attention_softmax_in_fp32",
        "scale_attention_softmax_in_fp32",
    ),
)
