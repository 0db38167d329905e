"""GPT-2, GPT and GPT-BigCode."""

from typing import Any

_GPT2 = dict(model_type="gpt2", n_layer=3, n_embd=24, n_head=3, n_positions=32, vocab_size=61, exact=True)
_GPT = dict(model_type="openai-gpt", n_layer=3, n_embd=24, n_head=3, n_positions=32, vocab_size=61, exact=True)
_BIGCODE = dict(model_type="gpt_bigcode", n_layer=3, n_embd=24, n_head=3, n_inner=40, n_positions=32, vocab_size=61)

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2 | dict(tie_word_embeddings=False),
    "gpt2-tied-scaled": _GPT2
    | dict(
        n_inner=40,
        activation_function="relu",
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
    ),
    "openai-gpt": _GPT | dict(tie_word_embeddings=False),
    "openai-gpt-tied-silu": _GPT | dict(afn="swish"),
    "bigcode": _BIGCODE | dict(tie_word_embeddings=False),
    "bigcode-tied-unscaled": _BIGCODE | dict(n_inner=None, scale_attn_weights=False),
    "bigcode-all-keys": _BIGCODE | dict(multi_query=False, activation_function="gelu"),
}
