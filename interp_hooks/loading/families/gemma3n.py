"""Gemma 3n (Google DeepMind 2025): Gemma 3 with four streams (AltUp), a low-rank map beside attention (LAuReL),
embeddings of each layer's own, last layers that attend to keys and values of earlier ones, and sparse first MLPs.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.gemma import GEMMA3
from interp_hooks.loading.families.gemma4 import GEMMA4, common
from interp_hooks.loading.families.shared import LAYER, llama_like
from interp_hooks.loading.rules import Table

_EVERY = "model.layers.*"  # their layers, whose tensors are stacked here


def _config(hf: Any) -> dict[str, Any]:
    return (
        llama_like(hf, act_fn=hf.hidden_activation, eps=hf.rms_norm_eps)
        | common(hf)
        | dict(
            d_mlp=hf.intermediate_size[0],
            d_mlp_layers=tuple(hf.intermediate_size),
            mlp_sparsity_layers=tuple(hf.activation_sparsity_pattern),
            d_layer_embed=hf.hidden_size_per_layer_input,
            d_vocab_layer_embed=min(hf.vocab_size_per_layer_input, hf.vocab_size),
            n_streams=hf.altup_num_inputs,
            laurel_rank=hf.laurel_rank,
        )
    )


_STREAMS: Table = {
    "altup.W_in": "model.altup_projections.*.weight | other to d -> other d to",
    "altup.W_out": "model.altup_unembed_projections.*.weight | other to d -> other d to",
    "altup.gain_router": f"{_EVERY}.altup.router_norm.weight",
    "altup.W_router": f"{_EVERY}.altup.modality_router.weight | layer S d -> layer d S",
    "altup.W_predict": f"{_EVERY}.altup.prediction_coefs.weight | layer (S other) x -> layer x S other",
    "altup.W_correct": f"{_EVERY}.altup.correction_coefs.weight | layer S x -> layer x S",
    "altup.gain_read": f"{_EVERY}.altup.correct_output_scale",
    "blocks.{i}.laurel.W_down": f"{LAYER}.laurel.linear_left.weight | rank d -> d rank",
    "blocks.{i}.laurel.W_up": f"{LAYER}.laurel.linear_right.weight | d rank -> rank d",
    "blocks.{i}.laurel.ln_post.w": f"{LAYER}.laurel.post_laurel_norm.weight",
}

GEMMA3N = replace(
    GEMMA3,
    model_type="gemma3n_text",
    name="Gemma 3n",
    config=_config,
    weights=GEMMA4.weights | _STREAMS,
    ignored_config=(
        "attention_bias",  # shows in the tensors
        *("altup_coef_clip", "altup_lr_multiplier"),  # only training reads these
        "query_pre_attn_scalar",  # older configs; scores are not divided, whatever it says
    ),
    requires={"altup_active_idx": 0, "altup_correct_scale": True},
)
