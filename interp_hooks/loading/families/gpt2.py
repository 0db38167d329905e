"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each sublayer, weights stored transposed.

GPT (Radford et al. 2018) normalizes after each addition. GPT-BigCode (Ben Allal et al. 2023; StarCoder, Li et al. 2023)
has one key/value head for all queries.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.n_embd,
        n_heads=hf.n_head,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        d_vocab=hf.vocab_size,
        n_ctx=hf.n_positions,
        act_fn=activation(hf.activation_function),
        eps=hf.layer_norm_epsilon,
        attn_scale=(hf.n_embd // hf.n_head) ** 0.5 if hf.scale_attn_weights else 1.0,
        scale_attn_by_inverse_layer_idx=hf.scale_attn_by_inverse_layer_idx,
    )


def _openai_gpt_config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.n_embd,
        n_heads=hf.n_head,
        d_vocab=hf.vocab_size,
        n_ctx=hf.n_positions,
        act_fn="gelu_new" if hf.afn == "gelu" else activation(hf.afn),
        eps=hf.layer_norm_epsilon,
        norm_placement="post",
    )


def _bigcode_config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.n_embd,
        n_heads=hf.n_head,
        n_key_value_heads=1 if hf.multi_query else hf.n_head,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        d_vocab=hf.vocab_size,
        n_ctx=hf.n_positions,
        act_fn=activation(hf.activation_function),
        eps=hf.layer_norm_epsilon,
        attn_scale=(hf.n_embd // hf.n_head) ** 0.5 if hf.scale_attn_weights else 1.0,
    )


_LAYER = "transformer.h.{i}"

GPT2 = Family(
    model_type="gpt2",
    name="GPT-2",
    config=_config,
    weights={
        "embed.W_E": "transformer.wte.weight",
        "pos_embed.W_pos": "transformer.wpe.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.ln_1.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.ln_1.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.attn.c_attn.weight | d (qkv h k) -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.attn.c_attn.bias | (qkv h k) -> qkv h k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.attn.c_proj.weight | (h k) d -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.attn.c_proj.bias",
        "blocks.{i}.ln2.w": f"{_LAYER}.ln_2.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.ln_2.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.c_fc.weight",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.c_fc.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.c_proj.weight",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.c_proj.bias",
        "ln_final.w": "transformer.ln_f.weight",
        "ln_final.b": "transformer.ln_f.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "n_ctx",  # an old second name of n_positions
        "reorder_and_upcast_attn",  # the same numbers, computed in another order and precision
        "n_special",  # what old files say of the vocabulary
        "predict_special_tokens",
        *(f"summary_{what}" for what in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")),
    ),
    requires={"add_cross_attention": False},
)

OPENAI_GPT = replace(
    GPT2,
    model_type="openai-gpt",
    name="GPT",
    config=_openai_gpt_config,
    weights={ours: theirs for ours, theirs in GPT2.weights.items() if not ours.startswith("ln_final")}
    | {
        "embed.W_E": "transformer.tokens_embed.weight",
        "pos_embed.W_pos": "transformer.positions_embed.weight",
    },
    requires={},
)

GPT_BIGCODE = replace(
    GPT2,
    model_type="gpt_bigcode",
    name="GPT-BigCode, StarCoder",
    config=_bigcode_config,
    weights={
        **GPT2.weights,
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.attn.c_attn.weight | (g x k) d -> x g d k | q 1 1 | x g d k -> (g x) d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.attn.c_attn.bias | (g x k) -> x g k | q 1 1 | x g k -> (g x) k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.attn.c_proj.weight | d (h k) -> h k d",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.c_fc.weight | m d -> d m",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.c_proj.weight | d m -> m d",
    },
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
