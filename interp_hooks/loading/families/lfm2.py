"""LFM2 (Liquid AI 2025): gated short convolutions in most layers, attention of Qwen 3's kind in some; also as a mixture
of experts, whose router chooses with a bias.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, but_the_first, experts_of
from interp_hooks.loading.families.shared import OLDER_ROPE, QK_RMS, basics, head_width, modules, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

CONVOLUTION = "model.layers.{gated_convolution}.conv"
OURS = "blocks.{gated_convolution}.attn"
FEED_FORWARD = "model.layers.{i}.feed_forward"


def _d_mlp(hf: Any) -> int:
    """The width of the MLPs, which is made of `intermediate_size` as older programs did."""
    width = hf.intermediate_size
    adjusts, factor, multiple = hf.block_auto_adjust_ff_dim, hf.block_ffn_dim_multiplier, hf.block_multiple_of
    if not adjusts:
        return width
    width = int(2 * width / 3)
    return width if factor is None else -(-int(factor * width) // multiple) * multiple


def _config(hf: Any) -> dict[str, Any]:
    return (
        basics(hf, act_fn="silu", eps=hf.norm_eps)
        | QK_RMS
        | rotary(hf, head_width(hf))
        | dict(
            n_key_value_heads=hf.num_key_value_heads,
            d_head=head_width(hf),
            rotary_dim=head_width(hf),
            n_ctx=hf.max_position_embeddings,
            normalization_type="RMS",
            gated_mlp=True,
            mixers=MixersConfig(
                layers=tuple("gated_convolution" if kind == "conv" else "attention" for kind in hf.layer_types),
                taps=hf.conv_L_cache,
            ),
        )
    )


_WEIGHTS: Table = (
    modules(embed="model.embed_tokens", ln_final="model.embedding_norm", unembed="lm_head")
    | modules(ln1="operator_norm", ln2="ffn_norm")
    | on_layers(
        "attention",
        modules(
            q="self_attn.q_proj",
            k="self_attn.k_proj",
            v="self_attn.v_proj",
            o="self_attn.out_proj",
            q_norm="self_attn.q_layernorm",
            k_norm="self_attn.k_layernorm",
        ),
    )
    | {
        f"{OURS}.W_B, {OURS}.W_C, {OURS}.W_V": f"{CONVOLUTION}.in_proj.weight | (part3 x) d -> part3 d x",
        f"{OURS}.b_B, {OURS}.b_C, {OURS}.b_V": f"{CONVOLUTION}.in_proj.bias? | (part3 x) -> part3 x",
        f"{OURS}.convolution.W": f"{CONVOLUTION}.conv.weight | x 1 taps -> x taps",
        f"{OURS}.convolution.b": f"{CONVOLUTION}.conv.bias?",
        f"{OURS}.W_O": f"{CONVOLUTION}.out_proj.weight | d x -> 1 x d",
        f"{OURS}.b_O": f"{CONVOLUTION}.out_proj.bias?",
    }
    | modules(gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2")
)

LFM2 = Family(
    model_type="lfm2",
    name="LFM2",
    config=lambda hf: _config(hf) | dict(d_mlp=_d_mlp(hf)),
    weights=_WEIGHTS,
    ignored_config=(
        *OLDER_ROPE,
        "conv_bias",  # shows in the tensors
        "full_attn_idxs",  # layer_types say what comes of it
    ),
)


def _moe_config(hf: Any) -> dict[str, Any]:
    how: dict[str, Any] = dict(scores="sigmoid", biased_choice=hf.use_expert_bias, weight_sum_offset=1e-6)
    how |= dict(normalize_weights=hf.norm_topk_prob, weight_scale=hf.routed_scaling_factor)
    sparse = but_the_first(hf, hf.num_dense_layers)
    experts = experts_of(hf, hf.num_experts, hf.moe_intermediate_size, sparse, **how)
    return _config(hf) | dict(d_mlp=hf.intermediate_size, experts=experts)


LFM2_MOE = replace(
    LFM2,
    model_type="lfm2_moe",
    name="LFM2-MoE",
    config=_moe_config,
    weights=_WEIGHTS
    | {
        "blocks.{i}.mlp.W_router": f"{FEED_FORWARD}.gate.weight | e d -> d e",
        "blocks.{i}.mlp.b_router": None,
        "blocks.{i}.mlp.choice_bias": f"{FEED_FORWARD}.expert_bias",
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{FEED_FORWARD}.experts.gate_up_proj | e (two n) d -> two e d n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{FEED_FORWARD}.experts.down_proj | e d n -> e n d",
        **NO_EXPERT_BIASES,
    },
    ignored_config=(*LFM2.ignored_config, *TRAINING_ONLY),
)
