"""Mamba-2 (Dao and Gu 2024), and models that have it in most layers and attention in some.

Bamba (IBM, Princeton, CMU and UIUC 2024) has MLPs too; Granite 4 (IBM 2025) has Granite 3's multipliers, and experts.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.granite_moe import EXPERTS, SHARED_MLP
from interp_hooks.loading.families.llama import ATTENTION, ENDS, NORMS
from interp_hooks.loading.families.moe import TRAINING_ONLY, in_every_layer
from interp_hooks.loading.families.shared import OLDER_ROPE, basics, head_width, llama_like, modules, rotary
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table, on_layers
from interp_hooks.model.mixers_config import MixersConfig

OURS = "blocks.{mamba2}.attn"
KINDS = {"linear_attention": "mamba2", "full_attention": "attention"}
ANY_LENGTH = 2**20  # configs of models without positions name no longest text
# How long pieces of the text are that HuggingFace computes at once, and what the first weights are drawn with.
NO_NUMBER = ("chunk_size", "time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual")


def state_space_weights(there: str, ours: str = OURS) -> Table:
    """Lines for the layers of Mamba-2 that they call `there`, all of whose inputs are one matrix."""
    names = [f"{ours}.{leaf}_{part}" for leaf in "Wb" for part in ("G", "V", "K", "Q", "dt")]
    shares = "H*W H*W G*K G*K H"
    return {
        ", ".join(names[:5]): f"{there}.in_proj.weight | x d -> x d | {shares}"
        " | (H W) d -> H d W; (H W) d -> H d W; (G K) d -> G d K; (G K) d -> G d K; H d -> d H",
        ", ".join(names[5:]): f"{there}.in_proj.bias? | x -> x | {shares}"
        " | (H W) -> H W; (H W) -> H W; (G K) -> G K; (G K) -> G K; H -> H",
        f"{ours}.convolution.W": f"{there}.conv1d.weight | C 1 taps -> C taps",
        f"{ours}.convolution.b": f"{there}.conv1d.bias?",
        **{f"{ours}.{name}": f"{there}.{name}" for name in ("dt_bias", "A_log", "D")},
        f"{ours}.norm.w": f"{there}.norm.weight | (N x) -> N x",
        f"{ours}.W_O": f"{there}.out_proj.weight | d (H W) -> H W d",
        f"{ours}.b_O": f"{there}.out_proj.bias?",
    }


def steps(hf: Any) -> dict[str, Any]:
    """The bounds of steps."""
    low, high = hf.time_step_limit or (0.0, float("inf"))
    return dict(dt_min=float(low), dt_max=0.0 if high == float("inf") else float(high))


def of_mixers_alone(hf: Any, mixers: MixersConfig) -> dict[str, Any]:
    """The fields of a model whose layers are a state space each, and nothing else."""
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        d_vocab=hf.vocab_size,
        n_ctx=ANY_LENGTH,
        eps=hf.layer_norm_epsilon,
        normalization_type="RMS",
        positional_embedding_type="none",
        attn_only=True,
        mixers=mixers,
    )


def weights_alone(layers: Table) -> Table:
    """The table of such a model, from the lines of its layers."""
    ends = modules(embed="backbone.embeddings", ln_final="backbone.norm_f", unembed="lm_head")
    return ends | modules("backbone.layers.{i}", ln1="norm") | layers


def _config(hf: Any) -> dict[str, Any]:
    return dict(n_heads=hf.num_heads, d_head=hf.head_dim) | of_mixers_alone(
        hf,
        MixersConfig(
            layers=("mamba2",) * hf.num_hidden_layers,
            n_heads=hf.num_heads,
            n_key_heads=hf.n_groups,
            d_key=hf.state_size,
            d_value=hf.head_dim,
            taps=hf.conv_kernel,
            eps=hf.layer_norm_epsilon,
            norm_groups=hf.n_groups,
            **steps(hf),
        ),
    )


MAMBA2 = Family(
    model_type="mamba2",
    name="Mamba-2",
    config=_config,
    weights=weights_alone(state_space_weights("backbone.layers.{mamba2}.mixer")),
    ignored_config=(
        *NO_NUMBER,
        *("use_bias", "use_conv_bias"),  # show in the tensors
        "expand",  # the number of heads times their width says what comes of it
        "residual_in_fp32",  # of half-precision models
        "time_step_rank",  # of Mamba-1
    ),
    requires={"hidden_act": "silu"},
)


def sizes(hf: Any) -> dict[str, Any]:
    """The sizes of Mamba-2's mixers, from a config that names them as Bamba's does."""
    return dict(
        n_heads=hf.mamba_n_heads,
        n_key_heads=hf.mamba_n_groups,
        d_key=hf.mamba_d_state,
        d_value=hf.mamba_d_head,
        taps=hf.mamba_d_conv,
        eps=hf.rms_norm_eps,
        **steps(hf),
    )


def _hybrid(hf: Any) -> MixersConfig:
    """The mixers of a model in which some layers have Mamba-2, and others attention."""
    layers: Any = tuple(KINDS[kind] for kind in hf.layers_block_type)
    return MixersConfig(layers=layers, norm_groups=hf.mamba_n_groups, **sizes(hf))


_IGNORED = (
    *OLDER_ROPE,
    *("mamba_conv_bias", "mamba_proj_bias", "attention_bias", "mlp_bias"),  # show in the tensors
    "mamba_chunk_size",
    "mamba_expand",
)

BAMBA = Family(
    model_type="bamba",
    name="Bamba",
    config=lambda hf: (
        llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps)
        | dict(normalization_type="RMS", gated_mlp=True, mixers=_hybrid(hf))
    ),
    weights=ENDS
    | modules(ln_final="model.final_layernorm", ln1="input_layernorm", ln2="pre_ff_layernorm")
    | on_layers("attention", ATTENTION)
    | modules(gate="feed_forward.gate_proj", up="feed_forward.up_proj", down="feed_forward.down_proj")
    | state_space_weights("model.layers.{mamba2}.mamba"),
    ignored_config=(
        *_IGNORED,
        "attn_layer_indices",  # layers_block_type say what comes of it
        "num_logits_to_keep",
        "z_loss_coefficient",  # only training reads it
    ),
    requires={"hidden_act": "silu"},
)


def _granite_config(hf: Any) -> dict[str, Any]:
    rotates = hf.position_embedding_type == "rope"
    experts = None
    if hf.num_local_experts:
        experts = replace(in_every_layer(hf, hf.num_local_experts), d_shared=hf.shared_intermediate_size)
    return basics(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        n_key_value_heads=hf.num_key_value_heads,
        d_head=head_width(hf),
        d_mlp=hf.shared_intermediate_size,
        n_ctx=hf.max_position_embeddings,
        normalization_type="RMS",
        gated_mlp=True,
        embed_scale=hf.embedding_multiplier,
        attn_scale=1 / hf.attention_multiplier,
        residual_scale=hf.residual_multiplier,
        logits_scale=1 / hf.logits_scaling,
        mixers=_hybrid(hf),
        experts=experts,
        **(rotary(hf, head_width(hf)) if rotates else dict(positional_embedding_type="none")),
    )


GRANITE_MOE_HYBRID = replace(
    BAMBA,
    model_type="granitemoehybrid",
    name="Granite 4",
    config=_granite_config,
    weights=ENDS
    | NORMS
    | on_layers("attention", ATTENTION)
    | EXPERTS
    | SHARED_MLP
    | modules(gate_up="shared_mlp.input_linear", down="shared_mlp.output_linear")  # which stands alone without experts
    | state_space_weights("model.layers.{mamba2}.mamba"),
    ignored_config=(
        *_IGNORED,
        *TRAINING_ONLY,
        *("intermediate_size", "num_experts_per_tok"),  # of experts, if there are some
        "rope_parameters",  # of models that rotate
    ),
)
