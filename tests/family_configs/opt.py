"""OPT, Galactica, XGLM and BioGPT."""

from typing import Any

_OPT = dict(
    model_type="opt",
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    ffn_dim=40,
    max_position_embeddings=32,
    vocab_size=61,
)
_XGLM = dict(
    model_type="xglm",
    num_layers=3,
    d_model=24,
    attention_heads=3,
    ffn_dim=40,
    max_position_embeddings=32,
    vocab_size=61,
    exact=True,
)
_BIOGPT = dict(
    model_type="biogpt",
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=32,
    vocab_size=61,
    exact=True,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "opt": _OPT | dict(tie_word_embeddings=False),
    "opt-post-norm": _OPT | dict(do_layer_norm_before=False),
    "opt-no-biases-no-gains": _OPT
    | dict(enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu"),
    "opt-no-final-norm": _OPT | dict(_remove_final_layer_norm=True),
    "xglm": _XGLM | dict(tie_word_embeddings=False),
    "xglm-tied-unscaled": _XGLM | dict(scale_embedding=False, activation_function="relu"),
    "biogpt": _BIOGPT | dict(tie_word_embeddings=False, layer_norm_eps=0.1),
    "biogpt-tied-unscaled": _BIOGPT | dict(scale_embedding=False, hidden_act="relu"),
}
