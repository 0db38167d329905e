"""GPT-J (Wang and Komatsuzaki 2021) and CodeGen (Nijkamp et al. 2022): parallel blocks with one norm, rotary positions
of adjacent pairs on a part of each head. CodeGen stores its heads as they were spread over four cores.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.n_embd,
        n_heads=hf.n_head,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        d_vocab=hf.vocab_size,
        n_ctx=hf.n_positions,
        act_fn=activation(hf.activation_function),
        eps=hf.layer_norm_epsilon,
        positional_embedding_type="rotary",
        rotary_dim=hf.rotary_dim,
        rotary_adjacent_pairs=True,
        parallel_attn_mlp=True,
        parallel_shared_norm=True,
    )


_LAYER = "transformer.h.{i}"

_AROUND_QUERIES_AND_KEYS = {
    "embed.W_E": "transformer.wte.weight",
    "blocks.{i}.ln1.w": f"{_LAYER}.ln_1.weight",
    "blocks.{i}.ln1.b": f"{_LAYER}.ln_1.bias",
    "blocks.{i}.attn.W_O": f"{_LAYER}.attn.out_proj.weight | d (h k) -> h k d",
    "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V, blocks.{i}.attn.b_O": None,
    "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.fc_in.weight | m d -> d m",
    "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.fc_in.bias",
    "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.fc_out.weight | d m -> m d",
    "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.fc_out.bias",
    "ln_final.w": "transformer.ln_f.weight",
    "ln_final.b": "transformer.ln_f.bias",
    "unembed.W_U": "lm_head.weight | v d -> d v",
    "unembed.b_U": "lm_head.bias",
}

GPTJ = Family(
    model_type="gptj",
    name="GPT-J",
    config=_config,
    weights=_AROUND_QUERIES_AND_KEYS
    | {
        "blocks.{i}.attn.W_Q": f"{_LAYER}.attn.q_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_K": f"{_LAYER}.attn.k_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_V": f"{_LAYER}.attn.v_proj.weight | (h k) d -> h d k",
    },
    ignored_weights=(r".*\.attn\.((masked_)?bias|causal_mask)",),  # causal masks in old files
    ignored_config=(
        "n_ctx",  # an old second name of n_positions
        "rotary",  # in published files, but never read: both rotate, and both scale their scores
        "scale_attn_weights",
        *(f"summary_{what}" for what in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")),
    ),
)

CODEGEN = replace(
    GPTJ,
    model_type="codegen",
    name="CodeGen",
    weights=_AROUND_QUERIES_AND_KEYS
    | {
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_V, blocks.{i}.attn.W_K": (
            f"{_LAYER}.attn.qkv_proj.weight | (cores4 qvk3 heads k) d -> qvk3 (cores4 heads) d k"
        ),
    },
)
