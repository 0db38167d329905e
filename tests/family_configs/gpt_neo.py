"""GPT-Neo."""

from typing import Any

_NEO = dict(
    model_type="gpt_neo",
    num_layers=3,
    hidden_size=24,
    num_heads=3,
    max_position_embeddings=32,
    vocab_size=61,
    window_size=4,
    attention_types=[[["global", "local"], 1], [["local"], 1]],
)

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt-neo": _NEO | dict(intermediate_size=40, tie_word_embeddings=False),
    "gpt-neo-tied-global": _NEO | dict(attention_types=[[["global"], 3]], activation_function="relu"),
}
