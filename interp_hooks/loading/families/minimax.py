"""MiniMax-Text-01 (MiniMax 2025): lightning attention in most layers, Llama's in some, and a mixture of experts in all.

The stream is normalized after each addition, for which it is multiplied by a number before, as in DeepNorm (Wang et al.
2022, arxiv.org/abs/2203.00555). That is what a smaller factor of all that is written gives, with eps to match. Norms
are named after what reads them, so that one that follows a layer is called the next layer's.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import ATTENTION, LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, in_every_layer
from interp_hooks.loading.families.shared import head_width, modules, window_everywhere
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

KINDS = {"linear_attention": "lightning", "full_attention": "attention"}
OURS, THEIRS = "blocks.{lightning}.attn", "model.layers.{lightning}.self_attn"
SUBLAYERS = ("full_attn", "linear_attn", "mlp")


def _config(hf: Any) -> dict[str, Any]:
    factors = {(getattr(hf, f"{part}_alpha_factor"), getattr(hf, f"{part}_beta_factor")) for part in SUBLAYERS}
    if len(factors) > 1:
        raise UnsupportedConfig(
            f"a MiniMax checkpoint adds with factors (of the stream, of what is written) that differ between "
            f"{', '.join(SUBLAYERS)}: {sorted(factors)}. Only the same for all are implemented"
        )
    ((alpha, beta),) = factors
    width = head_width(hf)
    return LLAMA.config(hf) | dict(
        norm_placement="post",
        embed_norm_type="RMS",
        embed_norm_eps=hf.rms_norm_eps,
        eps=hf.rms_norm_eps / alpha**2,
        residual_scale=beta / alpha,
        window_sizes=window_everywhere(hf),
        mixers=MixersConfig(
            layers=tuple(KINDS[kind] for kind in hf.layer_types),  # pyright: ignore[reportArgumentType]
            n_heads=hf.num_attention_heads,
            d_key=width,
            d_value=width,
            norm_groups=1,
        ),
        experts=in_every_layer(hf, hf.num_local_experts),
    )


_LIGHTNING: Table = {
    f"{OURS}.W_Q, {OURS}.W_K, {OURS}.W_V": f"{THEIRS}.qkv_proj.weight | (H part3 W) d -> part3 H d W",
    f"{OURS}.W_G": f"{THEIRS}.output_gate.weight | (H W) d -> H d W",
    f"{OURS}.slope": f"{THEIRS}.slope_rate | H 1 1 -> H",
    f"{OURS}.norm.w": f"{THEIRS}.norm.weight | (N x) -> N x",
    f"{OURS}.W_O": f"{THEIRS}.out_proj.weight | d (H W) -> H W d",
    **{f"{OURS}.b_{part}": None for part in ("Q", "K", "V", "G", "O")},
}
_NO_BIASES: Table = {f"blocks.{{attention}}.attn.b_{part}": None for part in "QKVO"}

MINIMAX = replace(
    LLAMA,
    model_type="minimax",
    name="MiniMax-Text-01",
    config=_config,
    weights=modules(embed="model.embed_tokens", ln_embed="model.layers.0.input_layernorm", unembed="lm_head")
    | modules(ln1="post_attention_layernorm")
    | {"blocks.{i}.ln2.w": "model.layers.{i+1}.input_layernorm.weight or model.norm.weight"}
    | on_layers("attention", ATTENTION)
    | _NO_BIASES
    | _LIGHTNING
    | expert_weights(),
    ignored_weights=(
        *LLAMA.ignored_weights,
        r".*\.(query|key|diagonal)_decay",  # powers of the decay that the slopes say
    ),
    ignored_config=(
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
        "block_size",  # how long pieces of the text are that HuggingFace computes at once
    ),
    requires={**LLAMA.requires, "hidden_act": "silu"},
)
