"""GPT-J and CodeGen, whose heads divide into four cores."""

from typing import Any

_GPTJ = dict(model_type="gptj", n_layer=3, n_embd=24, n_head=3, rotary_dim=4, n_positions=32, vocab_size=61)
_CODEGEN = _GPTJ | dict(model_type="codegen", n_embd=48, n_head=8)

CONFIGS: dict[str, dict[str, Any]] = {
    "gptj": _GPTJ | dict(n_inner=40),
    "gptj-tied-whole-head": _GPTJ | dict(rotary_dim=8, activation_function="relu", tie_word_embeddings=True),
    "codegen": _CODEGEN | dict(n_inner=40),
    "codegen-tied-whole-head": _CODEGEN | dict(rotary_dim=6, tie_word_embeddings=True),
}
