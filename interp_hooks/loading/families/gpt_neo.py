"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled attention scores, every other layer looking through a window."""

from typing import Any

from interp_hooks.loading.families.shared import activation
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    window = hf.window_size
    return dict(
        n_layers=hf.num_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_heads,
        d_mlp=hf.intermediate_size or 4 * hf.hidden_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.activation_function),
        eps=hf.layer_norm_epsilon,
        attn_scale=1.0,
        window_sizes=tuple(window if kind == "local" else None for kind in hf.attention_layers),
    )


_LAYER = "transformer.h.{i}"
_ATTENTION = f"{_LAYER}.attn.attention"

GPT_NEO = Family(
    model_type="gpt_neo",
    name="GPT-Neo",
    config=_config,
    weights={
        "embed.W_E": "transformer.wte.weight",
        "pos_embed.W_pos": "transformer.wpe.weight",
        "blocks.{i}.ln1.w": f"{_LAYER}.ln_1.weight",
        "blocks.{i}.ln1.b": f"{_LAYER}.ln_1.bias",
        "blocks.{i}.attn.W_Q": f"{_ATTENTION}.q_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_K": f"{_ATTENTION}.k_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_V": f"{_ATTENTION}.v_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_O": f"{_ATTENTION}.out_proj.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_Q, blocks.{i}.attn.b_K, blocks.{i}.attn.b_V": None,
        "blocks.{i}.attn.b_O": f"{_ATTENTION}.out_proj.bias",
        "blocks.{i}.ln2.w": f"{_LAYER}.ln_2.weight",
        "blocks.{i}.ln2.b": f"{_LAYER}.ln_2.bias",
        "blocks.{i}.mlp.W_in": f"{_LAYER}.mlp.c_fc.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{_LAYER}.mlp.c_fc.bias",
        "blocks.{i}.mlp.W_out": f"{_LAYER}.mlp.c_proj.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{_LAYER}.mlp.c_proj.bias",
        "ln_final.w": "transformer.ln_f.weight",
        "ln_final.b": "transformer.ln_f.bias",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": None,
    },
    ignored_weights=(r".*\.attention\.(masked_)?bias",),  # causal masks in old files
    ignored_config=(
        "attention_types",  # the short form of attention_layers
        *(f"summary_{what}" for what in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")),
    ),
)
