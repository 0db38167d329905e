"""nanochat."""

from typing import Any

from tests.family_configs.llama import SIZES, YARN

_NANOCHAT = SIZES | dict(model_type="nanochat", pad_token_id=0, rms_norm_eps=0.01)

CONFIGS: dict[str, dict[str, Any]] = {
    "nanochat": _NANOCHAT | dict(rope_theta=100.0, attention_bias=True, final_logit_softcapping=5.0),
    "nanochat-tied-ungrouped-no-cap": _NANOCHAT
    | dict(num_key_value_heads=None, tie_word_embeddings=True, final_logit_softcapping=None, rope_parameters=YARN),
}
