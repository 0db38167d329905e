"""Falcon-H1 (TII 2025): in every layer Mamba-2 beside attention, and multipliers of what nearly every matrix reads or
writes. Those of attention are a factor of its scores and one of its values.
"""

import math
from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import ATTENTION, ENDS
from interp_hooks.loading.families.mamba2 import BAMBA, NO_NUMBER, sizes, state_space_weights
from interp_hooks.loading.families.shared import OLDER_ROPE, head_width, llama_like, modules
from interp_hooks.model.mixers_config import MixersConfig


def _config(hf: Any) -> dict[str, Any]:
    gates, out = hf.mlp_multipliers
    after_biases = {
        "attention_bias": hf.attention_in_multiplier != 1 or hf.attention_out_multiplier != 1,
        "mamba_proj_bias": hf.ssm_in_multiplier != 1,
        "projectors_bias": hf.ssm_out_multiplier != 1,
        "mlp_bias": out != 1,
    }
    if wrong := [name for name, multiplies in after_biases.items() if multiplies and getattr(hf, name)]:
        raise UnsupportedConfig(f"{wrong[0]} beside a multiplier that comes before or after it is not implemented")
    attention_in = hf.attention_in_multiplier
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        normalization_type="RMS",
        gated_mlp=True,
        embed_scale=hf.embedding_multiplier,
        logits_scale=hf.lm_head_multiplier,
        attn_scale=math.sqrt(head_width(hf)) / (attention_in**2 * hf.key_multiplier),
        value_scale=attention_in * hf.attention_out_multiplier,
        mlp_gate_scale=gates,
        mlp_out_scale=out,
        mixers=MixersConfig(
            layers=("attention",) * hf.num_hidden_layers,
            beside="mamba2",
            norm_groups=hf.mamba_n_groups if hf.mamba_rms_norm else 0,
            norm_first=hf.mamba_norm_before_gate,
            read_scales=tuple(hf.ssm_in_multiplier * scale for scale in hf.ssm_multipliers),
            write_scale=hf.ssm_out_multiplier,
            **sizes(hf),
        ),
    )


FALCON_H1 = replace(
    BAMBA,
    model_type="falcon_h1",
    name="Falcon-H1",
    config=_config,
    weights=ENDS
    | modules(ln_final="model.final_layernorm", ln1="input_layernorm", ln2="pre_ff_layernorm")
    | ATTENTION
    | modules(gate="feed_forward.gate_proj", up="feed_forward.up_proj", down="feed_forward.down_proj")
    | state_space_weights("model.layers.{i}.mamba", "blocks.{i}.recurrence"),
    ignored_config=(
        *OLDER_ROPE,
        *NO_NUMBER,
        *("mamba_conv_bias", "attention_bias", "mamba_proj_bias", "projectors_bias", "mlp_bias"),  # show in the tensors
        "mamba_chunk_size",
        *("mamba_d_ssm", "mamba_expand"),  # the number of heads times their width says what comes of these
        *("mamba_use_mlp", "attn_layer_indices"),  # older configs; every layer has all
        "num_logits_to_keep",
    ),
    requires={"hidden_act": "silu"},
)
