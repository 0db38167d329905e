"""GPT-J (Wang and Komatsuzaki 2021) and CodeGen (Nijkamp et al. 2022): parallel blocks with one norm, rotary positions
of adjacent pairs on a part of each head. CodeGen stores its heads as they were spread over four cores.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import SUMMARY, basics, modules
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return basics(hf, act_fn=hf.activation_function, eps=hf.layer_norm_epsilon) | dict(
        d_mlp=hf.n_inner,
        n_ctx=hf.n_positions,
        positional_embedding_type="rotary",
        rotary_dim=hf.rotary_dim,
        rotary_adjacent_pairs=True,
        parallel_attn_mlp=True,
        parallel_shared_norm=True,
    )


_LAYER = "transformer.h.{i}"

_AROUND_ATTENTION = modules(
    _LAYER,
    embed="transformer.wte",
    ln1="ln_1",
    o="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    ln_final="transformer.ln_f",
    unembed="lm_head",
)

GPTJ = Family(
    model_type="gptj",
    name="GPT-J",
    config=_config,
    weights=_AROUND_ATTENTION | modules(_LAYER, q="attn.q_proj", k="attn.k_proj", v="attn.v_proj"),
    ignored_weights=(r".*\.attn\.((masked_)?bias|causal_mask)",),  # causal masks in old files
    ignored_config=(
        "n_ctx",  # an old second name of n_positions
        "rotary",  # in published files, but never read: both rotate, and both scale their scores
        "scale_attn_weights",
        *SUMMARY,
    ),
)

CODEGEN = replace(
    GPTJ,
    model_type="codegen",
    name="CodeGen",
    weights=_AROUND_ATTENTION
    | {
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_V, blocks.{i}.attn.W_K": (
            f"{_LAYER}.attn.qkv_proj.weight | (cores4 qvk3 heads k) d -> qvk3 (cores4 heads) d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": None,
    },
)
