"""Llama's block with an MLP that is not gated.

Nemotron (NVIDIA 2024, arxiv.org/abs/2402.16819)   LayerNorm with gain 1 + w, partial rotary, squared ReLU
Jais 2 (Inception 2025)                            LayerNorm, biases, squared ReLU
Apertus (Swiss AI 2025, arxiv.org/abs/2509.14233)  RMSNorm, of queries and keys too, and a learned activation
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import LAYER, QK_RMS, llama_like, modules


def _nemotron_config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.norm_eps) | dict(norm_gain_offset=1.0)


NEMOTRON = replace(
    LLAMA,
    model_type="nemotron",
    name="Nemotron, Minitron",
    config=_nemotron_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "partial_rotary_factor",  # moved into rope_parameters, too
        "kv_channels",  # the training code's name of head_dim
    ),
)

JAIS2 = replace(
    LLAMA,
    model_type="jais2",
    name="Jais 2",
    config=lambda hf: llama_like(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps),
)

APERTUS = replace(
    LLAMA,
    model_type="apertus",
    name="Apertus",
    config=lambda hf: LLAMA.config(hf) | QK_RMS | dict(gated_mlp=False),
    weights=LLAMA.weights
    | modules(ln1="attention_layernorm", ln2="feedforward_layernorm")
    | {
        "blocks.{i}.mlp.act_fn.alpha_p": f"{LAYER}.mlp.act_fn.alpha_p",
        "blocks.{i}.mlp.act_fn.alpha_n": f"{LAYER}.mlp.act_fn.alpha_n",
    },
    ignored_weights=(*LLAMA.ignored_weights, r".*\.act_fn\.(beta|eps)"),  # constants of the activation
    ignored_config=(*LLAMA.ignored_config, "qk_norm", "post_norm"),  # HuggingFace has no other kind
)
