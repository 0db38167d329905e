"""BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019): encoders of masked text.

Every token sees all others, the stream is normalized after each addition, and a small head precedes the unembedding.
RoBERTa's first position is row `pad_token_id + 1` of its table. HuggingFace counts positions over the tokens that are
no padding token, here the attention mask tells what is padding: that is the same as long as the two agree.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation
from interp_hooks.loading.guard import Family

_ENCODER = dict(attention_dir="bidirectional", norm_placement="post", embed_norm_type="LN", mlm_head=True)


def _bert_config(hf: Any) -> dict[str, Any]:
    return _ENCODER | dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        n_token_types=hf.type_vocab_size,
        act_fn=activation(hf.hidden_act),
        eps=hf.layer_norm_eps,
    )


def _roberta_config(hf: Any) -> dict[str, Any]:
    offset = hf.pad_token_id + 1
    return _bert_config(hf) | dict(positions_offset=offset, n_ctx=hf.max_position_embeddings - offset)


def _distilbert_config(hf: Any) -> dict[str, Any]:
    return _ENCODER | dict(
        n_layers=hf.n_layers,
        d_model=hf.dim,
        n_heads=hf.n_heads,
        d_mlp=hf.hidden_dim,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.activation),
        eps=1e-12,
    )


def _embeddings(base: str) -> dict[str, str | None]:
    return {
        "embed.W_E": f"{base}.embeddings.word_embeddings.weight",
        "pos_embed.W_pos": f"{base}.embeddings.position_embeddings.weight",
        "ln_embed.w": f"{base}.embeddings.LayerNorm.weight",
        "ln_embed.b": f"{base}.embeddings.LayerNorm.bias",
    }


def _layer(layer: str, q: str, k: str, v: str, o: str, ln1: str, up: str, down: str, ln2: str) -> dict[str, str | None]:
    table: dict[str, str | None] = {}
    for letter, part in (("Q", q), ("K", k), ("V", v)):
        table[f"blocks.{{i}}.attn.W_{letter}"] = f"{layer}.{part}.weight | (h k) d -> h d k"
        table[f"blocks.{{i}}.attn.b_{letter}"] = f"{layer}.{part}.bias | (h k) -> h k"
    return table | {
        "blocks.{i}.attn.W_O": f"{layer}.{o}.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{layer}.{o}.bias",
        "blocks.{i}.ln1.w": f"{layer}.{ln1}.weight",
        "blocks.{i}.ln1.b": f"{layer}.{ln1}.bias",
        "blocks.{i}.mlp.W_in": f"{layer}.{up}.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{layer}.{up}.bias",
        "blocks.{i}.mlp.W_out": f"{layer}.{down}.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{layer}.{down}.bias",
        "blocks.{i}.ln2.w": f"{layer}.{ln2}.weight",
        "blocks.{i}.ln2.b": f"{layer}.{ln2}.bias",
    }


def _head(dense: str, ln: str, decoder: str) -> dict[str, str | None]:
    return {
        "mlm_head.W": f"{dense}.weight | read written -> written read",
        "mlm_head.b": f"{dense}.bias",
        "mlm_head.ln.w": f"{ln}.weight",
        "mlm_head.ln.b": f"{ln}.bias",
        "unembed.W_U": f"{decoder}.weight | v d -> d v",
        "unembed.b_U": f"{decoder}.bias",
    }


def _bert_weights(base: str) -> dict[str, str | None]:
    return {
        **_embeddings(base),
        "token_type_embed.W_token_type": f"{base}.embeddings.token_type_embeddings.weight",
        **_layer(
            f"{base}.encoder.layer.{{i}}",
            q="attention.self.query",
            k="attention.self.key",
            v="attention.self.value",
            o="attention.output.dense",
            ln1="attention.output.LayerNorm",
            up="intermediate.dense",
            down="output.dense",
            ln2="output.LayerNorm",
        ),
    }


BERT = Family(
    model_type="bert",
    name="BERT",
    head="MaskedLM",
    config=_bert_config,
    weights={
        **_bert_weights("bert"),
        **_head("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
    },
    ignored_weights=(
        r"cls\.predictions\.bias",  # the decoder's, which is what HuggingFace adds
        r"bert\.embeddings\.position_ids",  # 0, 1, 2, ... in old files
        r"bert\.pooler\..*",  # the head that tells whether one sentence follows another
        r"cls\.seq_relationship\..*",
    ),
    ignored_config=(
        "gradient_checkpointing",  # how to save memory in training
        "directionality",  # of the head that tells whether one sentence follows another
        *(f"pooler_{what}" for what in ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")),
    ),
    requires={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
)

ROBERTA = replace(
    BERT,
    model_type="roberta",
    name="RoBERTa",
    config=_roberta_config,
    weights={**_bert_weights("roberta"), **_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")},
    ignored_weights=(
        r"lm_head\.bias",  # the decoder's, which is what HuggingFace adds
        r"roberta\.embeddings\.position_ids",
        r"roberta\.pooler\..*",
    ),
    requires={**BERT.requires, "hidden_act": "gelu"},  # the head's activation is always gelu
)

DISTILBERT = replace(
    BERT,
    model_type="distilbert",
    name="DistilBERT",
    config=_distilbert_config,
    weights={
        **_embeddings("distilbert"),
        **_layer(
            "distilbert.transformer.layer.{i}",
            q="attention.q_lin",
            k="attention.k_lin",
            v="attention.v_lin",
            o="attention.out_lin",
            ln1="sa_layer_norm",
            up="ffn.lin1",
            down="ffn.lin2",
            ln2="output_layer_norm",
        ),
        **_head("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    },
    ignored_weights=(),
    ignored_config=(
        "sinusoidal_pos_embds",  # where the position table starts its training
        "output_past",  # old settings that no encoder reads
        "n_ctx",
        "tie_weights_",
    ),
    requires={},
)
