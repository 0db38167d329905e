"""Gemma 3n."""

from typing import Any

from tests.family_configs.llama import SIZES

_GEMMA3N = SIZES | dict(
    model_type="gemma3n_text",
    hidden_size=36,  # its root, by which embeddings are multiplied, is not rounded
    head_dim=6,
    rms_norm_eps=0.01,
    sliding_window=4,
    hidden_size_per_layer_input=9,
    vocab_size_per_layer_input=61,
    num_kv_shared_layers=0,
    laurel_rank=5,
    altup_num_inputs=3,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)
_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0},
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3n": _GEMMA3N
    | dict(
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        intermediate_size=[40, 40, 28, 28],
        activation_sparsity_pattern=[0.8, 0.6, 0.0, 0.0],
        rope_parameters=_ROPES,
        tie_word_embeddings=False,
    ),
    "gemma3n-tied": _GEMMA3N
    | dict(vocab_size_per_layer_input=50, attention_bias=True, final_logit_softcapping=5.0, altup_num_inputs=2),
}
