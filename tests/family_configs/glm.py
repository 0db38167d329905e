"""GLM-4 and GLM-4-0414."""

from typing import Any

from tests.family_configs.llama import LINEAR, SIZES

_GLM = SIZES | dict(head_dim=12, pad_token_id=0)

CONFIGS: dict[str, dict[str, Any]] = {
    "glm": _GLM | dict(model_type="glm"),
    "glm-tied-linear": _GLM
    | dict(model_type="glm", attention_bias=False, tie_word_embeddings=True, rope_parameters=LINEAR),
    "glm4": _GLM | dict(model_type="glm4"),
    "glm4-tied-no-biases": _GLM
    | dict(
        model_type="glm4",
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=1.0),
    ),
}
