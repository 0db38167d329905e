"""Llama, Arcee, Helium, ERNIE 4.5, Seed-OSS, SmolLM3, CWM, InternLM3, IQuest-Coder and Moshi."""

from typing import Any

SIZES = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=61,
    max_position_embeddings=32,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=6,
)
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=6)
LINEAR = dict(rope_type="linear", rope_theta=100.0, factor=3.0)

_LLAMA = SIZES | dict(model_type="llama")
_ARCEE = SIZES | dict(model_type="arcee")
_HELIUM = SIZES | dict(model_type="helium", head_dim=6)
_ERNIE = SIZES | dict(model_type="ernie4_5")
_SEED = SIZES | dict(model_type="seed_oss", head_dim=10)
_SMOLLM = SIZES | dict(model_type="smollm3", pad_token_id=0)
_CWM = SIZES | dict(model_type="cwm", head_dim=10, sliding_window=4)
_MOSHI = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
_MOSHI |= dict(model_type="moshi", ffn_dim=40, head_dim=6, sliding_window=32)

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama-biases": _LLAMA | dict(head_dim=10, attention_bias=True, mlp_bias=True),
    "llama-tied-ungrouped-llama3": _LLAMA
    | dict(num_key_value_heads=4, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "llama-smollm": _LLAMA | {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}},
    "arcee": _ARCEE | dict(head_dim=10, attention_bias=True, mlp_bias=True),
    "arcee-yarn": _ARCEE | dict(rope_parameters=YARN),
    "helium": _HELIUM | dict(attention_bias=True, mlp_bias=True),
    "helium-tied-ungrouped": _HELIUM | dict(num_key_value_heads=4, tie_word_embeddings=True),
    "ernie4_5": _ERNIE | dict(head_dim=10, use_bias=True, tie_word_embeddings=False),
    "ernie4_5-tied": _ERNIE
    | dict(head_dim=None, rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)),
    "seed_oss": _SEED | dict(pad_token_id=0, attention_out_bias=True, mlp_bias=True),
    "seed_oss-plain": _SEED | dict(pad_token_id=0),
    "smollm3": _SMOLLM
    | dict(
        no_rope_layer_interval=2,
        use_sliding_window=True,
        sliding_window=4,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
    ),
    "smollm3-tied-no-window-llama3": _SMOLLM
    | dict(no_rope_layers=[0, 1, 0], rope_parameters=LLAMA3, max_window_layers=28),
    "cwm": _CWM | dict(rope_parameters=LLAMA3, mlp_bias=True),
    "cwm-tied-ungrouped": _CWM
    | dict(num_key_value_heads=4, tie_word_embeddings=True, layer_types=["sliding_attention"] * 3),
    "internlm3": SIZES | dict(model_type="internlm3", head_dim=10, attention_bias=True, mlp_bias=True),
    "iquestcoder": SIZES | dict(model_type="iquestcoder", head_dim=10, clip_qkv=None, use_sliding_window=False),
    "moshi": _MOSHI,
    "moshi-yarn-ungrouped": _MOSHI | dict(num_key_value_heads=4, rope_parameters=YARN),
}
