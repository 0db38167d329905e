"""EXAONE 4."""

from typing import Any

from tests.family_configs.llama import LLAMA3, SIZES

_EXAONE = SIZES | dict(model_type="exaone4", num_hidden_layers=4)

CONFIGS: dict[str, dict[str, Any]] = {
    "exaone4": _EXAONE | dict(head_dim=10, sliding_window=4),
    "exaone4-tied-no-window-llama3": _EXAONE
    | dict(
        sliding_window=None,
        layer_types=["full_attention"] * 4,
        sliding_window_pattern="LLLG",
        tie_word_embeddings=True,
        rope_parameters=LLAMA3,
    ),
}
