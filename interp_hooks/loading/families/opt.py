"""OPT and Galactica (Zhang et al. 2022, Taylor et al. 2022), XGLM (Lin et al. 2021) and BioGPT (Luo et al. 2022): what
grew out of fairseq. Positions start after two unused rows, embeddings may be scaled, every norm has an eps of 1e-5.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import basics, modules
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Table


def _fairseq(hf: Any, *, act_fn: str, d_mlp: int) -> dict[str, Any]:
    return basics(hf, act_fn=act_fn, eps=1e-5) | dict(d_mlp=d_mlp, n_ctx=hf.max_position_embeddings, positions_offset=2)


def _opt_config(hf: Any) -> dict[str, Any]:
    return _fairseq(hf, act_fn=hf.activation_function, d_mlp=hf.ffn_dim) | dict(
        normalization_type="LN" if hf.layer_norm_elementwise_affine else "LNPre",
        norm_placement="pre" if hf.do_layer_norm_before else "post",
        final_norm=not hf._remove_final_layer_norm,
    )


def _xglm_config(hf: Any) -> dict[str, Any]:
    return _fairseq(hf, act_fn=hf.activation_function, d_mlp=hf.ffn_dim) | dict(
        positional_embedding_type="sinusoidal", embed_scale=hf.d_model**0.5 if hf.scale_embedding else 1.0
    )


def _biogpt_config(hf: Any) -> dict[str, Any]:
    return _fairseq(hf, act_fn=hf.hidden_act, d_mlp=hf.intermediate_size) | dict(
        embed_scale=hf.hidden_size**0.5 if hf.scale_embedding else 1.0
    )


def decoder_weights(stack: str, ln_final: str, unembed: str) -> Table:
    """The table of a decoder by the names of its stack of layers, the norm after it, and its head."""
    return modules(
        f"{stack}.layers.{{i}}",
        embed=f"{stack}.embed_tokens",
        pos_embed=f"{stack}.embed_positions",
        ln1="self_attn_layer_norm",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.out_proj",
        ln2="final_layer_norm",
        up="fc1",
        down="fc2",
        ln_final=f"{stack}.{ln_final}",
        unembed=unembed,
    )


OPT = Family(
    model_type="opt",
    name="OPT, Galactica",
    config=_opt_config,
    weights=decoder_weights("model.decoder", "final_layer_norm", "lm_head"),
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
    weights=decoder_weights("model", "layer_norm", "lm_head"),
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
    weights=decoder_weights("biogpt", "layer_norm", "output_projection"),
    ignored_config=(
        "layerdrop",  # training only
        "layer_norm_eps",  # never read: every norm has the default eps
    ),
)
