"""BLOOM (BigScience 2022) and MPT (MosaicML 2023): serial blocks whose attention is biased by distance.

ALiBi (Press et al. 2021, arxiv.org/abs/2108.12409) subtracts from every score the distance times a slope of the head.
BLOOM has a norm after its embeddings; MPT has no biases anywhere.
"""

from typing import Any

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
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.hidden_size,
        n_heads=hf.n_head,
        d_mlp=4 * hf.hidden_size,
        d_vocab=hf.vocab_size,
        n_ctx=getattr(hf, "seq_length", 2048),
        act_fn="gelu_new",
        eps=hf.layer_norm_epsilon,
        embed_norm_type="LN",
        default_prepend_bos=False,
        **_alibi(hf.n_head),
    )


_LAYER = "transformer.h.{i}"

BLOOM = Family(
    model_type="bloom",
    name="BLOOM",
    config=_bloom_config,
    weights={
        "embed.W_E": "transformer.word_embeddings.weight",
        "ln_embed.w": "transformer.word_embeddings_layernorm.weight",
        "ln_embed.b": "transformer.word_embeddings_layernorm.bias",
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.self_attention.query_key_value.weight | (h qkv k) d -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.self_attention.query_key_value.bias | (h qkv k) -> qkv h k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.self_attention.dense.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.self_attention.dense.bias",
        "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.post_attention_layernorm.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.dense_h_to_4h.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.dense_h_to_4h.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.dense_4h_to_h.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.dense_4h_to_h.bias",
        "ln_final.w": "transformer.ln_f.weight",
        "ln_final.b": "transformer.ln_f.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
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
    return dict(
        n_layers=hf.n_layers,
        d_model=hf.d_model,
        n_heads=hf.n_heads,
        d_mlp=4 * hf.d_model,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_seq_len,
        act_fn="gelu",
        eps=hf.layer_norm_epsilon,
        attn_scale=1 / attention.softmax_scale if attention.softmax_scale else 0.0,
        qkv_clip=attention.clip_qkv or 0.0,
        **_alibi(hf.n_heads),
    )


_MPT_LAYER = "transformer.blocks.{i}"

MPT = Family(
    model_type="mpt",
    name="MPT",
    config=_mpt_config,
    weights={
        "embed.W_E": "transformer.wte.weight",
        "blocks.{i}.ln1.w": f"{_MPT_LAYER}.norm_1.weight",
        "blocks.{i}.ln1.b": None,
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_MPT_LAYER}.attn.Wqkv.weight | (qkv h k) d -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": None,
        "blocks.{i}.attn.W_O": f"{_MPT_LAYER}.attn.out_proj.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": None,
        "blocks.{i}.ln2.w": f"{_MPT_LAYER}.norm_2.weight",
        "blocks.{i}.ln2.b": None,
        "blocks.{i}.mlp.W_in": f"{_MPT_LAYER}.ffn.up_proj.weight | m d -> d m",
        "blocks.{i}.mlp.W_out": f"{_MPT_LAYER}.ffn.down_proj.weight | d m -> m d",
        "blocks.{i}.mlp.b_in, blocks.{i}.mlp.b_out": None,
        "ln_final.w": "transformer.norm_f.weight",
        "ln_final.b": None,
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
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
