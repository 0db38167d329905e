"""Persimmon (Adept 2023): GPT-NeoX's fused weights in serial blocks, normalized queries and keys, squared ReLU."""

from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import activation, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    normed = dict(qk_norm="shared", qk_norm_type="LN") if hf.qk_layernorm else {}
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        eps=hf.layer_norm_eps,
        **normed,
        **rotary(hf, hf.hidden_size // hf.num_attention_heads),
    )


_LAYER = "model.layers.{i}"

PERSIMMON = Family(
    model_type="persimmon",
    name="Persimmon",
    config=_config,
    weights={
        "embed.W_E": "model.embed_tokens.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.self_attn.query_key_value.weight | (h qkv k) d -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.self_attn.query_key_value.bias | (h qkv k) -> qkv h k"
        ),
        "blocks.{i}.attn.q_norm.w": f"{_LAYER}.self_attn.q_layernorm.weight",
        "blocks.{i}.attn.q_norm.b": f"{_LAYER}.self_attn.q_layernorm.bias",
        "blocks.{i}.attn.k_norm.w": f"{_LAYER}.self_attn.k_layernorm.weight",
        "blocks.{i}.attn.k_norm.b": f"{_LAYER}.self_attn.k_layernorm.bias",
        "blocks.{i}.attn.W_O": f"{_LAYER}.self_attn.dense.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.self_attn.dense.bias",
        "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.post_attention_layernorm.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.dense_h_to_4h.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.dense_h_to_4h.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.dense_4h_to_h.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.dense_4h_to_h.bias",
        "ln_final.w": "model.final_layernorm.weight",
        "ln_final.b": "model.final_layernorm.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=(
        "num_key_value_heads",  # as many as query heads: the tensors leave no other choice
        "rope_theta",  # older names, which HuggingFace moves into rope_parameters
        "rope_scaling",
        "partial_rotary_factor",
    ),
)
