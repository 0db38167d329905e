"""ModernBERT and its decoder."""

from typing import Any

_MODERNBERT = dict(
    num_hidden_layers=4,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
    local_attention=6,
    pad_token_id=0,
    rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
    },
)
_BIASES = dict(norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True)

CONFIGS: dict[str, dict[str, Any]] = {
    "modernbert": _MODERNBERT | _BIASES | dict(model_type="modernbert", tie_word_embeddings=False),
    "modernbert-tied": _MODERNBERT | dict(model_type="modernbert", decoder_bias=False),
    "modernbert-decoder": _MODERNBERT | _BIASES | dict(model_type="modernbert-decoder", tie_word_embeddings=False),
    "modernbert-decoder-tied": _MODERNBERT | dict(model_type="modernbert-decoder", decoder_bias=False),
}
