"""BERT, RoBERTa, DistilBERT and their relatives."""

from typing import Any

_BERT = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
    std=0.6,
    exact=True,
)
_DISTILBERT = dict(
    model_type="distilbert",
    n_layers=3,
    dim=24,
    n_heads=3,
    hidden_dim=40,
    vocab_size=61,
    max_position_embeddings=32,
    std=0.6,
    exact=True,
)
_UNUSED = 2  # a token that the tests' prompts do not contain: HuggingFace would count no position for it

_ROBERTA = _BERT | dict(type_vocab_size=2, pad_token_id=_UNUSED)
_ROTARY = _BERT | dict(exact=False, type_vocab_size=2, rope_parameters=dict(rope_type="default", rope_theta=50.0))
_EUROBERT = _BERT | dict(model_type="eurobert", exact=False, std=0.3, pad_token_id=0)

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT | dict(model_type="bert", type_vocab_size=3),
    "bert-relu": _BERT | dict(model_type="bert", hidden_act="relu"),
    "roberta": _BERT | dict(model_type="roberta", type_vocab_size=1, pad_token_id=_UNUSED),
    "distilbert": _DISTILBERT | dict(tie_word_embeddings=False),
    "distilbert-tied": _DISTILBERT | dict(activation="relu"),
    "xlm-roberta": _ROBERTA | dict(model_type="xlm-roberta"),
    "camembert": _ROBERTA | dict(model_type="camembert"),
    "data2vec-text": _ROBERTA | dict(model_type="data2vec-text"),
    "ernie": _BERT | dict(model_type="ernie", type_vocab_size=3),
    "rembert": _BERT
    | dict(model_type="rembert", type_vocab_size=3, pad_token_id=_UNUSED)
    | dict(input_embedding_size=14, output_embedding_size=18),
    "electra": _BERT | dict(model_type="electra", type_vocab_size=3, embedding_size=14),
    "electra-wide": _BERT | dict(model_type="electra", embedding_size=24, tie_word_embeddings=False),
    "megatron-bert": _BERT | dict(model_type="megatron-bert", type_vocab_size=3),
    "xlm-roberta-xl": _ROBERTA | dict(model_type="xlm-roberta-xl"),
    "roberta-prelayernorm": _ROBERTA | dict(model_type="roberta-prelayernorm"),
    "nomic-bert": _ROTARY | dict(model_type="nomic_bert", head_dim=10),
    "gte": _ROTARY | dict(model_type="gte"),
    "jina-embeddings-v3": _ROTARY | dict(model_type="jina_embeddings_v3"),
    "eurobert": _EUROBERT | dict(num_key_value_heads=1, head_dim=10, attention_bias=True, mlp_bias=True),
    "eurobert-tied": _EUROBERT | dict(tie_word_embeddings=True),
}
