"""Mamba-2, Bamba and Granite 4."""

from typing import Any

from tests.family_configs.llama import SIZES

_MAMBA2 = dict(
    model_type="mamba2",
    num_hidden_layers=3,
    hidden_size=24,
    vocab_size=61,
    num_heads=6,
    head_dim=8,
    n_groups=2,
    state_size=5,
    conv_kernel=3,
    chunk_size=4,
    residual_in_fp32=False,
)
_HYBRID = dict(mamba_n_heads=6, mamba_n_groups=2, mamba_d_state=5, mamba_d_conv=3, mamba_chunk_size=4)
_BAMBA = SIZES | _HYBRID
_BAMBA |= dict(model_type="bamba", attn_layer_indices=[1], pad_token_id=0, hidden_size=32, mamba_n_heads=8)
_GRANITE = SIZES | _HYBRID
_GRANITE |= dict(
    model_type="granitemoehybrid",
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    intermediate_size=11,
    shared_intermediate_size=13,
    num_local_experts=5,
    num_experts_per_tok=2,
    embedding_multiplier=3.0,
    attention_multiplier=0.3,
    residual_multiplier=0.6,
    logits_scaling=1.7,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba2": _MAMBA2,
    "mamba2-tied-biases": _MAMBA2
    | dict(tie_word_embeddings=True, use_bias=True, use_conv_bias=False, n_groups=1, residual_in_fp32=True),
    "bamba": _BAMBA,
    "bamba-tied-biases": _BAMBA
    | dict(tie_word_embeddings=True, mamba_proj_bias=True, mamba_conv_bias=False, attention_bias=True)
    | dict(mlp_bias=True, mamba_n_groups=4),
    "granite4": _GRANITE,
    "granite4-dense-rope": _GRANITE
    | dict(num_local_experts=0, position_embedding_type="rope", mamba_proj_bias=True, tie_word_embeddings=True),
}
