"""GPT-2."""

from typing import Any

_GPT2 = dict(model_type="gpt2", n_layer=3, n_embd=24, n_head=3, n_positions=32, vocab_size=61, exact=True)

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2 | dict(tie_word_embeddings=False),
    "gpt2-tied-scaled": _GPT2
    | dict(
        n_inner=40,
        activation_function="relu",
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
    ),
}
