"""Models that mix tokens by gated delta nets (Yang et al. 2024) in most layers, and by attention in some.

Qwen3-Next and Qwen3.5 (Qwen team 2025, 2026): Qwen 3 with gates on what attention heads write, and partial rotation.
OLMo Hybrid (Ai2 2026): layers of OLMo 3 between others that are normalized as Llama's, perhaps without rotation.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, MLP, NORMS
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, experts_of
from interp_hooks.loading.families.olmo import OLMO2, OUTPUT_NORMS, QK_NORM_ALL_HEADS
from interp_hooks.loading.families.qwen_moe import SHARED_EXPERT, experts_of_qwen
from interp_hooks.loading.families.shared import OLDER_ROPE, QK_RMS, basics, llama_like, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

KINDS = {"linear_attention": "gated_delta", "full_attention": "attention"}
DELTA = "model.layers.{gated_delta}.linear_attn"
OURS = "blocks.{gated_delta}.attn"

GATED_ATTENTION: Table = on_layers(
    "attention",
    {line: theirs for line, theirs in ATTENTION.items() if not line.endswith("_Q")}
    | {
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_G": "model.layers.{i}.self_attn.q_proj.weight"
        " | (h two k) d -> two h d k",
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_G": "model.layers.{i}.self_attn.q_proj.bias? | (h two k) -> two h k",
    },
)


def delta_weights(norm: str, out: str) -> Table:
    """Lines for what all gated delta nets have, where they call the norm of what heads read, and what writes, so."""
    return {
        f"{OURS}.convolution.W": f"{DELTA}.conv1d.weight | C 1 taps -> C taps",
        f"{OURS}.convolution.b": None,
        f"{OURS}.A_log": f"{DELTA}.A_log",
        f"{OURS}.b_decay": f"{DELTA}.dt_bias",
        f"{OURS}.norm.w": f"{DELTA}.{norm}.weight",
        f"{OURS}.W_O": f"{DELTA}.{out}.weight | d (H W) -> H W d",
        **{f"{OURS}.b_{part}": None for part in ("Q", "K", "V", "G", "beta", "O")},
    }


def mixers_of(hf: Any, **more: Any) -> MixersConfig:
    """The layers' mixers and their sizes, from a config that names them as Qwen3-Next's does."""
    return MixersConfig(
        layers=tuple(KINDS[kind] for kind in hf.layer_types),  # pyright: ignore[reportArgumentType]
        n_heads=hf.linear_num_value_heads,
        n_key_heads=hf.linear_num_key_heads,
        d_key=hf.linear_key_head_dim,
        d_value=hf.linear_value_head_dim,
        taps=hf.linear_conv_kernel_dim,
        **more,
    )


def separate_weights(**named: str) -> Table:
    """Lines for matrices of queries (`q`), keys, values, gates (`g`), decay (`a`) and beta (`b`) that are called so."""
    shapes = {"Q": "(G K) d -> G d K", "K": "(G K) d -> G d K", "V": "(H W) d -> H d W", "G": "(H W) d -> H d W"}
    of = {"q": "Q", "k": "K", "v": "V", "g": "G", "a": "decay", "b": "beta"}
    return {
        f"{OURS}.W_{of[what]}": f"{DELTA}.{name}.weight | {shapes.get(of[what], 'H d -> d H')}"
        for what, name in named.items()
    }


def _config(hf: Any) -> dict[str, Any]:
    return (
        llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps)
        | QK_RMS
        | dict(
            normalization_type="RMS",
            norm_gain_offset=1.0,
            gated_mlp=True,
            gated_attn=True,
            mixers=mixers_of(hf, eps=hf.rms_norm_eps),
            default_prepend_bos=False,
        )
    )


def _qwen3_next_config(hf: Any) -> dict[str, Any]:
    experts = replace(experts_of_qwen(hf), d_shared=hf.shared_expert_intermediate_size, shared_gate=True)
    return _config(hf) | dict(experts=experts)


_IGNORED = (
    *OLDER_ROPE,
    "attention_bias",  # shows in the tensors
    "full_attention_interval",  # layer_types say what comes of it
)

QWEN3_NEXT = Family(
    model_type="qwen3_next",
    name="Qwen3-Next",
    config=_qwen3_next_config,
    weights=ENDS
    | NORMS
    | GATED_ATTENTION
    | MLP
    | expert_weights()
    | SHARED_EXPERT
    | delta_weights(norm="norm", out="out_proj")
    | {
        f"{OURS}.W_Q, {OURS}.W_K, {OURS}.W_V, {OURS}.W_G": f"{DELTA}.in_proj_qkvz.weight"
        " | (G x) d -> x G d | K K Q*W Q*W"
        " | K G d -> G d K; K G d -> G d K; (Q W) G d -> (G Q) d W; (Q W) G d -> (G Q) d W",
        f"{OURS}.W_beta, {OURS}.W_decay": f"{DELTA}.in_proj_ba.weight | (G two Q) d -> two d (G Q)",
    },
    ignored_weights=(r"mtp\..*",),  # a head that predicts further tokens, which transformers has not either
    ignored_config=(*_IGNORED, *TRAINING_ONLY),
    requires={"hidden_act": "silu"},
)

QWEN3_5 = replace(
    QWEN3_NEXT,
    model_type="qwen3_5_text",
    name="Qwen3.5",
    config=_config,
    weights=ENDS
    | NORMS
    | GATED_ATTENTION
    | MLP
    | delta_weights(norm="norm", out="out_proj")
    | {
        f"{OURS}.W_Q, {OURS}.W_K, {OURS}.W_V": f"{DELTA}.in_proj_qkv.weight | C d -> C d | G*K G*K H*W"
        " | (G K) d -> G d K; (G K) d -> G d K; (H W) d -> H d W",
    }
    | separate_weights(g="in_proj_z", a="in_proj_a", b="in_proj_b"),
    ignored_config=_IGNORED,
)


def _qwen3_5_moe_config(hf: Any) -> dict[str, Any]:
    shared = dict(d_shared=hf.shared_expert_intermediate_size, shared_gate=True)
    experts = experts_of(hf, hf.num_experts, hf.moe_intermediate_size, **shared)
    return _config(hf) | dict(experts=experts)


QWEN3_5_MOE = replace(
    QWEN3_5,
    model_type="qwen3_5_moe_text",
    name="Qwen3.5-MoE",
    config=_qwen3_5_moe_config,
    weights=QWEN3_5.weights | expert_weights() | SHARED_EXPERT,
    ignored_config=(*_IGNORED, *TRAINING_ONLY),
)


def _olmo_config(hf: Any) -> dict[str, Any]:
    d_head = hf.hidden_size // hf.num_attention_heads
    rotates = hf.rope_parameters is not None and hf.rope_parameters.get("rope_theta") is not None
    beta_scale = 2.0 if hf.linear_allow_neg_eigval else 1.0
    return basics(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        n_key_value_heads=hf.num_key_value_heads,
        d_head=d_head,
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        normalization_type="RMS",
        norm_placement="output",
        qk_norm="all_heads",
        qk_norm_type="RMS",
        gated_mlp=True,
        mixers=mixers_of(hf, eps=1e-5, beta_scale=beta_scale, norm_placement="pre"),
        **(rotary(hf, d_head) if rotates else dict(positional_embedding_type="none")),
    )


OLMO_HYBRID = replace(
    OLMO2,
    model_type="olmo_hybrid",
    name="OLMo Hybrid",
    config=_olmo_config,
    weights=on_layers("attention", ATTENTION | QK_NORM_ALL_HEADS | OUTPUT_NORMS)
    | ENDS
    | MLP
    | on_layers("gated_delta", NORMS)
    | delta_weights(norm="o_norm", out="o_proj")
    | separate_weights(q="q_proj", k="k_proj", v="v_proj", g="g_proj", a="a_proj", b="b_proj"),
    ignored_config=(
        *_IGNORED,
        *("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor"),
    ),
    requires={"hidden_act": "silu"},
)
