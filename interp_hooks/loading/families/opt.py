"""OPT and Galactica (Zhang et al. 2022, Taylor et al. 2022), XGLM (Lin et al. 2021) and BioGPT (Luo et al. 2022): what
grew out of fairseq. Positions start after two unused rows, embeddings may be scaled, every norm has an eps of 1e-5.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import activation
from interp_hooks.loading.guard import Family

_FAIRSEQ = dict(positions_offset=2, eps=1e-5)


def _opt_config(hf: Any) -> dict[str, Any]:
    return _FAIRSEQ | dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=hf.ffn_dim,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.activation_function),
        normalization_type="LN" if hf.layer_norm_elementwise_affine else "LNPre",
        norm_placement="pre" if hf.do_layer_norm_before else "post",
        final_norm=not hf._remove_final_layer_norm,
    )


def _xglm_config(hf: Any) -> dict[str, Any]:
    return _FAIRSEQ | dict(
        n_layers=hf.num_layers,
        d_model=hf.d_model,
        n_heads=hf.attention_heads,
        d_mlp=hf.ffn_dim,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.activation_function),
        positional_embedding_type="sinusoidal",
        embed_scale=hf.d_model**0.5 if hf.scale_embedding else 1.0,
    )


def _biogpt_config(hf: Any) -> dict[str, Any]:
    return _FAIRSEQ | dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        act_fn=activation(hf.hidden_act),
        embed_scale=hf.hidden_size**0.5 if hf.scale_embedding else 1.0,
    )


def _weights(stack: str, last_norm: str, head: str) -> dict[str, str | None]:
    """The table of a decoder by the names of its stack of layers, the norm after it, and its head."""
    layer = f"{stack}.layers.{{i}}"
    return {
        "embed.W_E": f"{stack}.embed_tokens.weight",
        "pos_embed.W_pos": f"{stack}.embed_positions.weight",
        "blocks.{i}.ln1.w": f"{layer}.self_attn_layer_norm.weight",
        "blocks.{i}.ln1.b": f"{layer}.self_attn_layer_norm.bias",
        "blocks.{i}.attn.W_Q": f"{layer}.self_attn.q_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_K": f"{layer}.self_attn.k_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_V": f"{layer}.self_attn.v_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.W_O": f"{layer}.self_attn.out_proj.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_Q": f"{layer}.self_attn.q_proj.bias? | (h k) -> h k",
        "blocks.{i}.attn.b_K": f"{layer}.self_attn.k_proj.bias? | (h k) -> h k",
        "blocks.{i}.attn.b_V": f"{layer}.self_attn.v_proj.bias? | (h k) -> h k",
        "blocks.{i}.attn.b_O": f"{layer}.self_attn.out_proj.bias?",
        "blocks.{i}.ln2.w": f"{layer}.final_layer_norm.weight",
        "blocks.{i}.ln2.b": f"{layer}.final_layer_norm.bias",
        "blocks.{i}.mlp.W_in": f"{layer}.fc1.weight | m d -> d m",
        "blocks.{i}.mlp.b_in": f"{layer}.fc1.bias?",
        "blocks.{i}.mlp.W_out": f"{layer}.fc2.weight | d m -> m d",
        "blocks.{i}.mlp.b_out": f"{layer}.fc2.bias?",
        "ln_final.w": f"{stack}.{last_norm}.weight",
        "ln_final.b": f"{stack}.{last_norm}.bias",
        "unembed.W_U": f"{head}.weight | v d -> d v",
        "unembed.b_U": None,
    }


OPT = Family(
    model_type="opt",
    name="OPT, Galactica",
    config=_opt_config,
    weights=_weights("model.decoder", "final_layer_norm", "lm_head"),
    ignored_config=(
        "enable_bias",  # these two show in the tensors (opt-350m's projected embeddings are refused there)
        "word_embed_proj_dim",
        "layerdrop",  # training only
        "init_std",
        "prefix",  # text before a prompt
        "learned_embeddings",  # in Galactica's files, but never read
        "scale_embeddings",
    ),
)

XGLM = replace(
    OPT,
    model_type="xglm",
    name="XGLM",
    config=_xglm_config,
    weights=_weights("model", "layer_norm", "lm_head"),
    ignored_weights=(r"model\.embed_positions\.weights",),  # sinusoids in old files
    ignored_config=("layerdrop", "init_std"),  # training only
    requires={
        "add_cross_attention": False,
        "pad_token_id": 1,  # the sinusoid of this row is zero, and the first two rows are of no position
    },
)

BIOGPT = replace(
    OPT,
    model_type="biogpt",
    name="BioGPT",
    config=_biogpt_config,
    weights=_weights("biogpt", "layer_norm", "output_projection"),
    ignored_config=(
        "layerdrop",  # training only
        "layer_norm_eps",  # never read: every norm has the default eps
    ),
)
