"""CTRL."""

from typing import Any

_CTRL = dict(model_type="ctrl", n_layer=3, n_embd=24, n_head=3, dff=40, n_positions=32, vocab_size=61)

CONFIGS: dict[str, dict[str, Any]] = {
    "ctrl": _CTRL | dict(tie_word_embeddings=False),
    "ctrl-tied": _CTRL,
}
