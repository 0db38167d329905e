"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): parallel blocks with two norms, partial rotary.

The Japanese GPT-NeoX of ABEJA (2022) is serial, and its only bias is that of the last layer's attention.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import basics, modules, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table


def _neox(hf: Any) -> dict[str, Any]:
    return basics(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | dict(
        n_ctx=hf.max_position_embeddings, **rotary(hf, hf.hidden_size // hf.num_attention_heads)
    )


def _config(hf: Any) -> dict[str, Any]:
    return _neox(hf) | dict(
        d_mlp=hf.intermediate_size, parallel_attn_mlp=hf.use_parallel_residual, default_prepend_bos=False
    )


def _japanese_config(hf: Any) -> dict[str, Any]:
    return _neox(hf) | dict(d_mlp=int(hf.hidden_size * hf.intermediate_multiple_size))


def _weights(base: str) -> Table:
    return modules(
        f"{base}.layers.{{i}}",
        embed=f"{base}.embed_in",
        ln1="input_layernorm",
        qkv_by_group="attention.query_key_value",
        o="attention.dense",
        ln2="post_attention_layernorm",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        ln_final=f"{base}.final_layer_norm",
        unembed="lm_head or embed_out",
    )


GPT_NEOX = Family(
    model_type="gpt_neox",
    name="GPT-NeoX, Pythia",
    config=_config,
    weights=_weights("gpt_neox"),
    ignored_weights=(r".*\.attention\.(masked_)?bias", r".*rotary_emb\.inv_freq"),
    ignored_config=(
        "attention_bias",  # shows in the tensors
        "is_decoder",  # attention is causal either way
        "rotary_pct",  # older names, which HuggingFace moves into rope_parameters
        "rotary_emb_base",
        "rope_theta",
        "partial_rotary_factor",
    ),
)

GPT_NEOX_JAPANESE = replace(
    GPT_NEOX,
    model_type="gpt_neox_japanese",
    name="GPT-NeoX Japanese",
    config=_japanese_config,
    weights=_weights("gpt_neox_japanese")
    | {"blocks.{i}.attn.b_O": "gpt_neox_japanese.layers.{i}.attention.dense_bias?"},
)
