"""Command R and its successors."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES, YARN

_COHERE = SIZES | dict(model_type="cohere", layer_norm_eps=0.01)
_COHERE2 = SIZES | dict(model_type="cohere2", num_hidden_layers=4, sliding_window=4, layer_norm_eps=0.01)

CONFIGS: dict[str, dict[str, Any]] = {
    "cohere": _COHERE | dict(use_qk_norm=True, attention_bias=True, tie_word_embeddings=False, logit_scale=0.3),
    "cohere-tied-ungrouped-no-qk-norm": _COHERE | dict(num_key_value_heads=None, rope_parameters=YARN),
    "cohere2": _COHERE2 | dict(attention_bias=True, tie_word_embeddings=False, logit_scale=0.3),
    "cohere2-tied-ungrouped": _COHERE2
    | dict(num_key_value_heads=None, sliding_window_pattern=2, rope_parameters=LLAMA3),
}
