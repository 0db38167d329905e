"""Encoders of masked text with rotary positions.

nomic-bert (Nussbaum et al. 2024), GTE (Zhang et al. 2024) and jina-embeddings-v3 (Sturua et al. 2024) normalize the
stream after each addition, as BERT does; EuroBERT (Boizard et al. 2025) is Llama, with every token seeing all others.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.bert import BERT, BERT_HEAD, ROBERTA_HEAD, encoder
from interp_hooks.loading.families.llama import ATTENTION, LLAMA, MLP
from interp_hooks.loading.families.shared import head_width, modules, rotary
from interp_hooks.loading.rules import Table


def _config(hf: Any) -> dict[str, Any]:
    return encoder(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | dict(
        d_head=head_width(hf),
        d_mlp=hf.intermediate_size,
        n_token_types=hf.type_vocab_size,
        **rotary(hf, head_width(hf)),
    )


def _gated_config(hf: Any) -> dict[str, Any]:
    return _config(hf) | dict(gated_mlp=True)


def _weights(base: str) -> Table:
    layer = f"{base}.layers.{{i}}"
    ends = modules(
        embed=f"{base}.embeddings.word_embeddings",
        token_type_embed=f"{base}.embeddings.token_type_embeddings",
        ln_embed=f"{base}.embeddings.LayerNorm",
    )
    inner = {ours: theirs.replace("model.layers.{i}", layer) for ours, theirs in (ATTENTION | MLP).items() if theirs}
    return ends | inner | modules(layer, ln1="post_attention_layernorm", ln2="post_mlp_layernorm")


NOMIC_BERT = replace(
    BERT,
    model_type="nomic_bert",
    name="nomic-bert",
    config=_gated_config,
    weights=_weights("nomic_bert") | BERT_HEAD | modules(mlm_ln="cls.predictions.transform.layer_norm"),
    ignored_weights=(
        r"cls\.predictions\.bias",  # the decoder's, which is what HuggingFace adds
        r"nomic_bert\.pooler\..*",
        *LLAMA.ignored_weights,
    ),
    requires={},
)

GTE = replace(
    NOMIC_BERT,
    model_type="gte",
    name="GTE",
    config=_gated_config,
    weights=_weights("gte") | ROBERTA_HEAD,
    ignored_weights=(r"gte\.pooler\..*", *LLAMA.ignored_weights),
    requires={"hidden_act": "gelu"},  # the head's activation is always gelu
)

JINA_EMBEDDINGS_V3 = replace(
    GTE,
    model_type="jina_embeddings_v3",
    name="jina-embeddings-v3",
    config=_config,
    weights=_weights("roberta") | ROBERTA_HEAD | modules("roberta.layers.{i}", up="mlp.fc1", down="mlp.fc2"),
    ignored_weights=(
        r"lm_head\.bias",  # the decoder's, which is what HuggingFace adds
        r"roberta\.pooler\..*",
        *LLAMA.ignored_weights,
    ),
)

EUROBERT = replace(
    LLAMA,
    model_type="eurobert",
    name="EuroBERT",
    head="MaskedLM",
    config=lambda hf: LLAMA.config(hf) | dict(attention_dir="bidirectional"),
    ignored_config=(*LLAMA.ignored_config, "classifier_pooling"),  # of a head that classifies
)
