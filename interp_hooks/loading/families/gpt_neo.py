"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled attention scores, every other layer looking through a window."""

from typing import Any

from interp_hooks.loading.families.gpt2 import AROUND_ATTENTION, LAYER
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
    weights=AROUND_ATTENTION | modules(f"{LAYER}.attn.attention", q="q_proj", k="k_proj", v="v_proj", o="out_proj"),
    ignored_weights=(r".*\.attention\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "attention_types",  # the short form of attention_layers
        *SUMMARY,
    ),
)
