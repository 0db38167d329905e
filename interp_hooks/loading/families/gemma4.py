"""Gemma 4 (Google DeepMind 2026), the dense models without embeddings for each layer: heads of two widths.

As in Gemma 3, norms stand around what is written, queries and keys are normalized, and most layers have a window; here
values are normalized too, wide heads turn only a share of their dimensions and may have keys for values, and each layer
ends by multiplying the stream.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.gemma import GEMMA2
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import LAYER, QK_RMS, basics, rotary, windows

_SIZES = ("head_dim", "num_key_value_heads")  # what a layer may have otherwise than the config says for all


def _config(hf: Any) -> dict[str, Any]:
    if hf.use_bidirectional_attention not in (None, "vision"):  # between parts of an image, which text has not
        raise UnsupportedConfig(f"use_bidirectional_attention={hf.use_bidirectional_attention!r} is not implemented")
    if other := {name for layer in hf.to_dict()["per_layer_config"].values() for name in layer} - {*_SIZES}:
        raise UnsupportedConfig(f"per_layer_config sets {', '.join(sorted(other))}, which is not implemented")
    layers = [hf.per_layer_config[layer] for layer in range(hf.num_hidden_layers)]
    return (
        basics(hf, act_fn=hf.hidden_activation, eps=hf.rms_norm_eps)
        | QK_RMS
        | rotary(hf, layers[0].head_dim)
        | dict(
            d_mlp=hf.intermediate_size,
            n_ctx=hf.max_position_embeddings,
            d_head=layers[0].head_dim,
            n_key_value_heads=layers[0].num_key_value_heads,
            normalization_type="RMS",
            norm_placement="pre_and_output",
            gated_mlp=True,
            embed_scale=hf.hidden_size**0.5,
            attn_scale=1.0,
            v_norm_type="RMSPre",
            window_sizes=windows(hf),
            d_head_layers=tuple(layer.head_dim for layer in layers),
            n_key_value_heads_layers=tuple(layer.num_key_value_heads for layer in layers),
            values_from_keys=tuple(hf.attention_k_eq_v and kind == "full_attention" for kind in hf.layer_types),
            output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
        )
    )


GEMMA4 = replace(
    LLAMA,
    model_type="gemma4_text",
    name="Gemma 4",
    config=_config,
    weights=GEMMA2.weights,
    ignored_config=(
        *_SIZES,  # per_layer_config says what comes of these
        "attention_bias",  # shows in the tensors
        "vocab_size_per_layer_input",  # of embeddings for each layer, which these models have not
        *("num_experts", "top_k_experts", "moe_intermediate_size"),  # read only with enable_moe_block
        "use_double_wide_mlp",  # of layers that share keys
    ),
    requires={"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "enable_moe_block": False},
    stream_scales=f"{LAYER}.layer_scalar",
)
