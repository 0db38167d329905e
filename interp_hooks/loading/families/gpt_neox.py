"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): parallel blocks with two norms, partial rotary.

The Japanese GPT-NeoX of ABEJA (2022) is serial, and its only bias is that of the last layer's attention.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        eps=hf.layer_norm_eps,
        parallel_attn_mlp=hf.use_parallel_residual,
        default_prepend_bos=False,
        **rotary(hf, hf.hidden_size // hf.num_attention_heads),
    )


def _japanese_config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=int(hf.hidden_size * hf.intermediate_multiple_size),
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        eps=hf.layer_norm_eps,
        **rotary(hf, hf.hidden_size // hf.num_attention_heads),
    )


_LAYER = "gpt_neox.layers.{i}"

GPT_NEOX = Family(
    model_type="gpt_neox",
    name="GPT-NeoX, Pythia",
    config=_config,
    weights={
        "embed.W_E": "gpt_neox.embed_in.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.attention.query_key_value.weight | (h qkv k) d -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.attention.query_key_value.bias? | (h qkv k) -> qkv h k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.attention.dense.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.attention.dense.bias?",
        "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.post_attention_layernorm.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.dense_h_to_4h.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.dense_h_to_4h.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.dense_4h_to_h.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.dense_4h_to_h.bias",
        "ln_final.w": "gpt_neox.final_layer_norm.weight",
        "ln_final.b": "gpt_neox.final_layer_norm.bias",
        "unembed.W_U": "lm_head.weight or embed_out.weight | v d -> d v",
        "unembed.b_U": None,
    },
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
    weights={
        ours: theirs and theirs.replace("gpt_neox.", "gpt_neox_japanese.") for ours, theirs in GPT_NEOX.weights.items()
    }
    | {
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": None,
        "blocks.{i}.attn.b_O": f"{_LAYER.replace('gpt_neox', 'gpt_neox_japanese')}.attention.dense_bias?",
        "blocks.{i}.mlp.b_in": None,
        "blocks.{i}.mlp.b_out": None,
    },
)
