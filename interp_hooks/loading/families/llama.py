"""Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped keys and values, gated MLP."""

from typing import Any

from interp_hooks.loading.families.shared import activation, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_key_value_heads,
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        normalization_type="RMS",
        eps=hf.rms_norm_eps,
        gated_mlp=True,
        **rotary(hf, hf.head_dim),
    )


_LAYER = "model.layers.{i}"

LLAMA = Family(
    model_type="llama",
    name="Llama",
    config=_config,
    weights={
        "embed.W_E": "model.embed_tokens.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.attn.W_Q": f"{_LAYER}.self_attn.q_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_K": f"{_LAYER}.self_attn.k_proj.weight | (g k) d -> g d k",
        "blocks.{i}.attn.W_V": f"{_LAYER}.self_attn.v_proj.weight | (g k) d -> g d k",
        "blocks.{i}.attn.W_O": f"{_LAYER}.self_attn.o_proj.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_Q": f"{_LAYER}.self_attn.q_proj.bias? | (h k) -> h k",
        "blocks.{i}.attn.b_K": f"{_LAYER}.self_attn.k_proj.bias? | (g k) -> g k",
        "blocks.{i}.attn.b_V": f"{_LAYER}.self_attn.v_proj.bias? | (g k) -> g k",
        "blocks.{i}.attn.b_O": f"{_LAYER}.self_attn.o_proj.bias?",
        "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight",
        "blocks.{i}.mlp.W_gate": f"{_LAYER}.mlp.gate_proj.weight | m d -> d m",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.up_proj.weight | m d -> d m",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.down_proj.weight | d m -> m d",
        "blocks.{i}.mlp.b_gate": f"{_LAYER}.mlp.gate_proj.bias?",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.up_proj.bias?",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.down_proj.bias?",
        "ln_final.w": "model.norm.weight",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=(r".*rotary_emb\.inv_freq",),
    ignored_config=(
        "attention_bias",  # these two show in the tensors
        "mlp_bias",
        "pretraining_tp",  # how the training was split over devices
        "rope_theta",  # older names, which HuggingFace moves into rope_parameters
        "rope_scaling",
    ),
)
