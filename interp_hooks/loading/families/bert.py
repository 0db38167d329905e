"""BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019): encoders of masked text.

Every token sees all others, the stream is normalized after each addition, and a small head precedes the unembedding.
RoBERTa's first position is row `pad_token_id + 1` of its table. HuggingFace counts positions over the tokens that are
no padding token, here the attention mask tells what is padding: that is the same as long as the two agree.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import basics, modules
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table


def encoder(hf: Any, *, act_fn: str, eps: float) -> dict[str, Any]:
    """The fields of an encoder whose stream is normalized after each addition."""
    return basics(hf, act_fn=act_fn, eps=eps) | dict(
        n_ctx=hf.max_position_embeddings,
        attention_dir="bidirectional",
        norm_placement="post",
        embed_norm_type="LN",
        mlm_head=True,
    )


def bert_config(hf: Any) -> dict[str, Any]:
    """The fields of an encoder whose config calls everything as BERT's does."""
    return encoder(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | dict(
        d_mlp=hf.intermediate_size, n_token_types=hf.type_vocab_size
    )


def roberta_config(hf: Any) -> dict[str, Any]:
    """The same, with positions counted as RoBERTa counts them."""
    offset = hf.pad_token_id + 1
    return bert_config(hf) | dict(positions_offset=offset, n_ctx=hf.max_position_embeddings - offset)


def _distilbert_config(hf: Any) -> dict[str, Any]:
    return encoder(hf, act_fn=hf.activation, eps=1e-12) | dict(d_mlp=hf.hidden_dim)


def bert_weights(base: str) -> Table:
    """Lines for embeddings and layers; `base` is what the model without its head is called."""
    return modules(
        f"{base}.encoder.layer.{{i}}",
        embed=f"{base}.embeddings.word_embeddings",
        pos_embed=f"{base}.embeddings.position_embeddings",
        token_type_embed=f"{base}.embeddings.token_type_embeddings",
        ln_embed=f"{base}.embeddings.LayerNorm",
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        o="attention.output.dense",
        ln1="attention.output.LayerNorm",
        up="intermediate.dense",
        down="output.dense",
        ln2="output.LayerNorm",
    )


def leftovers(base: str) -> tuple[str, ...]:
    """What checkpoints may hold beside: positions 0, 1, 2, ... in old files, and the pooler of another head."""
    return rf"{base}\.embeddings\.position_ids", rf"{base}\.pooler\..*"


# The decoder's bias, which is what HuggingFace adds; the head that tells whether one sentence follows another.
OF_BERT_HEAD = (r"cls\.predictions\.bias", r"cls\.seq_relationship\..*")

BERT_HEAD = modules(
    mlm_dense="cls.predictions.transform.dense",
    mlm_ln="cls.predictions.transform.LayerNorm",
    unembed="cls.predictions.decoder",
)
ROBERTA_HEAD = modules(mlm_dense="lm_head.dense", mlm_ln="lm_head.layer_norm", unembed="lm_head.decoder")

BERT = Family(
    model_type="bert",
    name="BERT",
    head="MaskedLM",
    config=bert_config,
    weights=bert_weights("bert") | BERT_HEAD,
    ignored_weights=(*OF_BERT_HEAD, *leftovers("bert")),
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
    config=roberta_config,
    weights=bert_weights("roberta") | ROBERTA_HEAD,
    ignored_weights=(r"lm_head\.bias", *leftovers("roberta")),  # the decoder's bias, which is what HuggingFace adds
    requires={**BERT.requires, "hidden_act": "gelu"},  # the head's activation is always gelu
)

DISTILBERT = replace(
    BERT,
    model_type="distilbert",
    name="DistilBERT",
    config=_distilbert_config,
    weights=modules(
        "distilbert.transformer.layer.{i}",
        embed="distilbert.embeddings.word_embeddings",
        pos_embed="distilbert.embeddings.position_embeddings",
        ln_embed="distilbert.embeddings.LayerNorm",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        o="attention.out_lin",
        ln1="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        ln2="output_layer_norm",
        mlm_dense="vocab_transform",
        mlm_ln="vocab_layer_norm",
        unembed="vocab_projector",
    ),
    ignored_weights=(),
    ignored_config=(
        "sinusoidal_pos_embds",  # where the position table starts its training
        "output_past",  # old settings that no encoder reads
        "n_ctx",
        "tie_weights_",
    ),
    requires={},
)
