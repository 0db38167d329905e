"""CTRL (Keskar et al. 2019): fixed sinusoidal positions beside scaled embeddings, LayerNorms, and ReLU."""

from typing import Any

from interp_hooks.loading.families.shared import basics, modules
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return basics(hf, act_fn="relu", eps=1e-6) | dict(
        n_ctx=hf.n_positions,
        d_mlp=hf.dff,
        positional_embedding_type="sinusoidal",
        sinusoids_to_end=False,
        embed_scale=hf.n_embd**0.5,
    )


CTRL = Family(
    model_type="ctrl",
    name="CTRL",
    config=_config,
    weights=modules(
        "transformer.h.{i}",
        embed="transformer.w",
        ln1="layernorm1",
        q="multi_head_attention.Wq",
        k="multi_head_attention.Wk",
        v="multi_head_attention.Wv",
        o="multi_head_attention.dense",
        ln2="layernorm2",
        up="ffn.0",
        down="ffn.2",
        ln_final="transformer.layernorm",
        unembed="lm_head",
    ),
    ignored_config=("resid_pdrop", "embd_pdrop"),
    requires={"layer_norm_epsilon": 1e-6},  # which all other norms have in any case
)
