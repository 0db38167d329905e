"""JetMoE (Shen et al. 2024): a mixture of experts in place of the MLP, and a mixture of heads in place of attention.

Every expert of attention has queries and output weights of its own; all experts share keys and values.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ENDS, LLAMA, NORMS
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, in_every_layer
from interp_hooks.loading.families.shared import LAYER, head_width, llama_like, modules
from interp_hooks.loading.rules import Table
from interp_hooks.model.mixers_config import MixersConfig


def _config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.activation_function, eps=1e-6) | dict(
        n_heads=hf.num_local_experts * hf.num_key_value_heads,  # theirs counts those that a token passes
        normalization_type="RMS",
        gated_mlp=True,
        rotary_dim=head_width(hf),
        mixers=MixersConfig(
            layers=("mixture_of_heads",) * hf.num_hidden_layers, experts_per_token=hf.num_experts_per_tok
        ),
        experts=in_every_layer(hf, hf.num_local_experts, output_bias=True),
    )


OURS, THEIRS = "blocks.{mixture_of_heads}.attn", "model.layers.{mixture_of_heads}.self_attention"
HEADS: Table = {
    f"{OURS}.W_Q": f"{THEIRS}.experts.input_linear.weight | q (g k) d -> (g q) d k",
    f"{OURS}.W_K, {OURS}.W_V": f"{THEIRS}.kv_proj.weight | (two g k) d -> two g d k",
    f"{OURS}.W_O": f"{THEIRS}.experts.output_linear.weight | q d (g k) -> (g q) k d",
    f"{OURS}.b_O": f"{THEIRS}.experts.bias",
    f"{OURS}.W_router": f"{THEIRS}.experts.router.layer.weight | q d -> d q",
    **{f"{OURS}.b_{part}": None for part in ("Q", "K", "V", "router")},
}
EXPERTS: Table = modules(router="mlp.router.layer") | {
    "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
        f"{LAYER}.mlp.input_linear.weight | e (two n) d -> two e d n"
    ),
    "blocks.{i}.mlp.experts.W_out": f"{LAYER}.mlp.output_linear.weight | e d n -> e n d",
    "blocks.{i}.mlp.b_out": f"{LAYER}.mlp.bias",
    **NO_EXPERT_BIASES,
}

JETMOE = replace(
    LLAMA,
    model_type="jetmoe",
    name="JetMoE",
    config=_config,
    weights=ENDS | NORMS | HEADS | EXPERTS,
    ignored_config=(
        *(name for name in TRAINING_ONLY if name != "router_aux_loss_coef"),
        "aux_loss_coef",
        "rms_norm_eps",  # its norms are made without it
        "rope_theta",  # an older name
    ),
)
