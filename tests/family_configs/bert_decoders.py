"""BertGeneration, BigBird and RoFormer, as decoders."""

from typing import Any

_SIZES = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=32,
    vocab_size=61,
    is_decoder=True,
    exact=True,
    std=0.6,
)
_GENERATION = _SIZES | dict(model_type="bert-generation")
_BIG_BIRD = _SIZES | dict(model_type="big_bird", attention_type="original_full")
_ROFORMER = _SIZES | dict(model_type="roformer", exact=False)

CONFIGS: dict[str, dict[str, Any]] = {
    "bert-generation": _GENERATION | dict(tie_word_embeddings=False, layer_norm_eps=0.1),
    "bert-generation-tied": _GENERATION | dict(hidden_act="relu"),
    "big-bird": _BIG_BIRD | dict(tie_word_embeddings=False, rescale_embeddings=True, layer_norm_eps=0.1),
    "big-bird-tied-no-biases": _BIG_BIRD | dict(use_bias=False, hidden_act="relu"),
    "roformer": _ROFORMER | dict(tie_word_embeddings=False, layer_norm_eps=0.1),
    "roformer-tied": _ROFORMER | dict(hidden_act="relu"),
}
