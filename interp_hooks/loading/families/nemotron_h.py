"""Nemotron-H and Nemotron 3 (NVIDIA 2025): layers that are one thing each, Mamba-2, attention without positions, an MLP
with squared ReLU, or a mixture of experts.
"""

from typing import Any

from interp_hooks.loading.families.deepseek import with_sigmoids
from interp_hooks.loading.families.mamba2 import NO_NUMBER, state_space_weights, steps
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, experts_of
from interp_hooks.loading.families.shared import basics, modules
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import on_layers
from interp_hooks.model.experts_config import ExpertsConfig
from interp_hooks.model.mixers_config import MixerKind, MixersConfig

KINDS: dict[str, MixerKind] = {
    "linear_attention": "mamba2",
    "full_attention": "attention",
    "mlp": "none",
    "moe": "none",
}


def _experts(hf: Any) -> ExpertsConfig | None:
    layers = tuple(kind == "moe" for kind in hf.layers_block_type)
    if not any(layers):
        return None
    how: dict[str, Any] = dict(weight_scale=hf.routed_scaling_factor, precise_router=True)
    how |= dict(d_shared=hf.moe_shared_expert_intermediate_size)
    return with_sigmoids(hf, experts_of(hf, hf.n_routed_experts, hf.moe_intermediate_size, layers, **how))


def _config(hf: Any) -> dict[str, Any]:
    kinds = hf.layers_block_type
    mixers = MixersConfig(
        layers=tuple(KINDS[kind] for kind in kinds),
        mlps=tuple(kind in ("mlp", "moe") for kind in kinds),
        n_heads=hf.mamba_num_heads,
        n_key_heads=hf.n_groups,
        d_key=hf.ssm_state_size,
        d_value=hf.mamba_head_dim,
        taps=hf.conv_kernel,
        eps=hf.layer_norm_epsilon,
        norm_groups=hf.n_groups,
        **steps(hf),
    )
    return basics(hf, act_fn=hf.mlp_hidden_act, eps=hf.layer_norm_epsilon) | dict(
        n_layers=len(kinds),
        n_key_value_heads=hf.num_key_value_heads,
        d_head=hf.head_dim,
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        normalization_type="RMS",
        positional_embedding_type="none",
        mixers=mixers,
        experts=_experts(hf),
    )


_MLP = (
    modules("model.layers.{i}", ln2="norm", up="mixer.up_proj", down="mixer.down_proj", router="mixer.gate")
    | modules("model.layers.{i}", shared_up="mixer.shared_experts.up_proj")
    | modules("model.layers.{i}", shared_down="mixer.shared_experts.down_proj")
    | {
        "blocks.{i}.mlp.choice_bias": "model.layers.{i}.mixer.gate.e_score_correction_bias",
        "blocks.{i}.mlp.experts.W_in": "model.layers.{i}.mixer.experts.up_proj | e n d -> e d n",
        "blocks.{i}.mlp.experts.W_out": "model.layers.{i}.mixer.experts.down_proj | e d n -> e n d",
        "blocks.{i}.attn.b_O": None,
        **NO_EXPERT_BIASES,
    }
)
_NO_MLP = {"blocks.{i}.mlp.b_out": None}

NEMOTRON_H = Family(
    model_type="nemotron_h",
    name="Nemotron-H, Nemotron 3",
    config=_config,
    weights=modules(embed="model.embeddings", ln_final="model.norm_f", unembed="lm_head")
    | on_layers("none", _MLP)
    | on_layers(
        "attention",
        modules("model.layers.{i}", ln1="norm", q="mixer.q_proj", k="mixer.k_proj", v="mixer.v_proj", o="mixer.o_proj")
        | _NO_MLP,
    )
    | on_layers("mamba2", modules("model.layers.{i}", ln1="norm") | _NO_MLP)
    | state_space_weights("model.layers.{mamba2}.mixer"),
    ignored_weights=(r"mtp\..*",),  # a head that predicts further tokens, which transformers has not either
    ignored_config=(
        *NO_NUMBER,
        *TRAINING_ONLY,
        *("attention_bias", "mlp_bias", "mamba_proj_bias", "use_bias", "use_conv_bias"),  # show in the tensors
        *("use_mamba_kernels", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap"),  # how it is computed
        *("num_nextn_predict_layers", "mtp_layers_block_type"),  # of that head
        *("expand", "residual_in_fp32", "num_logits_to_keep", "n_shared_experts"),
        *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
        *("routed_scaling_factor", "n_group", "topk_group", "norm_topk_prob"),  # of models that have experts
    ),
    requires={"mamba_hidden_act": "silu", "moe_latent_size": None, "sliding_window": None},
)
