"""Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped keys and values, gated MLP. And its close relatives:

Arcee (Arcee AI 2025) has a plain MLP with squared ReLU; Helium (Kyutai 2025) and ERNIE 4.5 (Baidu 2025) rotate
adjacent pairs; Seed-OSS (ByteDance 2025) differs in its biases; SmolLM3 (Hugging Face 2025) does not rotate in every
fourth layer.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation, head_width, rotary, rotary_where, sizes, windows
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    d_head = head_width(hf)
    return sizes(hf) | dict(
        act_fn=activation(hf.hidden_act),
        normalization_type="RMS",
        eps=hf.rms_norm_eps,
        gated_mlp=True,
        **rotary(hf, d_head) | dict(rotary_dim=d_head),  # a partial_rotary_factor is not read there either
    )


_LAYER = "model.layers.{i}"

# The table in its parts, for the many models that change one of them.
ENDS = {
    "embed.W_E": "model.embed_tokens.weight",
    "ln_final.w": "model.norm.weight",
    "unembed.W_U": "lm_head.weight | v d -> d v",
    "unembed.b_U": None,
}
NORMS = {
    "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
    "blocks.{i}.ln2.w": f"{_LAYER}.post_attention_layernorm.weight",
}
ATTENTION = {
    "blocks.{i}.attn.W_Q": f"{_LAYER}.self_attn.q_proj.weight | (h k) d -> h d k",
    "blocks.{i}.attn.W_K": f"{_LAYER}.self_attn.k_proj.weight | (g k) d -> g d k",
    "blocks.{i}.attn.W_V": f"{_LAYER}.self_attn.v_proj.weight | (g k) d -> g d k",
    "blocks.{i}.attn.W_O": f"{_LAYER}.self_attn.o_proj.weight | d (h k) -> h k d",
    "blocks.{i}.attn.b_Q": f"{_LAYER}.self_attn.q_proj.bias? | (h k) -> h k",
    "blocks.{i}.attn.b_K": f"{_LAYER}.self_attn.k_proj.bias? | (g k) -> g k",
    "blocks.{i}.attn.b_V": f"{_LAYER}.self_attn.v_proj.bias? | (g k) -> g k",
    "blocks.{i}.attn.b_O": f"{_LAYER}.self_attn.o_proj.bias?",
}
PLAIN_MLP = {
    "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.up_proj.weight | m d -> d m",
    "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.down_proj.weight | d m -> m d",
    "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.up_proj.bias?",
    "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.down_proj.bias?",
}
GATED_MLP = PLAIN_MLP | {
    "blocks.{i}.mlp.W_gate": f"{_LAYER}.mlp.gate_proj.weight | m d -> d m",
    "blocks.{i}.mlp.b_gate": f"{_LAYER}.mlp.gate_proj.bias?",
}
FUSED_MLP = {  # gate and linear part in one matrix
    "blocks.{i}.mlp.W_gate, blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.gate_up_proj.weight | (two m) d -> two d m",
    "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.down_proj.weight | d m -> m d",
    "blocks.{i}.mlp.b_gate": None,
    "blocks.{i}.mlp.b_in": None,
    "blocks.{i}.mlp.b_out": None,
}

LLAMA = Family(
    model_type="llama",
    name="Llama",
    config=_config,
    weights=ENDS | NORMS | ATTENTION | GATED_MLP,
    ignored_weights=(r".*rotary_emb\.inv_freq",),
    ignored_config=(
        "attention_bias",  # these two show in the tensors
        "mlp_bias",
        "pretraining_tp",  # how the training was split over devices
        "rope_theta",  # older names, which HuggingFace moves into rope_parameters
        "rope_scaling",
        "is_llama_config",  # SmolLM's, for the programs that it was trained and published with
        "transformers.js_config",
    ),
    requires={"rope_interleaved": False},
)

ARCEE = replace(
    LLAMA,
    model_type="arcee",
    name="Arcee",
    config=lambda hf: LLAMA.config(hf) | dict(gated_mlp=False),
    weights=ENDS | NORMS | ATTENTION | PLAIN_MLP,
)

HELIUM = replace(
    LLAMA,
    model_type="helium",
    name="Helium",
    config=lambda hf: LLAMA.config(hf) | dict(rotary_adjacent_pairs=True),
)

ERNIE4_5 = replace(
    HELIUM,
    model_type="ernie4_5",
    name="ERNIE 4.5",
    ignored_config=(*LLAMA.ignored_config, "use_bias"),  # shows in the tensors
)

SEED_OSS = replace(
    LLAMA,
    model_type="seed_oss",
    name="Seed-OSS",
    ignored_config=(*LLAMA.ignored_config, "attention_out_bias"),  # shows in the tensors
)


def _smollm3_config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | dict(window_sizes=windows(hf))
    return rotary_where(hf.no_rope_layers, fields)  # they are listed as 0, the others as 1


SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    name="SmolLM3",
    config=_smollm3_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "no_rope_layer_interval",  # no_rope_layers and layer_types say what comes of these
        "use_sliding_window",
        "max_window_layers",
    ),
)
