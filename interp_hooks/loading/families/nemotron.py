"""Llama's block with an MLP that is not gated.

Nemotron (NVIDIA 2024, arxiv.org/abs/2402.16819)   LayerNorm with gain 1 + w, partial rotary, squared ReLU
Jais 2 (Inception 2025)                            LayerNorm, biases, squared ReLU
Apertus (Swiss AI 2025, arxiv.org/abs/2509.14233)  RMSNorm, of queries and keys too, and a learned activation
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA, NORMS, PLAIN_MLP
from interp_hooks.loading.families.shared import activation, head_width, rotary

_LAYER = "model.layers.{i}"
LAYER_NORMS = NORMS | {
    "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias",
    "blocks.{i}.ln2.b": f"{_LAYER}.post_attention_layernorm.bias",
    "ln_final.b": "model.norm.bias",
}


def layer_norm_config(hf: Any, eps: float) -> dict[str, Any]:
    """The fields of a decoder with LayerNorm, by the names that Llama gave them."""
    d_head = head_width(hf)
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_key_value_heads,
        d_head=d_head,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        eps=eps,
        **rotary(hf, d_head),
    )


def _nemotron_config(hf: Any) -> dict[str, Any]:
    return layer_norm_config(hf, hf.norm_eps) | dict(norm_gain_offset=1.0)


NEMOTRON = replace(
    LLAMA,
    model_type="nemotron",
    name="Nemotron, Minitron",
    config=_nemotron_config,
    weights=ENDS | LAYER_NORMS | ATTENTION | PLAIN_MLP,
    ignored_config=(
        *LLAMA.ignored_config,
        "partial_rotary_factor",  # moved into rope_parameters, too
        "kv_channels",  # the training code's name of head_dim
    ),
)


def _jais2_config(hf: Any) -> dict[str, Any]:
    return layer_norm_config(hf, hf.layer_norm_eps)


JAIS2 = replace(NEMOTRON, model_type="jais2", name="Jais 2", config=_jais2_config, ignored_config=LLAMA.ignored_config)


def _apertus_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(gated_mlp=False, qk_norm="shared", qk_norm_type="RMS")


APERTUS = replace(
    LLAMA,
    model_type="apertus",
    name="Apertus",
    config=_apertus_config,
    weights=ENDS
    | ATTENTION
    | PLAIN_MLP
    | {
        "blocks.{i}.ln1.w": f"{_LAYER}.attention_layernorm.weight",
        "blocks.{i}.attn.q_norm.w": f"{_LAYER}.self_attn.q_norm.weight",
        "blocks.{i}.attn.k_norm.w": f"{_LAYER}.self_attn.k_norm.weight",
        "blocks.{i}.ln2.w": f"{_LAYER}.feedforward_layernorm.weight",
        "blocks.{i}.mlp.act_fn.alpha_p": f"{_LAYER}.mlp.act_fn.alpha_p",
        "blocks.{i}.mlp.act_fn.alpha_n": f"{_LAYER}.mlp.act_fn.alpha_n",
    },
    ignored_weights=(*LLAMA.ignored_weights, r".*\.act_fn\.(beta|eps)"),  # constants of the activation
    ignored_config=(*LLAMA.ignored_config, "qk_norm", "post_norm"),  # HuggingFace has no other kind
)
