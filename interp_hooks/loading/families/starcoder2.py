"""StarCoder 2 (Lozhkov et al. 2024, arxiv.org/abs/2402.19173): grouped heads and windows, LayerNorm, a plain MLP."""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA
from interp_hooks.loading.families.nemotron import LAYER_NORMS, layer_norm_config


def _config(hf: Any) -> dict[str, Any]:
    return layer_norm_config(hf, hf.norm_epsilon) | dict(window_sizes=(hf.sliding_window,) * hf.num_hidden_layers)


_LAYER = "model.layers.{i}"

STARCODER2 = replace(
    LLAMA,
    model_type="starcoder2",
    name="StarCoder 2",
    config=_config,
    weights=ENDS
    | LAYER_NORMS
    | ATTENTION
    | {
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.c_fc.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.c_fc.bias?",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.c_proj.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.c_proj.bias?",
    },
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
