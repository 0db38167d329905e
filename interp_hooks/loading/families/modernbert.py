"""ModernBERT (Warner et al. 2024), an encoder, and its decoder (Weller et al. 2025): rotary positions, windows in two
of three layers at a base of their own, a gated MLP, LayerNorms without bias, a small head before the unembedding.

Attention in layer 0 reads the embeddings, which are normalized already, without a norm of its own.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import basics, modules, rotary
from interp_hooks.loading.guard import Family


def _config(hf: Any, window: int) -> dict[str, Any]:
    if hf.classifier_activation != hf.hidden_activation:
        raise UnsupportedConfig(
            f"classifier_activation={hf.classifier_activation!r} other than hidden_activation is not implemented"
        )
    return basics(hf, act_fn=hf.hidden_activation, eps=hf.norm_eps) | dict(
        n_ctx=hf.max_position_embeddings,
        d_mlp=hf.intermediate_size,
        gated_mlp=True,
        embed_norm_type="LN",
        first_attn_norm=False,
        mlm_head=True,
        window_sizes=tuple(window if kind == "sliding_attention" else None for kind in hf.layer_types),
        **rotary(hf, hf.hidden_size // hf.num_attention_heads),
    )


def _encoder_config(hf: Any) -> dict[str, Any]:
    return _config(hf, window=hf.local_attention // 2 + 1) | dict(attention_dir="bidirectional")


_BOTH = modules(
    embed="model.embeddings.tok_embeddings",
    ln_embed="model.embeddings.norm",
    ln1="attn_norm",
    o="attn.Wo",
    ln2="mlp_norm",
    gate_up="mlp.Wi",
    down="mlp.Wo",
    ln_final="model.final_norm",
    unembed="decoder",
)

MODERNBERT = Family(
    model_type="modernbert",
    name="ModernBERT",
    head="MaskedLM",
    config=_encoder_config,
    weights=_BOTH | modules(qkv="attn.Wqkv", mlm_dense="head.dense", mlm_ln="head.norm"),
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=(
        *(f"{what}_bias" for what in ("norm", "attention", "mlp", "decoder", "classifier")),  # show in the tensors
        "initializer_cutoff_factor",
        "classifier_pooling",  # of a head that classifies
        "sparse_prediction",  # how the training saved time
        "sparse_pred_ignore_index",
        "deterministic_flash_attn",
        "reference_compile",
        "repad_logits_with_grad",
        "global_attn_every_n_layers",  # layer_types and rope_parameters say what comes of these
        "global_rope_theta",
        "local_rope_theta",
        "layer_norm_eps",  # published configs name norm_eps twice, and positions that are rotary in any case
        "position_embedding_type",
    ),
)

MODERNBERT_DECODER = replace(
    MODERNBERT,
    model_type="modernbert-decoder",
    name="ModernBERT decoder",
    head="CausalLM",
    config=lambda hf: _config(hf, window=hf.sliding_window),
    weights=_BOTH
    | modules(q="attn.q_proj", k="attn.k_proj", v="attn.v_proj", mlm_dense="lm_head.dense", mlm_ln="lm_head.norm"),
    ignored_config=(*MODERNBERT.ignored_config, "local_attention"),  # becomes sliding_window
)
