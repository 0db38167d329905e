"""Encoders whose embeddings are not as wide as their stream, and whose head is not either.

ELECTRA's generators (Clark et al. 2020) tie both ends; RemBERT (Chung et al. 2020) has a wider head than embeddings.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.bert import BERT, bert_config, bert_weights
from interp_hooks.loading.families.shared import SUMMARY, modules


def _electra_config(hf: Any) -> dict[str, Any]:
    narrow = hf.embedding_size if hf.embedding_size != hf.hidden_size else 0  # the same width passes no map
    return bert_config(hf) | dict(d_embed=narrow, d_unembed=narrow)


ELECTRA = replace(
    BERT,
    model_type="electra",
    name="ELECTRA (generators)",
    config=_electra_config,
    weights=bert_weights("electra")
    | modules(
        embed_map="electra.embeddings_project",
        mlm_dense="generator_predictions.dense",
        mlm_ln="generator_predictions.LayerNorm",
        unembed="generator_lm_head",
    )
    | {"unembed.W_U": "generator_lm_head.weight | v read -> read v"},
    ignored_weights=(r"electra\.embeddings\.position_ids",),
    ignored_config=(*BERT.ignored_config, *SUMMARY, "summary_last_dropout"),
    requires={**BERT.requires, "hidden_act": "gelu"},  # the head's activation is always gelu
)

REMBERT = replace(
    BERT,
    model_type="rembert",
    name="RemBERT",
    config=lambda hf: bert_config(hf) | dict(d_embed=hf.input_embedding_size, d_unembed=hf.output_embedding_size),
    weights=bert_weights("rembert")
    | modules(
        embed_map="rembert.encoder.embedding_hidden_mapping_in",
        mlm_dense="cls.predictions.dense",
        mlm_ln="cls.predictions.LayerNorm",
        unembed="cls.predictions.decoder",
    )
    | {"unembed.W_U": "cls.predictions.decoder.weight | v read -> read v"},
    ignored_weights=(r"cls\.predictions\.bias", r"rembert\.embeddings\.position_ids", r"rembert\.pooler\..*"),
)
