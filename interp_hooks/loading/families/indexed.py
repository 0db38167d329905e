"""DeepSeek-V3.2 (DeepSeek-AI 2025) and GLM-5 (Zhipu 2026): DeepSeek-V3 whose queries see what an indexer chooses.

GLM-5 may have an indexer in some layers only; the others see what the last one before them has chosen.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.deepseek import DEEPSEEK_V3, latent_attention, v3_experts
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import where_sparse
from interp_hooks.loading.families.shared import LAYER
from interp_hooks.loading.rules import Table
from interp_hooks.model.indexer_config import IndexerConfig


def _indexed(hf: Any, layers: tuple[bool, ...], adjacent_pairs: bool) -> dict[str, Any]:
    sizes = dict(n_heads=hf.index_n_heads, d_head=hf.index_head_dim, top_k=hf.index_topk)
    return latent_attention(hf) | dict(
        rotary_adjacent_pairs=True,
        experts=v3_experts(hf, where_sparse(hf)),
        indexer=IndexerConfig(**sizes, layers=layers, adjacent_pairs=adjacent_pairs),
    )


def _deepseek_config(hf: Any) -> dict[str, Any]:
    return _indexed(hf, (True,) * hf.num_hidden_layers, adjacent_pairs=False)


def _glm_config(hf: Any) -> dict[str, Any]:
    return _indexed(hf, tuple(kind == "full" for kind in hf.indexer_types), adjacent_pairs=True)


INDEXER: Table = {
    "blocks.{i}.attn.indexer.W_IQ": f"{LAYER}.self_attn.indexer.wq_b.weight | (I J) c -> I c J",
    "blocks.{i}.attn.indexer.W_IK": f"{LAYER}.self_attn.indexer.wk.weight | J d -> d J",
    "blocks.{i}.attn.indexer.b_IK": None,
    "blocks.{i}.attn.indexer.k_norm.w": f"{LAYER}.self_attn.indexer.k_norm.weight",
    "blocks.{i}.attn.indexer.k_norm.b": f"{LAYER}.self_attn.indexer.k_norm.bias",
    "blocks.{i}.attn.indexer.W_IW": f"{LAYER}.self_attn.indexer.weights_proj.weight | I d -> d I",
    "blocks.{i}.attn.indexer.b_IW": None,
}

DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    model_type="deepseek_v32",
    name="DeepSeek-V3.2",
    config=_deepseek_config,
    weights=DEEPSEEK_V3.weights | INDEXER,
    ignored_config=(
        *DEEPSEEK_V3.ignored_config,
        "first_k_dense_replace",  # becomes mlp_layer_types
        "layer_types",  # all layers are of one type
    ),
    requires={**DEEPSEEK_V3.requires, "rope_interleave": True, "indexer_rope_interleave": False},
)

GLM_MOE_DSA = replace(
    DEEPSEEK_V32,
    model_type="glm_moe_dsa",
    name="GLM-5",
    config=_glm_config,
    ignored_weights=(
        *LLAMA.ignored_weights,
        r"model\.layers\.78\..*",  # the module that predicts the token after the next, in the published checkpoint
    ),
    ignored_config=(
        *DEEPSEEK_V32.ignored_config,
        "index_topk_pattern",  # these three become indexer_types
        "index_topk_freq",
        "index_skip_topk_offset",
    ),
    requires={**DEEPSEEK_V32.requires, "indexer_rope_interleave": True},
)
