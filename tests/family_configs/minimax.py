"""MiniMax-Text-01, with pieces that are shorter than the tests' texts."""

from typing import Any

from tests.family_configs.llama import SIZES

_FACTORS = {
    f"{part}_{name}_factor": value
    for part in ("full_attn", "linear_attn", "mlp")
    for name, value in (("alpha", 3.5), ("beta", 0.7))
}
_MINIMAX = SIZES | dict(
    model_type="minimax",
    num_local_experts=5,
    num_experts_per_tok=2,
    block_size=4,
    rms_norm_eps=0.01,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "minimax": _MINIMAX
    | _FACTORS
    | dict(head_dim=10, layer_types=["linear_attention", "full_attention", "linear_attention"]),
    "minimax-tied-window": _MINIMAX
    | dict(tie_word_embeddings=True, sliding_window=4, layer_types=["full_attention", *["linear_attention"] * 2]),
}
