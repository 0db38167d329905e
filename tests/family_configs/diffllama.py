"""DiffLlama."""

from typing import Any

from tests.family_configs.llama import SIZES, YARN

_DIFFLLAMA = SIZES | dict(model_type="diffllama", num_attention_heads=8, num_key_value_heads=4)

CONFIGS: dict[str, dict[str, Any]] = {
    "diffllama": _DIFFLLAMA | dict(head_dim=6, attention_bias=True),
    "diffllama-tied-ungrouped-yarn": _DIFFLLAMA
    | dict(head_dim=10, num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=True, rope_parameters=YARN),
}
