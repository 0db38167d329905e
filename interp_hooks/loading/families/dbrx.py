"""DBRX (Databricks 2024): LayerNorms without bias, grouped heads with clipped queries, keys and values, experts."""

from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY
from interp_hooks.loading.families.shared import OLDER_ROPE, basics, modules, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.model.config import ExpertsConfig

_BLOCK = "transformer.blocks.{i}"
_EXPERTS = f"{_BLOCK}.ffn.experts.mlp"


def _config(hf: Any) -> dict[str, Any]:
    ffn, attention = hf.ffn_config, hf.attn_config
    if ffn.moe_normalize_expert_weights not in (None, 1):
        raise UnsupportedConfig(f"moe_normalize_expert_weights={ffn.moe_normalize_expert_weights} is not implemented")
    if (theta := hf.rope_parameters["rope_theta"]) != attention.rope_theta:
        raise UnsupportedConfig(
            f"transformers rotates by rope_parameters' rope_theta={theta}, where attn_config, as it was published, has "
            f"{attention.rope_theta}: set the former to it"
        )
    experts = ExpertsConfig(
        n_experts=ffn.moe_num_experts,
        experts_per_token=ffn.moe_top_k,
        d_expert=ffn.ffn_hidden_size,
        layers=(True,) * hf.num_hidden_layers,
        normalize_weights=ffn.moe_normalize_expert_weights is not None,
    )
    return (
        basics(hf, act_fn=(ffn.ffn_act_fn or {}).get("name", "silu"), eps=1e-5)
        | rotary(hf, hf.hidden_size // hf.num_attention_heads)
        | dict(
            n_key_value_heads=attention.kv_n_heads,
            n_ctx=hf.max_position_embeddings,
            rotary_dim=hf.hidden_size // hf.num_attention_heads,
            gated_mlp=True,
            qkv_clip=attention.clip_qkv or 0.0,
            experts=experts,
        )
    )


DBRX = Family(
    model_type="dbrx",
    name="DBRX",
    config=_config,
    weights=modules(embed="transformer.wte", ln_final="transformer.norm_f", unembed="lm_head")
    | modules(
        _BLOCK,
        ln1="norm_attn_norm.norm_1",
        ln2="norm_attn_norm.norm_2",
        qkv="norm_attn_norm.attn.Wqkv",
        o="norm_attn_norm.attn.out_proj",
        router="ffn.router.layer",
    )
    | {
        "blocks.{i}.mlp.experts.W_gate": f"{_EXPERTS}.w1 | (e n) d -> e d n",
        "blocks.{i}.mlp.experts.W_in": f"{_EXPERTS}.v1 | (e n) d -> e d n",
        "blocks.{i}.mlp.experts.W_out": f"{_EXPERTS}.w2 | (e n) d -> e n d",
        **NO_EXPERT_BIASES,
    },
    ignored_config=(
        *OLDER_ROPE,
        *TRAINING_ONLY,
        *("ffn_config.moe_jitter_eps", "ffn_config.moe_loss_weight"),  # training
        "ffn_config.hidden_size",  # the same as hidden_size
        "num_key_value_heads",  # which transformers takes from attn_config
    ),
)
