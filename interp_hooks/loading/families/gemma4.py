"""Gemma 4 (Google DeepMind 2026).

As in Gemma 3, norms stand around what is written, queries and keys are normalized, and most layers have a window; here
values are normalized too, heads without a window are wider, turn only a share of their dimensions and may have keys for
values, and each layer ends by multiplying the stream. In the small models each layer has embeddings of its own, and the
last layers attend to keys and values of earlier ones; in one model experts stand beside the MLP, each side with norms
of its own. The models that read everything with one network (12B) differ in what they have not.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.gemma import GEMMA2
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES
from interp_hooks.loading.families.shared import LAYER, QK_RMS, basics, modules, rotary, windows
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig

_SIZES = ("head_dim", "num_key_value_heads")  # what a layer may have otherwise than the config says for all


def borrowed(hf: Any) -> tuple[int | None, ...]:
    """For each layer the one whose keys and values it attends to: for the last ones, the last before of their kind."""
    first_borrower = hf.num_hidden_layers - hf.num_kv_shared_layers
    own = list(hf.layer_types[:first_borrower])
    last_of = {kind: len(own) - 1 - own[::-1].index(kind) for kind in {*own}}
    return tuple(last_of[kind] if layer >= first_borrower else None for layer, kind in enumerate(hf.layer_types))


def common(hf: Any) -> dict[str, Any]:
    """The fields that Gemma 3n has too: norms, scales, windows, and which layers borrow keys and values."""
    return QK_RMS | dict(
        normalization_type="RMS",
        norm_placement="pre_and_output",
        gated_mlp=True,
        embed_scale=hf.hidden_size**0.5,
        attn_scale=1.0,
        v_norm_type="RMSPre",
        window_sizes=windows(hf),
        keys_values_from=borrowed(hf),
        output_logits_soft_cap=hf.final_logit_softcapping or 0.0,
    )


def _config(hf: Any) -> dict[str, Any]:
    if hf.use_bidirectional_attention not in (None, "vision"):  # between parts of an image, which text has not
        raise UnsupportedConfig(f"use_bidirectional_attention={hf.use_bidirectional_attention!r} is not implemented")
    if other := {name for layer in hf.to_dict()["per_layer_config"].values() for name in layer} - {*_SIZES}:
        raise UnsupportedConfig(f"per_layer_config sets {', '.join(sorted(other))}, which is not implemented")
    width = getattr(hf, "hidden_size_per_layer_input", 0)
    if width and hf.vocab_size_per_layer_input != hf.vocab_size:
        raise UnsupportedConfig("vocab_size_per_layer_input is another than vocab_size, which is not implemented")
    wide = [hf.use_double_wide_mlp and source is not None for source in borrowed(hf)]
    layers = [hf.per_layer_config[layer] for layer in range(hf.num_hidden_layers)]
    return (
        basics(hf, act_fn=hf.hidden_activation, eps=hf.rms_norm_eps)
        | common(hf)
        | rotary(hf, layers[0].head_dim)
        | dict(
            d_mlp=hf.intermediate_size,
            n_ctx=hf.max_position_embeddings,
            d_head=layers[0].head_dim,
            n_key_value_heads=layers[0].num_key_value_heads,
            d_head_layers=tuple(layer.head_dim for layer in layers),
            n_key_value_heads_layers=tuple(layer.num_key_value_heads for layer in layers),
            d_mlp_layers=tuple(hf.intermediate_size * (2 if here else 1) for here in wide),
            d_layer_embed=width,
            experts=_experts(hf) if getattr(hf, "enable_moe_block", False) else None,
            values_from_keys=tuple(hf.attention_k_eq_v and kind == "full_attention" for kind in hf.layer_types),
        )
    )


def _experts(hf: Any) -> ExpertsConfig:
    if hf.use_double_wide_mlp and hf.num_kv_shared_layers:
        raise UnsupportedConfig("use_double_wide_mlp beside experts is not implemented")
    return ExpertsConfig(
        n_experts=hf.num_experts,
        experts_per_token=hf.top_k_experts,
        d_expert=hf.moe_intermediate_size,
        layers=(True,) * hf.num_hidden_layers,
        d_shared=hf.intermediate_size,
        own_norms=True,
        router_scale=hf.hidden_size**-0.5,
        expert_scales=True,
    )


_EXPERTS: Table = modules(
    router="router.proj",
    shared_gate="mlp.gate_proj",
    shared_up="mlp.up_proj",
    shared_down="mlp.down_proj",
) | {
    "blocks.{i}.mlp.ln_router.w": f"{LAYER}.router.scale",
    "blocks.{i}.mlp.expert_scale": f"{LAYER}.router.per_expert_scale",
    "blocks.{i}.mlp.ln_shared.w": f"{LAYER}.pre_feedforward_layernorm.weight",
    "blocks.{i}.mlp.ln_shared_post.w": f"{LAYER}.post_feedforward_layernorm_1.weight",
    "blocks.{i}.mlp.ln_experts.w": f"{LAYER}.pre_feedforward_layernorm_2.weight",
    "blocks.{i}.mlp.ln_experts_post.w": f"{LAYER}.post_feedforward_layernorm_2.weight",
    "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
        f"{LAYER}.experts.gate_up_proj | e (two n) d -> two e d n"
    ),
    "blocks.{i}.mlp.experts.W_out": f"{LAYER}.experts.down_proj | e d n -> e n d",
    **NO_EXPERT_BIASES,
}

GEMMA4 = replace(
    LLAMA,
    model_type="gemma4_text",
    name="Gemma 4",
    config=_config,
    weights=GEMMA2.weights
    | {
        "layer_embed.W_T": "model.embed_tokens_per_layer.weight | row (i a) -> row i a",
        "layer_embed.W_S": "model.per_layer_model_projection.weight | (i a) d -> d i a",
        "layer_embed.ln.w": "model.per_layer_projection_norm.weight",
        "blocks.{i}.ple.W_gate": f"{LAYER}.per_layer_input_gate.weight | a d -> d a",
        "blocks.{i}.ple.W_out": f"{LAYER}.per_layer_projection.weight | d a -> a d",
        "blocks.{i}.ple.ln_post.w": f"{LAYER}.post_per_layer_input_norm.weight",
    }
    | _EXPERTS,
    ignored_config=(
        *_SIZES,  # per_layer_config says what comes of these
        "attention_bias",  # shows in the tensors
        "vocab_size_per_layer_input",  # read only where layers have embeddings of their own
        *("num_experts", "top_k_experts", "moe_intermediate_size"),  # read only with enable_moe_block
    ),
    stream_scales=f"{LAYER}.layer_scalar",
)

GEMMA4_UNIFIED = replace(
    GEMMA4,
    model_type="gemma4_unified_text",
    name="Gemma 4 (12B)",
    weights=GEMMA2.weights,
    ignored_config=(*_SIZES, "attention_bias"),  # per_layer_config, or the tensors, say what comes of these
)
