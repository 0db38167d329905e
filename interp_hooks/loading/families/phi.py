"""Phi-1 to Phi-2 (Gunasekar et al. 2023, arxiv.org/abs/2306.11644): parallel blocks with one norm, partial rotary.

Everything has a bias, the unembedding too.
"""

from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, LLAMA
from interp_hooks.loading.families.nemotron import layer_norm_config
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    normed = dict(qk_norm="shared", qk_norm_type="LN") if hf.qk_layernorm else {}
    arranged = dict(parallel_attn_mlp=True, parallel_shared_norm=True, default_prepend_bos=False)
    return layer_norm_config(hf, hf.layer_norm_eps) | normed | arranged


_LAYER = "model.layers.{i}"

PHI = Family(
    model_type="phi",
    name="Phi-1, Phi-2",
    config=_config,
    weights=ENDS
    | ATTENTION
    | {
        "blocks.{i}.ln1.w": f"{_LAYER}.input_layernorm.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.input_layernorm.bias",
        "blocks.{i}.attn.W_O": f"{_LAYER}.self_attn.dense.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.self_attn.dense.bias",
        "blocks.{i}.attn.q_norm.w": f"{_LAYER}.self_attn.q_layernorm.weight",
        "blocks.{i}.attn.q_norm.b": f"{_LAYER}.self_attn.q_layernorm.bias",
        "blocks.{i}.attn.k_norm.w": f"{_LAYER}.self_attn.k_layernorm.weight",
        "blocks.{i}.attn.k_norm.b": f"{_LAYER}.self_attn.k_layernorm.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.fc1.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.fc1.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.fc2.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.fc2.bias",
        "ln_final.w": "model.final_layernorm.weight",
        "ln_final.b": "model.final_layernorm.bias",
        "unembed.b_U": "lm_head.bias",
    },
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=("rope_theta", "rope_scaling", "partial_rotary_factor"),  # moved into rope_parameters
)
