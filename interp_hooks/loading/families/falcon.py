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
from interp_hooks.loading.families.shared import basics, modules, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    d_head = hf.hidden_size // hf.num_attention_heads
    grouped, parallel = hf.new_decoder_architecture, hf.parallel_attn
    ungrouped_heads = 1 if hf.multi_query else hf.num_attention_heads
    return basics(hf, act_fn=hf.activation, eps=hf.layer_norm_epsilon) | dict(
        n_key_value_heads=hf.num_kv_heads if grouped else ungrouped_heads,
        d_mlp=hf.ffn_hidden_size,
        n_ctx=hf.max_position_embeddings,
        parallel_attn_mlp=grouped or parallel,
        parallel_shared_norm=hf.num_ln_in_parallel_attn == 1 if grouped else parallel,
        **(_alibi(hf.num_attention_heads, d_head) if hf.alibi else rotary(hf, d_head)),
    )


def _alibi(n_heads: int, d_head: int) -> dict[str, Any]:
    rounded = torch.tensor(alibi_slopes(n_heads)).bfloat16().double() / d_head**0.5
    return dict(positional_embedding_type="alibi", alibi_slopes=tuple(rounded.tolist()))


FALCON = Family(
    model_type="falcon",
    name="Falcon",
    config=_config,
    weights=modules(
        "transformer.h.{i}",
        embed="transformer.word_embeddings",
        ln1="input_layernorm or ln_attn",
        qkv_by_group="self_attention.query_key_value",
        o="self_attention.dense",
        ln2="post_attention_layernorm or ln_mlp",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        ln_final="transformer.ln_f",
        unembed="lm_head",
    ),
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
