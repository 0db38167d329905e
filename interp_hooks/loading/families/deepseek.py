"""DeepSeek-V2 and V3 (DeepSeek-AI 2024): latent attention, first layers dense, then shared and routed experts.

V3's router (DeepSeek-R1, Kimi K2 and Moonlight share it) scores with sigmoids and chooses with a learned bias per
expert, V2's with a softmax. Both choose within groups of experts.
"""

import math
from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import but_the_first, expert_weights, experts_of
from interp_hooks.loading.families.shared import LAYER, modules, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig


def latent_attention(hf: Any) -> dict[str, Any]:
    """The fields of a model with Llama's blocks and latent attention."""
    d_head = hf.qk_nope_head_dim + hf.qk_rope_head_dim
    return LLAMA.config(hf) | dict(
        d_head=d_head,
        d_value=hf.v_head_dim,
        kv_latent=hf.kv_lora_rank,
        q_latent=hf.q_lora_rank or 0,
        attn_scale=d_head**0.5 / _yarn_magnitude(hf.rope_parameters) ** 2,
        **rotary(hf, hf.qk_rope_head_dim),
    )


def _yarn_magnitude(rope: dict[str, Any]) -> float:
    """By what YaRN multiplies queries and keys, so that softmaxes over long contexts stay sharp."""
    if rope["rope_type"] == "default" or not rope.get("mscale_all_dim") or rope["factor"] <= 1:
        return 1.0
    return 1.0 + 0.1 * rope["mscale_all_dim"] * math.log(rope["factor"])


def _v2_experts(hf: Any, layers: tuple[bool, ...] | None = None) -> ExpertsConfig:
    layers = but_the_first(hf, hf.first_k_dense_replace) if layers is None else layers
    how: dict[str, Any] = dict(weight_scale=hf.routed_scaling_factor, normalize_weights=False, precise_router=True)
    d_shared = hf.n_shared_experts * hf.moe_intermediate_size
    return experts_of(hf, hf.n_routed_experts, hf.moe_intermediate_size, layers, d_shared=d_shared, **how)


# How DeepSeek-V3's router scores and chooses, and those of other families too.
V3_ROUTER: dict[str, Any] = dict(
    scores="sigmoid", biased_choice=True, min_weight_sum=1e-20, group_score="top2", precise_router=True
)


def v3_experts(hf: Any, layers: tuple[bool, ...] | None = None) -> ExpertsConfig:
    """The experts of DeepSeek-V3, in all layers but the first few or in the given ones."""
    return with_sigmoids(hf, _v2_experts(hf, layers))


def with_sigmoids(hf: Any, experts: ExpertsConfig) -> ExpertsConfig:
    """The same experts, chosen as in DeepSeek-V3."""
    return replace(
        experts,
        **V3_ROUTER | dict(precise_router=experts.precise_router),
        normalize_weights=hf.norm_topk_prob,
        n_groups=hf.n_group,
        groups_kept=hf.topk_group,
    )


def _v2_config(hf: Any) -> dict[str, Any]:
    experts = _v2_experts(hf)
    if hf.topk_method == "group_limited_greedy":
        experts = replace(experts, n_groups=hf.n_group, groups_kept=hf.topk_group)
    return latent_attention(hf) | dict(rotary_adjacent_pairs=True, experts=experts)


def _v3_config(hf: Any) -> dict[str, Any]:
    return latent_attention(hf) | dict(rotary_adjacent_pairs=hf.rope_interleave, experts=v3_experts(hf))


LATENT_ATTENTION: Table = {
    "blocks.{i}.attn.W_DQ": f"{LAYER}.self_attn.q_a_proj.weight | c d -> d c",
    "blocks.{i}.attn.b_DQ": f"{LAYER}.self_attn.q_a_proj.bias?",
    "blocks.{i}.attn.q_latent_norm.w": f"{LAYER}.self_attn.q_a_layernorm.weight",
    "blocks.{i}.attn.W_UQ": f"{LAYER}.self_attn.q_b_proj.weight | (h k) c -> h c k",
    "blocks.{i}.attn.W_DKV, blocks.{i}.attn.W_KR": (
        f"{LAYER}.self_attn.kv_a_proj_with_mqa.weight | | l r | x d -> d x"
    ),
    "blocks.{i}.attn.b_DKV, blocks.{i}.attn.b_KR": f"{LAYER}.self_attn.kv_a_proj_with_mqa.bias? | | l r",
    "blocks.{i}.attn.kv_latent_norm.w": f"{LAYER}.self_attn.kv_a_layernorm.weight",
    "blocks.{i}.attn.W_UK, blocks.{i}.attn.W_UV": (
        f"{LAYER}.self_attn.kv_b_proj.weight | (h x) l -> x h l | p w | x h l -> h l x"
    ),
    "blocks.{i}.attn.W_O": f"{LAYER}.self_attn.o_proj.weight | d (h w) -> h w d",
}

EXPERTS = (
    expert_weights()
    | modules(
        shared_gate="mlp.shared_experts.gate_proj",
        shared_up="mlp.shared_experts.up_proj",
        shared_down="mlp.shared_experts.down_proj",
    )
    | {"blocks.{i}.mlp.choice_bias": f"{LAYER}.mlp.gate.e_score_correction_bias"}
)

DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    name="DeepSeek-V2",
    config=_v2_config,
    weights=LLAMA.weights | LATENT_ATTENTION | EXPERTS,
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=(
        *LLAMA.ignored_config,
        "head_dim",  # these two follow from the widths of the plain and the rotary part
        "qk_head_dim",
        "n_group",  # these two matter only where experts are chosen within groups
        "topk_group",
        "output_router_logits",  # what is returned besides the logits
        "aux_loss_alpha",  # training
        "seq_aux",
        "ep_size",
    ),
    requires={"norm_topk_prob": False, "scoring_func": "softmax", "moe_layer_freq": 1},
)

DEEPSEEK_V3 = replace(
    DEEPSEEK_V2,
    model_type="deepseek_v3",
    name="DeepSeek-V3",
    config=_v3_config,
    ignored_weights=(
        *LLAMA.ignored_weights,
        r"model\.layers\.61\..*",  # the module that predicts the token after the next, in the published checkpoint
    ),
    ignored_config=(
        *DEEPSEEK_V2.ignored_config,
        "num_nextn_predict_layers",  # two names for extra layers that predict tokens after the next
        "num_mtp_layers",
    ),
    requires={"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
)
