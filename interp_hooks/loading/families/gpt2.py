"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each sublayer, weights stored transposed.

GPT (Radford et al. 2018) normalizes after each addition. GPT-BigCode (Ben Allal et al. 2023; StarCoder, Li et al. 2023)
has one key/value head for all queries.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import SUMMARY, basics, modules
from interp_hooks.loading.guard import Family


def _gpt(hf: Any, *, act_fn: str) -> dict[str, Any]:
    return basics(hf, act_fn=act_fn, eps=hf.layer_norm_epsilon) | dict(n_ctx=hf.n_positions)


def _openai_gpt_config(hf: Any) -> dict[str, Any]:
    return _gpt(hf, act_fn="gelu_new" if hf.afn == "gelu" else hf.afn) | dict(norm_placement="post")


def _scaled(hf: Any) -> dict[str, Any]:
    """The fields that GPT-2 and BigCode have in common."""
    return _gpt(hf, act_fn=hf.activation_function) | dict(
        d_mlp=hf.n_inner, attn_scale=(hf.n_embd // hf.n_head) ** 0.5 if hf.scale_attn_weights else 1.0
    )


def _gpt2_config(hf: Any) -> dict[str, Any]:
    return _scaled(hf) | dict(scale_attn_by_inverse_layer_idx=hf.scale_attn_by_inverse_layer_idx)


def _bigcode_config(hf: Any) -> dict[str, Any]:
    return _scaled(hf) | dict(n_key_value_heads=1 if hf.multi_query else hf.n_head)


LAYER = "transformer.h.{i}"

AROUND_ATTENTION = modules(
    LAYER,
    embed="transformer.wte",
    pos_embed="transformer.wpe",
    ln1="ln_1",
    o="attn.c_proj",
    ln2="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    ln_final="transformer.ln_f",
    unembed="lm_head",
)

GPT2 = Family(
    model_type="gpt2",
    name="GPT-2",
    config=_gpt2_config,
    weights=AROUND_ATTENTION
    | {
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{LAYER}.attn.c_attn.weight | d (qkv h k) -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{LAYER}.attn.c_attn.bias | (qkv h k) -> qkv h k"
        ),
        "blocks.{i}.attn.W_O": f"{LAYER}.attn.c_proj.weight | (h k) d -> h k d",
        "blocks.{i}.mlp.W_in": f"{LAYER}.mlp.c_fc.weight",
        "blocks.{i}.mlp.W_out": f"{LAYER}.mlp.c_proj.weight",
    },
    ignored_weights=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "n_ctx",  # an old second name of n_positions
        "reorder_and_upcast_attn",  # the same numbers, computed in another order and precision
        "n_special",  # what old files say of the vocabulary
        "predict_special_tokens",
        *SUMMARY,
    ),
    requires={"add_cross_attention": False},
)

OPENAI_GPT = replace(
    GPT2,
    model_type="openai-gpt",
    name="GPT",
    config=_openai_gpt_config,
    weights=GPT2.weights | modules(embed="transformer.tokens_embed", pos_embed="transformer.positions_embed"),
    requires={},
)

GPT_BIGCODE = replace(
    GPT2,
    model_type="gpt_bigcode",
    name="GPT-BigCode, StarCoder",
    config=_bigcode_config,
    weights=AROUND_ATTENTION | modules(LAYER, qkv_by_group="attn.c_attn"),
    ignored_weights=(r"transformer\.(h\.\d+\.attn\.)?bias",),  # causal masks in old files
    ignored_config=(
        *GPT2.ignored_config,
        "num_key_value_heads",  # follows from multi_query
        "attention_softmax_in_fp32",  # the same numbers in another precision
        "scale_attention_softmax_in_fp32",
        "inference_runner",  # how the authors' own code ran: in published files, but never read
        "max_batch_size",
        "max_sequence_length",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "validate_runner_input",
    ),
)
