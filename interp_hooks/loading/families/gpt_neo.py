"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled attention scores, every other layer looking through a window."""

from typing import Any

from interp_hooks.loading.families.shared import SUMMARY, basics, modules
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    window = hf.window_size
    return basics(hf, act_fn=hf.activation_function, eps=hf.layer_norm_epsilon) | dict(
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        attn_scale=1.0,
        window_sizes=tuple(window if kind == "local" else None for kind in hf.attention_layers),
    )


GPT_NEO = Family(
    model_type="gpt_neo",
    name="GPT-Neo",
    config=_config,
    weights=modules(
        "transformer.h.{i}",
        embed="transformer.wte",
        pos_embed="transformer.wpe",
        ln1="ln_1",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        o="attn.attention.out_proj",
        ln2="ln_2",
        up="mlp.c_fc",
        down="mlp.c_proj",
        ln_final="transformer.ln_f",
        unembed="lm_head",
    ),
    ignored_weights=(r".*\.attention\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "attention_types",  # the short form of attention_layers
        *SUMMARY,
    ),
)
