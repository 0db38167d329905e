"""RecurrentGemma (Google DeepMind 2024), of the Griffin architecture: RG-LRUs in two of three layers, attention with
windows in the third, and Gemma's embeddings, norms and MLPs.
"""

from typing import Any

import torch

from interp_hooks.loading.families.llama import ATTENTION
from interp_hooks.loading.families.shared import OLDER_ROPE, basics, modules, rotary, window_everywhere
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

KINDS = {"linear_attention": "rg_lru", "sliding_attention": "attention"}
OURS, THEIRS = "blocks.{rg_lru}.attn", "model.layers.{rg_lru}.temporal_block"


def _config(hf: Any) -> dict[str, Any]:
    mixers = MixersConfig(
        layers=tuple(KINDS[kind] for kind in hf.layers_block_type),  # pyright: ignore[reportArgumentType]
        n_heads=hf.num_attention_heads,
        d_value=hf.lru_width // hf.num_attention_heads,
        taps=hf.conv1d_width,
    )
    return basics(hf, act_fn=hf.hidden_activation, eps=hf.rms_norm_eps) | dict(
        n_key_value_heads=hf.num_key_value_heads,
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size // 2,
        n_ctx=2**20,  # neither the recurrence nor a window has a longest text
        normalization_type="RMS",
        norm_gain_offset=1.0,
        embed_scale=float(torch.tensor(hf.hidden_size**0.5, dtype=torch.bfloat16)),  # rounded so whatever the dtype
        window_sizes=window_everywhere(hf),
        output_logits_soft_cap=hf.logits_soft_cap,
        gated_mlp=True,
        mixers=mixers,
        **rotary(hf, hf.head_dim),
    )


_RECURRENT: Table = {
    f"{OURS}.W_V": f"{THEIRS}.linear_x.weight | x d -> d x",
    f"{OURS}.b_V": f"{THEIRS}.linear_x.bias",
    f"{OURS}.W_G": f"{THEIRS}.linear_y.weight | x d -> d x",
    f"{OURS}.b_G": f"{THEIRS}.linear_y.bias",
    f"{OURS}.convolution.W": f"{THEIRS}.conv_1d.weight | C 1 taps -> C taps",
    f"{OURS}.convolution.b": f"{THEIRS}.conv_1d.bias",
    f"{OURS}.W_I": f"{THEIRS}.rg_lru.input_gate_weight",
    f"{OURS}.b_I": f"{THEIRS}.rg_lru.input_gate_bias",
    f"{OURS}.W_R": f"{THEIRS}.rg_lru.recurrent_gate_weight",
    f"{OURS}.b_R": f"{THEIRS}.rg_lru.recurrent_gate_bias",
    f"{OURS}.decay": f"{THEIRS}.rg_lru.recurrent_param",
    f"{OURS}.W_O": f"{THEIRS}.linear_out.weight | d (H W) -> H W d",
    f"{OURS}.b_O": f"{THEIRS}.linear_out.bias",
}
_ATTENTION = {
    ours: None if theirs is None else theirs.replace("self_attn", "temporal_block")
    for ours, theirs in ATTENTION.items()
}

RECURRENT_GEMMA = Family(
    model_type="recurrent_gemma",
    name="RecurrentGemma",
    config=_config,
    weights=modules(embed="model.embed_tokens", ln_final="model.final_norm", unembed="lm_head")
    | modules(ln1="temporal_pre_norm", ln2="channel_pre_norm")
    | modules(gate="mlp_block.gate_proj", up="mlp_block.up_proj", down="mlp_block.down_proj")
    | on_layers("attention", _ATTENTION)
    | _RECURRENT,
    ignored_config=(
        *OLDER_ROPE,
        "attention_bias",  # shows in the tensors
        "block_types",  # layers_block_type say what comes of it
        *("w_init_variance_scale", "final_w_init_variance_scale"),  # of the first weights
    ),
    requires={"hidden_activation": "gelu_pytorch_tanh"},  # of the gates too
)
