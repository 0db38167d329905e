"""Encoders that differ from BERT or RoBERTa in the languages of their texts, or in where their norms stand.

XLM-RoBERTa (Conneau et al. 2019), CamemBERT (Martin et al. 2019) and data2vec (Baevski et al. 2022) are RoBERTa, ERNIE
(Sun et al. 2019) is BERT. Megatron-BERT (Shoeybi et al. 2019), XLM-RoBERTa-XL (Goyal et al. 2021) and
RoBERTa-PreLayerNorm (Ott et al. 2019) normalize what attention and MLP read, and the stream after the last layer.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.bert import (
    BERT,
    BERT_HEAD,
    OF_BERT_HEAD,
    ROBERTA,
    ROBERTA_HEAD,
    bert_config,
    bert_weights,
    leftovers,
    roberta_config,
)
from interp_hooks.loading.families.shared import modules


def _reading_normalized(fields: dict[str, Any], embed_norm_type: str | None) -> dict[str, Any]:
    return fields | dict(norm_placement="pre", embed_norm_type=embed_norm_type)


XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", name="XLM-RoBERTa")

CAMEMBERT = replace(ROBERTA, model_type="camembert", name="CamemBERT")

DATA2VEC_TEXT = replace(
    ROBERTA,
    model_type="data2vec-text",
    name="data2vec (text)",
    weights=bert_weights("data2vec_text") | ROBERTA_HEAD,
    ignored_weights=(r"lm_head\.bias", *leftovers("data2vec_text")),
)

ERNIE = replace(
    BERT,
    model_type="ernie",
    name="ERNIE",
    weights=bert_weights("ernie") | BERT_HEAD,
    ignored_weights=(*OF_BERT_HEAD, *leftovers("ernie")),
    ignored_config=(*BERT.ignored_config, "task_type_vocab_size"),  # read only with use_task_id
    requires={**BERT.requires, "use_task_id": False},
)

MEGATRON_BERT = replace(
    BERT,
    model_type="megatron-bert",
    name="Megatron-BERT",
    config=lambda hf: _reading_normalized(bert_config(hf), None),
    weights=bert_weights("bert")
    | BERT_HEAD
    | modules("bert.encoder.layer.{i}", ln1="attention.ln", ln2="ln")
    | modules(ln_final="bert.encoder.ln"),
)

XLM_ROBERTA_XL = replace(
    ROBERTA,
    model_type="xlm-roberta-xl",
    name="XLM-RoBERTa-XL",
    config=lambda hf: _reading_normalized(roberta_config(hf), None),
    weights=bert_weights("roberta")
    | ROBERTA_HEAD
    | modules("roberta.encoder.layer.{i}", ln1="attention.self_attn_layer_norm", ln2="LayerNorm")
    | modules(ln_final="roberta.encoder.LayerNorm"),
)

ROBERTA_PRELAYERNORM = replace(
    ROBERTA,
    model_type="roberta-prelayernorm",
    name="RoBERTa-PreLayerNorm",
    config=lambda hf: _reading_normalized(roberta_config(hf), "LN"),
    weights=bert_weights("roberta_prelayernorm")
    | ROBERTA_HEAD
    | modules("roberta_prelayernorm.encoder.layer.{i}", ln1="attention.LayerNorm", ln2="intermediate.LayerNorm")
    | modules(ln_final="roberta_prelayernorm.LayerNorm"),
    ignored_weights=(r"lm_head\.bias", *leftovers("roberta_prelayernorm")),
)
