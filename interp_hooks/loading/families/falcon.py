"""Falcon (Almazrouei et al. 2023, arxiv.org/abs/2311.16867), in three layouts.

    7B        parallel blocks with one norm, one key/value head
    40B, 11B  parallel blocks with two norms or one, grouped heads (`new_decoder_architecture`)
    RW        serial blocks, as many key/value as query heads, ALiBi

In all of them a group's queries, key and value lie side by side. ALiBi's biases are divided like the scores;
HuggingFace rounds them to bfloat16 (and its eager attention adds them twice), so that its logits of RW models with
prompts of hundreds of tokens are some 1e-3 away from these, which are exact.
"""

from typing import Any

import torch

from interp_hooks.loading.families.bloom import alibi_slopes
from interp_hooks.loading.families.shared import activation, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    d_head = hf.hidden_size // hf.num_attention_heads
    grouped, parallel = hf.new_decoder_architecture, hf.parallel_attn
    ungrouped_heads = 1 if hf.multi_query else hf.num_attention_heads
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_kv_heads if grouped else ungrouped_heads,
        d_mlp=hf.ffn_hidden_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.activation),
        eps=hf.layer_norm_epsilon,
        parallel_attn_mlp=grouped or parallel,
        parallel_shared_norm=hf.num_ln_in_parallel_attn == 1 if grouped else parallel,
        **(_alibi(hf.num_attention_heads, d_head) if hf.alibi else rotary(hf, d_head)),
    )


def _alibi(n_heads: int, d_head: int) -> dict[str, Any]:
    rounded = torch.tensor(alibi_slopes(n_heads)).bfloat16().double() / d_head**0.5
    return dict(positional_embedding_type="alibi", alibi_slopes=tuple(rounded.tolist()))


_LAYER = "transformer.h.{i}"

FALCON = Family(
    model_type="falcon",
    name="Falcon",
    config=_config,
    weights={
        "embed.W_E": "transformer.word_embeddings.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight or {_LAYER}.ln_attn.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias or {_LAYER}.ln_attn.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.self_attention.query_key_value.weight | (g x k) d -> x g k d | q 1 1 | x g k d -> (g x) d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.self_attention.query_key_value.bias? | (g x k) -> x g k | q 1 1 | x g k -> (g x) k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.self_attention.dense.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.self_attention.dense.bias?",
        "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight or {_LAYER}.ln_mlp.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.post_attention_layernorm.bias or {_LAYER}.ln_mlp.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.dense_h_to_4h.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.dense_h_to_4h.bias?",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.dense_4h_to_h.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.dense_4h_to_h.bias?",
        "ln_final.w": "transformer.ln_f.weight",
        "ln_final.b": "transformer.ln_f.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=(r".*rotary_emb\.inv_freq",),
    ignored_config=(
        "bias",  # shows in the tensors
        "ff_factor",
        "rope_parameters",  # read unless positions are ALiBi
        "rope_theta",
        "rope_scaling",
        "num_kv_heads",  # these two are read where they count
        "num_ln_in_parallel_attn",
        "apply_residual_connection_post_layernorm",  # of the code that Falcon began as
    ),
)
