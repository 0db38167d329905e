"""JetMoE."""

from typing import Any

from tests.family_configs.llama import LINEAR, SIZES

_JETMOE = {name: value for name, value in SIZES.items() if name != "num_attention_heads"} | dict(
    model_type="jetmoe", kv_channels=10, num_local_experts=5, num_experts_per_tok=2
)

CONFIGS: dict[str, dict[str, Any]] = {
    "jetmoe": _JETMOE | dict(tie_word_embeddings=False, num_key_value_heads=3),
    "jetmoe-tied-one-expert-linear": _JETMOE | dict(num_experts_per_tok=1, rope_parameters=LINEAR),
}
