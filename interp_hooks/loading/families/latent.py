"""Models with the latent attention of DeepSeek: Youtu-LLM (Tencent 2025) and MiniCPM3 (OpenBMB 2024), which are dense,
and GLM-4.7-Flash (Zhipu 2026) and A.X K1 (SK Telecom 2026), mixtures with DeepSeek-V3's router, of which the latter
normalizes what experts write.

MiniCPM3 scales embeddings, what sublayers write, and logits, by the rules of its width and depth.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.deepseek import DEEPSEEK_V3, LATENT_ATTENTION, latent_attention, v3_experts
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import where_sparse
from interp_hooks.loading.families.shared import LAYER


def _youtu_config(hf: Any) -> dict[str, Any]:
    return latent_attention(hf) | dict(rotary_adjacent_pairs=hf.rope_interleave)


def _minicpm3_config(hf: Any) -> dict[str, Any]:
    return latent_attention(hf) | dict(
        embed_scale=hf.scale_emb,
        residual_scale=hf.scale_depth / hf.num_hidden_layers**0.5,
        logits_scale=hf.dim_model_base / hf.hidden_size,
    )


def _glm_config(hf: Any) -> dict[str, Any]:
    return _youtu_config(hf) | dict(experts=v3_experts(hf, where_sparse(hf)))


_WIDTHS = ("head_dim", "qk_head_dim")  # these follow from the widths of the plain and the rotary part

YOUTU = replace(
    LLAMA,
    model_type="youtu",
    name="Youtu-LLM",
    config=_youtu_config,
    weights=LLAMA.weights | LATENT_ATTENTION,
    ignored_config=(*LLAMA.ignored_config, *_WIDTHS, "embedding_initializer_range"),
)

MINICPM3 = replace(
    YOUTU,
    model_type="minicpm3",
    name="MiniCPM3",
    config=_minicpm3_config,
    ignored_config=(*LLAMA.ignored_config, *_WIDTHS),
)

GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    model_type="glm4_moe_lite",
    name="GLM-4.7-Flash",
    config=_glm_config,
    ignored_weights=(
        *LLAMA.ignored_weights,
        r"model\.layers\.47\..*",  # the module that predicts the token after the next, in the published checkpoint
    ),
    ignored_config=(*DEEPSEEK_V3.ignored_config, "first_k_dense_replace"),  # becomes mlp_layer_types
)


def _axk1_config(hf: Any) -> dict[str, Any]:
    return _youtu_config(hf) | dict(experts=replace(v3_experts(hf, where_sparse(hf)), output_norm=True))


AXK1 = replace(
    DEEPSEEK_V3,
    model_type="axk1",
    name="A.X K1",
    config=_axk1_config,
    weights=DEEPSEEK_V3.weights | {"blocks.{i}.mlp.ln_post.w": f"{LAYER}.mlp.post_mlp_layernorm.weight"},
    ignored_weights=LLAMA.ignored_weights,
    ignored_config=(*DEEPSEEK_V3.ignored_config, "first_k_dense_replace"),  # becomes mlp_layer_types
)
