"""BLOOM (BigScience 2022) and MPT (MosaicML 2023): serial blocks whose attention is biased by distance.

ALiBi (Press et al. 2021, arxiv.org/abs/2108.12409) subtracts from every score the distance times a slope of the head.
BLOOM has a norm after its embeddings; MPT has no biases anywhere.
"""

from typing import Any

from interp_hooks.loading.families.shared import basics, modules
from interp_hooks.loading.guard import Family


def alibi_slopes(n_heads: int) -> tuple[float, ...]:
    """A geometric series from 2^(-8/n) to 2^-8 for n heads.

    Where n is no power of two, it is the series of the power below, then every other slope of the power above.
    """
    below = 2 ** (n_heads.bit_length() - 1)
    return (*_series(below), *_series(2 * below)[: 2 * (n_heads - below) : 2])


def _series(n: int) -> list[float]:
    return [2 ** (-8 * head / n) for head in range(1, n + 1)]


def _alibi(n_heads: int) -> dict[str, Any]:
    return dict(positional_embedding_type="alibi", alibi_slopes=alibi_slopes(n_heads))


def _bloom_config(hf: Any) -> dict[str, Any]:
    return basics(hf, act_fn="gelu_new", eps=hf.layer_norm_epsilon) | dict(
        n_ctx=getattr(hf, "seq_length", 2048),
        embed_norm_type="LN",
        default_prepend_bos=False,
        **_alibi(hf.n_head),
    )


BLOOM = Family(
    model_type="bloom",
    name="BLOOM",
    config=_bloom_config,
    weights=modules(
        "transformer.h.{i}",
        embed="transformer.word_embeddings",
        ln_embed="transformer.word_embeddings_layernorm",
        ln1="input_layernorm",
        qkv_by_group="self_attention.query_key_value",
        o="self_attention.dense",
        ln2="post_attention_layernorm",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        ln_final="transformer.ln_f",
        unembed="lm_head",
    ),
    ignored_config=(
        "pretraining_tp",  # how the training was split over devices
        "attention_softmax_in_fp32",  # how its kernels worked
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "n_inner",  # HuggingFace's MLP is always four times as wide as the stream
        "offset_alibi",
        "seq_length",
    ),
    requires={
        "apply_residual_connection_post_layernorm": False,
        "slow_but_exact": False,  # leaves out the biases of attention and MLP where pretraining_tp > 1
    },
)


def _mpt_config(hf: Any) -> dict[str, Any]:
    attention = hf.attn_config
    return basics(hf, act_fn="gelu", eps=hf.layer_norm_epsilon) | dict(
        n_ctx=hf.max_seq_len,
        attn_scale=1 / attention.softmax_scale if attention.softmax_scale else 0.0,
        qkv_clip=attention.clip_qkv or 0.0,
        **_alibi(hf.n_heads),
    )


MPT = Family(
    model_type="mpt",
    name="MPT",
    config=_mpt_config,
    weights=modules(
        "transformer.blocks.{i}",
        embed="transformer.wte",
        ln1="norm_1",
        qkv="attn.Wqkv",
        o="attn.out_proj",
        ln2="norm_2",
        up="ffn.up_proj",
        down="ffn.down_proj",
        ln_final="transformer.norm_f",
        unembed="lm_head",
    ),
    ignored_config=(
        "expansion_ratio",  # HuggingFace's MLP is always four times as wide as the stream
        "learned_pos_emb",  # there are none beside ALiBi
        "embedding_fraction",  # of the gradients
        "init_device",
        "init_config",
        "verbose",
        "tokenizer_name",
        "attn_config.attn_impl",
        "attn_config.attn_uses_sequence_id",  # needs an input of its own
    ),
    requires={
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "logit_scale": None,  # HuggingFace reads neither this nor the following
        "attn_config.attn_type": "multihead_attention",
        "attn_config.qk_ln": False,
        "attn_config.prefix_lm": False,
        "attn_config.alibi": True,
        "attn_config.alibi_bias_max": 8,
    },
)
