"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each sublayer, weights stored transposed."""

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
        attn_scale=(hf.n_embd // hf.n_head) ** 0.5 if hf.scale_attn_weights else 1.0,
        scale_attn_by_inverse_layer_idx=hf.scale_attn_by_inverse_layer_idx,
    )


_LAYER = "transformer.h.{i}"

GPT2 = Family(
    model_type="gpt2",
    name="GPT-2",
    config=_config,
    weights={
        "embed.W_E": "transformer.wte.weight",
        "pos_embed.W_pos": "transformer.wpe.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.ln_1.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.ln_1.bias",
        "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V": (
            f"{_LAYER}.attn.c_attn.weight | d (qkv h k) -> qkv h d k"
        ),
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": (
            f"{_LAYER}.attn.c_attn.bias | (qkv h k) -> qkv h k"
        ),
        "blocks.{i}.attn.W_O": f"{_LAYER}.attn.c_proj.weight | (h k) d -> h k d",
        "blocks.{i}.attn.b_O": f"{_LAYER}.attn.c_proj.bias",
        "blocks.{i}.ln2.w": f"{_LAYER}.ln_2.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.ln_2.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.c_fc.weight",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.c_fc.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.c_proj.weight",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.c_proj.bias",
        "ln_final.w": "transformer.ln_f.weight",
        "ln_final.b": "transformer.ln_f.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "n_ctx",  # an old second name of n_positions
        "reorder_and_upcast_attn",  # the same numbers, computed in another order and precision
        *(f"summary_{what}" for what in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")),
    ),
    requires={"add_cross_attention": False},
)
