"""Falcon.

ALiBi is compared with HuggingFace's sdpa attention, which is its default, because its eager attention adds the biases
twice. HuggingFace rounds biases to bfloat16, which changes nothing for a power of two of heads and a short prompt.
"""

from typing import Any

_FALCON = dict(
    model_type="falcon",
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    ffn_hidden_size=48,
    vocab_size=61,
    max_position_embeddings=32,
)
_OLD = _FALCON | dict(multi_query=False, parallel_attn=False, bias=True)
_GROUPED = _FALCON | dict(new_decoder_architecture=True, num_kv_heads=2)
_LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=3.0)

CONFIGS: dict[str, dict[str, Any]] = {
    "falcon-grouped": _GROUPED | dict(bias=True, tie_word_embeddings=False),
    "falcon-grouped-tied-one-norm": _GROUPED | dict(num_ln_in_parallel_attn=1, rope_parameters=_LINEAR),
    "falcon-multi-query": _FALCON,
    "falcon-multi-query-serial": _FALCON | dict(parallel_attn=False, activation="relu"),
    "falcon-parallel": _OLD | dict(parallel_attn=True),
    "falcon-alibi": _OLD | dict(alibi=True, attention="sdpa"),
    "falcon-grouped-alibi": _GROUPED | dict(alibi=True, attention="sdpa"),
}
