"""Kimi Linear (Moonshot AI 2025): delta layers with a decay for each dimension, and DeepSeek-V3's latent attention and
experts, without positions.
"""

from typing import Any

from interp_hooks.loading.families.deepseek import EXPERTS, LATENT_ATTENTION, with_sigmoids
from interp_hooks.loading.families.gated_delta import KINDS
from interp_hooks.loading.families.llama import ATTENTION, ENDS, MLP, NORMS
from interp_hooks.loading.families.moe import TRAINING_ONLY, experts_of, where_sparse
from interp_hooks.loading.families.shared import OLDER_ROPE, basics
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

OURS = "blocks.{kimi_delta}.attn"
THEIRS = "model.layers.{kimi_delta}.self_attn"


def _config(hf: Any) -> dict[str, Any]:
    kinds = [KINDS[kind].replace("gated", "kimi") for kind in hf.layer_types]
    mixers = MixersConfig(
        layers=tuple(kinds),  # pyright: ignore[reportArgumentType]
        n_heads=hf.linear_num_heads,
        d_key=hf.linear_head_dim,
        d_value=hf.linear_head_dim,
        gate_rank=hf.linear_head_dim,
        taps=hf.linear_conv_kernel_dim,
        eps=hf.rms_norm_eps,
    )
    how: dict[str, Any] = dict(weight_scale=hf.routed_scaling_factor, precise_router=True)
    how |= dict(d_shared=hf.n_shared_experts * hf.moe_intermediate_size)
    experts = experts_of(hf, hf.num_local_experts, hf.moe_intermediate_size, where_sparse(hf), **how)
    return basics(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        d_head=hf.qk_nope_head_dim + hf.qk_rope_head_dim,
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        normalization_type="RMS",
        gated_mlp=True,
        positional_embedding_type="rotary",  # of which every layer has none, though keys share a part
        rotary_dim=hf.qk_rope_head_dim,
        rotary_layers=(None,) * hf.num_hidden_layers,
        d_value=hf.v_head_dim,
        kv_latent=hf.kv_lora_rank,
        q_latent=hf.q_lora_rank or 0,
        mixers=mixers,
        experts=with_sigmoids(hf, experts),
    )


_DELTA: Table = {
    **{f"{OURS}.W_{part}": f"{THEIRS}.{part.lower()}_proj.weight | (H K) d -> H d K" for part in ("Q", "K")},
    f"{OURS}.W_V": f"{THEIRS}.v_proj.weight | (H W) d -> H d W",
    f"{OURS}.convolution.W": f"{THEIRS}.conv1d.weight | C 1 taps -> C taps",
    f"{OURS}.W_decay_down": f"{THEIRS}.forget_gate.f_a_proj.weight | B d -> d B",
    f"{OURS}.W_decay": f"{THEIRS}.forget_gate.f_b_proj.weight | (H K) B -> H B K",
    f"{OURS}.b_decay": f"{THEIRS}.forget_gate.dt_bias | (H K) -> H K",
    f"{OURS}.A_log": f"{THEIRS}.forget_gate.A_log | 1 1 H 1 -> H",
    f"{OURS}.W_beta": f"{THEIRS}.b_proj.weight | H d -> d H",
    f"{OURS}.W_G_down": f"{THEIRS}.g_a_proj.weight | B d -> d B",
    f"{OURS}.W_G": f"{THEIRS}.g_b_proj.weight | (H W) B -> H B W",
    f"{OURS}.norm.w": f"{THEIRS}.o_norm.weight",
    f"{OURS}.W_O": f"{THEIRS}.o_proj.weight | d (H W) -> H W d",
    **{f"{OURS}.b_{part}": None for part in ("Q", "K", "V", "beta", "G_down", "decay_down", "O")},
    f"{OURS}.convolution.b": None,
}

KIMI_LINEAR = Family(
    model_type="kimi_linear",
    name="Kimi Linear",
    config=_config,
    weights=ENDS | NORMS | MLP | EXPERTS | on_layers("attention", ATTENTION | LATENT_ATTENTION) | _DELTA,
    ignored_config=(
        *OLDER_ROPE,
        *TRAINING_ONLY,
        *("head_dim", "qk_head_dim"),  # follow from the widths of the plain and the shared part
        "num_key_value_heads",  # latent attention has as many as heads
        "attention_bias",  # shows in the tensors
        "pretraining_tp",
    ),
    requires={"hidden_act": "silu"},
)
