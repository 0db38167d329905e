"""Persimmon (Adept 2023): GPT-NeoX's fused weights in serial blocks, normalized queries and keys, squared ReLU."""

from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import OLDER_ROPE, QK_LN, basics, modules, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return basics(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps) | dict(
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        **(QK_LN if hf.qk_layernorm else {}),
        **rotary(hf, hf.hidden_size // hf.num_attention_heads),
    )


PERSIMMON = Family(
    model_type="persimmon",
    name="Persimmon",
    config=_config,
    weights=modules(
        embed="model.embed_tokens",
        ln1="input_layernorm",
        qkv_by_group="self_attn.query_key_value",
        q_norm="self_attn.q_layernorm",
        k_norm="self_attn.k_layernorm",
        o="self_attn.dense",
        ln2="post_attention_layernorm",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        ln_final="model.final_layernorm",
        unembed="lm_head",
    ),
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=(
        "num_key_value_heads",  # as many as query heads: the tensors leave no other choice
        *OLDER_ROPE,
    ),
)
