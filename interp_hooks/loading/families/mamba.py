"""Mamba (Gu and Dao 2023), and its relatives.

Falcon Mamba (TII 2024) normalizes what channels read and write with, without gains; Jamba (AI21 2024) with gains, and
has attention in some layers, and MLPs, every other one a mixture of experts.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS
from interp_hooks.loading.families.mamba2 import NO_NUMBER, of_mixers_alone, weights_alone
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, experts_of
from interp_hooks.loading.families.shared import LAYER, basics, head_width, modules
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

OURS = "blocks.{mamba}.attn"


def state_space_weights(there: str) -> Table:
    """Lines for the layers of Mamba that they call `there`."""
    return {
        f"{OURS}.W_V, {OURS}.W_G": f"{there}.in_proj.weight | (two W) d -> two d W",
        f"{OURS}.b_V, {OURS}.b_G": f"{there}.in_proj.bias? | (two W) -> two W",
        f"{OURS}.convolution.W": f"{there}.conv1d.weight | W 1 taps -> W taps",
        f"{OURS}.convolution.b": f"{there}.conv1d.bias?",
        f"{OURS}.W_down, {OURS}.W_K, {OURS}.W_Q": f"{there}.x_proj.weight | x W -> x W | R K K | x W -> W x",
        f"{OURS}.W_dt": f"{there}.dt_proj.weight | W R -> R W",
        f"{OURS}.b_dt": f"{there}.dt_proj.bias",
        f"{OURS}.A_log": f"{there}.A_log",
        f"{OURS}.D": f"{there}.D",
        f"{OURS}.W_O": f"{there}.out_proj.weight | d W -> 1 W d",
        f"{OURS}.b_O": f"{there}.out_proj.bias?",
    }


def _config(hf: Any) -> dict[str, Any]:
    return dict(n_heads=1) | of_mixers_alone(
        hf,
        MixersConfig(
            layers=("mamba",) * hf.num_hidden_layers,
            d_key=hf.state_size,
            d_value=hf.intermediate_size,
            taps=hf.conv_kernel,
            dt_rank=hf.time_step_rank,
        ),
    )


MAMBA = Family(
    model_type="mamba",
    name="Mamba",
    config=_config,
    weights=weights_alone(state_space_weights("backbone.layers.{mamba}.mixer")),
    ignored_config=(
        *NO_NUMBER,
        *("use_bias", "use_conv_bias"),  # show in the tensors
        *("time_step_scale", "time_step_init_scheme"),  # of the first weights
        *("use_mambapy", "use_associative_scan"),  # how HuggingFace computes it
        "expand",  # the width says what comes of it
        "residual_in_fp32",  # of half-precision models
    ),
    requires={"hidden_act": "silu"},
)


def _falcon_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf)
    return fields | dict(mixers=replace(fields["mixers"], part_norm="RMSPre", eps=hf.mixer_rms_eps))


FALCON_MAMBA = replace(MAMBA, model_type="falcon_mamba", name="Falcon Mamba", config=_falcon_config)


def _jamba_config(hf: Any) -> dict[str, Any]:
    mixers = MixersConfig(
        layers=tuple("attention" if kind == "attention" else "mamba" for kind in hf.layers_block_type),
        d_key=hf.mamba_d_state,
        d_value=hf.mamba_expand * hf.hidden_size,
        taps=hf.mamba_d_conv,
        dt_rank=hf.mamba_dt_rank,
        part_norm="RMS",
        eps=hf.rms_norm_eps,
    )
    counts = hf.layers_num_experts
    experts, sparse = None, tuple(count > 1 for count in counts)
    if any(sparse):
        experts = experts_of(hf, hf.num_experts, hf.intermediate_size, sparse, normalize_weights=False)
    return basics(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        n_key_value_heads=hf.num_key_value_heads,
        d_head=head_width(hf),
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        normalization_type="RMS",
        positional_embedding_type="none",
        gated_mlp=True,
        mixers=mixers,
        experts=experts,
    )


JAMBA = replace(
    MAMBA,
    model_type="jamba",
    name="Jamba",
    config=_jamba_config,
    weights=ENDS
    | modules(ln_final="model.final_layernorm", ln1="input_layernorm", ln2="pre_ff_layernorm")
    | on_layers("attention", ATTENTION)
    | state_space_weights("model.layers.{mamba}.mamba")
    | {
        f"{OURS}.{ours}_norm.w": f"model.layers.{{mamba}}.mamba.{theirs}_layernorm.weight"
        for ours, theirs in (("dt", "dt"), ("k", "b"), ("q", "c"))
    }
    | modules(gate="feed_forward.gate_proj", up="feed_forward.up_proj", down="feed_forward.down_proj")
    | {
        "blocks.{i}.mlp.W_router": f"{LAYER}.feed_forward.router.weight | e d -> d e",
        "blocks.{i}.mlp.b_router": None,
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{LAYER}.feed_forward.experts.gate_up_proj | e (two n) d -> two e d n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{LAYER}.feed_forward.experts.down_proj | e d n -> e n d",
        **NO_EXPERT_BIASES,
    },
    ignored_config=(
        *TRAINING_ONLY,
        *("num_experts", "num_experts_per_tok"),  # of models that have experts
        *("mamba_conv_bias", "mamba_proj_bias"),  # show in the tensors
        *("use_mamba_kernels", "use_mambapy", "use_associative_scan"),  # how HuggingFace computes it
        *("expert_layer_period", "expert_layer_offset", "attn_layer_period", "attn_layer_offset"),  # become layers'
    ),
)
