"""BERT, RoBERTa and DistilBERT."""

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

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT | dict(model_type="bert", type_vocab_size=3),
    "bert-relu": _BERT | dict(model_type="bert", hidden_act="relu"),
    "roberta": _BERT | dict(model_type="roberta", type_vocab_size=1, pad_token_id=_UNUSED),
    "distilbert": _DISTILBERT | dict(tie_word_embeddings=False),
    "distilbert-tied": _DISTILBERT | dict(activation="relu"),
}
