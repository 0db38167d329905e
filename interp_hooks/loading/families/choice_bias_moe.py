"""Mixtures whose router chooses experts with a bias that does not count in their weights, as DeepSeek-V3 does.

dots.llm1 (rednote 2025) and GLM-4.5 (Zhipu 2025) score with sigmoids and choose within the best groups of experts,
ERNIE 4.5 (Baidu 2025) scores with a softmax. Some layers are dense, the others have an expert for every token too.
Solar Open (Upstage 2025) has experts in all layers, K-EXAONE (LG AI Research 2025) rotates only layers with windows.
Hunyuan 3 (Tencent 2026) and MiniMax-M2 (2025), which has no expert for every token, choose among all experts. Kolibri
(2026) adds the bias before the sigmoid, and normalizes what attention and experts write too. Trinity (Arcee AI 2025)
has norms of both kinds too, gates on what attention heads write, and rotates only layers with windows. In MiMo-V2-Flash
(Xiaomi 2025) these have sinks, and twice as many heads of keys as the others.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.deepseek import EXPERTS, V3_ROUTER, v3_experts
from interp_hooks.loading.families.exaone4 import EXAONE4
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import (
    TRAINING_ONLY,
    but_the_first,
    expert_weights,
    experts_of,
    in_every_layer,
    where_sparse,
)
from interp_hooks.loading.families.olmo import QK_NORM_ALL_HEADS
from interp_hooks.loading.families.shared import LAYER, QK_RMS, head_width, modules, rotary, rotary_where, windows
from interp_hooks.model.config import ExpertsConfig

IGNORED = (*LLAMA.ignored_config, *TRAINING_ONLY)


def _dots_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | QK_RMS | dict(window_sizes=windows(hf), experts=v3_experts(hf))


def _glm_config(hf: Any) -> dict[str, Any]:
    normalized = QK_RMS if hf.use_qk_norm else {}
    return LLAMA.config(hf) | rotary(hf, head_width(hf)) | normalized | dict(experts=v3_experts(hf))


def _solar_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(experts=v3_experts(hf, (True,) * hf.num_hidden_layers))


def _sparse_experts(hf: Any, n_experts: int, d_shared: int = 0) -> ExpertsConfig:
    """Experts chosen as in DeepSeek-V3, in the layers that the config calls sparse."""
    chosen = dict(n_groups=hf.n_group, groups_kept=hf.topk_group, normalize_weights=hf.norm_topk_prob)
    how = V3_ROUTER | chosen | dict(weight_scale=hf.routed_scaling_factor, d_shared=d_shared)
    return experts_of(hf, n_experts, hf.moe_intermediate_size, where_sparse(hf), **how)


def _d_shared(hf: Any) -> int:
    """The width of the experts that every token passes, side by side."""
    return hf.num_shared_experts * hf.moe_intermediate_size


def _exaone_config(hf: Any) -> dict[str, Any]:
    experts = _sparse_experts(hf, hf.num_experts, d_shared=_d_shared(hf))
    return EXAONE4.config(hf) | dict(norm_placement="pre", experts=experts)


def _hunyuan_config(hf: Any) -> dict[str, Any]:
    how = V3_ROUTER | dict(weight_scale=hf.router_scaling_factor, d_shared=_d_shared(hf))
    experts = experts_of(hf, hf.num_experts, hf.moe_intermediate_size, where_sparse(hf), **how)
    return LLAMA.config(hf) | QK_RMS | dict(experts=experts)


def _minimax_config(hf: Any) -> dict[str, Any]:
    experts = in_every_layer(hf, hf.num_local_experts, scores="sigmoid", biased_choice=True)
    normalized = dict(qk_norm="all_heads", qk_norm_type="RMS")
    return LLAMA.config(hf) | rotary(hf, head_width(hf)) | normalized | dict(experts=experts)


def _kolibri_config(hf: Any) -> dict[str, Any]:
    how: dict[str, Any] = dict(scores="sigmoid", biased_choice=True, choice="logits", precise_router=True)
    how |= dict(normalize_weights=hf.norm_topk_prob, d_shared=hf.shared_expert_intermediate_size)
    experts = experts_of(hf, hf.num_experts, hf.moe_intermediate_size, **how)
    return EXAONE4.config(hf) | dict(norm_placement="pre_and_output", experts=experts)


def _afmoe_config(hf: Any) -> dict[str, Any]:
    how = V3_ROUTER | dict(weight_scale=hf.route_scale, d_shared=_d_shared(hf))
    sparse = but_the_first(hf, hf.num_dense_layers)
    experts = experts_of(hf, hf.num_experts, hf.moe_intermediate_size, sparse, **how)
    fields = (
        LLAMA.config(hf)
        | QK_RMS
        | dict(
            norm_placement="pre_and_output",
            embed_scale=hf.hidden_size**0.5 if hf.mup_enabled else 1.0,
            gated_attn=True,
            window_sizes=windows(hf),
            experts=experts,
        )
    )
    return rotary_where(windows(hf), fields)


def _ernie_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(
        rotary_adjacent_pairs=True,
        experts=ExpertsConfig(
            n_experts=hf.moe_num_experts,
            experts_per_token=hf.moe_k,
            d_expert=hf.moe_intermediate_size,
            layers=tuple(
                hf.moe_layer_start_index <= layer <= hf.moe_layer_end_index and (layer + 1) % hf.moe_layer_interval == 0
                for layer in range(hf.num_hidden_layers)
            ),
            min_weight_sum=hf.moe_norm_min,
            biased_choice=True,
            precise_router=True,
            d_shared=hf.moe_intermediate_size * hf.moe_num_shared_experts,
        ),
    )


DOTS1 = replace(
    LLAMA,
    model_type="dots1",
    name="dots.llm1",
    config=_dots_config,
    weights=LLAMA.weights | EXPERTS,
    ignored_config=(
        *IGNORED,
        "max_window_layers",  # becomes layer_types
        "scoring_func",  # always sigmoids; transformers does not read it
    ),
)

GLM4_MOE = replace(
    DOTS1,
    model_type="glm4_moe",
    name="GLM-4.5, GLM-4.6, GLM-4.7",
    config=_glm_config,
    ignored_config=(
        *IGNORED,
        "partial_rotary_factor",  # an older name, which HuggingFace moves into rope_parameters
        "num_mtp_layers",  # layers that guess further tokens ahead, which transformers does not load
        "num_nextn_predict_layers",
    ),
)

ERNIE4_5_MOE = replace(
    LLAMA,
    model_type="ernie4_5_moe",
    name="ERNIE 4.5 MoE",
    config=_ernie_config,
    weights=LLAMA.weights
    | EXPERTS
    | {"blocks.{i}.mlp.choice_bias": f"{LAYER}.mlp.gate.moe_statics.e_score_correction_bias | 1 e -> e"},
    ignored_config=(
        *IGNORED,
        "use_bias",  # shows in the tensors
        "moe_capacity",  # these are of the training framework; transformers does not read them
        "moe_gate",
        "moe_use_aux_free",
        "num_nextn_predict_layers",  # layers that guess further tokens ahead, which transformers does not load
    ),
)

SOLAR_OPEN = replace(
    DOTS1,
    model_type="solar_open",
    name="Solar Open",
    config=_solar_config,
    ignored_config=(
        *IGNORED,
        "partial_rotary_factor",  # an older name, which HuggingFace moves into rope_parameters
    ),
)

EXAONE_MOE = replace(
    DOTS1,
    model_type="exaone_moe",
    name="K-EXAONE",
    config=_exaone_config,
    ignored_weights=(*LLAMA.ignored_weights, r"mtp\..*"),  # the module that predicts the token after the next
    ignored_config=(
        *EXAONE4.ignored_config,
        *TRAINING_ONLY,
        "first_k_dense_replace",  # becomes mlp_layer_types
    ),
)

_BIAS_BESIDE_ROUTER = {"blocks.{i}.mlp.choice_bias": f"{LAYER}.mlp.e_score_correction_bias"}

HY_V3 = replace(
    DOTS1,
    model_type="hy_v3",
    name="Hunyuan 3",
    config=_hunyuan_config,
    weights=DOTS1.weights | _BIAS_BESIDE_ROUTER,
    ignored_weights=(
        *LLAMA.ignored_weights,
        r"model\.layers\.80\..*",  # the module that predicts the token after the next, in the published checkpoint
    ),
    ignored_config=(
        *IGNORED,
        "enable_moe_fp32_combine",  # in which precision two sums are added
        "first_k_dense_replace",  # becomes mlp_layer_types
    ),
)

MINIMAX_M2 = replace(
    LLAMA,
    model_type="minimax_m2",
    name="MiniMax-M2",
    config=_minimax_config,
    weights=LLAMA.weights | QK_NORM_ALL_HEADS | expert_weights() | _BIAS_BESIDE_ROUTER,
    ignored_config=(
        *IGNORED,
        "rotary_dim",  # an older name, which HuggingFace moves into rope_parameters
    ),
)

KOLIBRI = replace(
    DOTS1,
    model_type="kolibri1",
    name="Kolibri",
    config=_kolibri_config,
    weights=DOTS1.weights | modules(ln1_post="post_self_attn_layernorm", ln2_post="post_mlp_layernorm"),
    ignored_config=IGNORED,
)

AFMOE = replace(
    DOTS1,
    model_type="afmoe",
    name="Trinity (AFMoE)",
    config=_afmoe_config,
    weights=DOTS1.weights
    | modules(
        ln2="pre_mlp_layernorm",
        ln1_post="post_attention_layernorm",
        ln2_post="post_mlp_layernorm",
        router="mlp.router.gate",
    )
    | {
        "blocks.{i}.attn.W_G": f"{LAYER}.self_attn.gate_proj.weight | (h k) d -> h d k",
        "blocks.{i}.attn.b_G": None,
        "blocks.{i}.mlp.choice_bias": f"{LAYER}.mlp.expert_bias",
    },
    ignored_config=(
        *IGNORED,
        "global_attn_every_n_layers",  # layer_types say what comes of it
    ),
)


def _mimo_config(hf: Any) -> dict[str, Any]:
    experts = _sparse_experts(hf, hf.num_local_experts)
    near = tuple(kind == "sliding_attention" for kind in hf.layer_types)
    shares = {rope.get("partial_rotary_factor", 0.334) for rope in hf.rope_parameters.values()}
    if len(shares) > 1:
        raise UnsupportedConfig(f"partial_rotary_factor differs between layers, which is not implemented: {shares}")
    return LLAMA.config(hf) | dict(
        rotary_dim=int(head_width(hf) * shares.pop()),
        d_value=hf.v_head_dim,
        n_key_value_heads_layers=tuple(hf.num_key_value_heads * (2 if here else 1) for here in near),
        attn_sinks=any(near),
        attn_sink_layers=near,
        value_scale=1.0 if hf.attention_value_scale is None else hf.attention_value_scale,
        window_sizes=windows(hf),
        experts=experts,
    )


MIMO_V2_FLASH = replace(
    LLAMA,
    model_type="mimo_v2_flash",
    name="MiMo-V2-Flash",
    config=_mimo_config,
    weights=LLAMA.weights
    | {name: line for name, line in EXPERTS.items() if ".shared." not in name}
    | {
        "blocks.{i}.attn.sinks": f"{LAYER}.self_attn.sinks",
        "blocks.{i}.attn.W_V": f"{LAYER}.self_attn.v_proj.weight | (g w) d -> g d w",
        "blocks.{i}.attn.b_V": f"{LAYER}.self_attn.v_proj.bias? | (g w) -> g w",
        "blocks.{i}.attn.W_O": f"{LAYER}.self_attn.o_proj.weight | d (h w) -> h w d",
    },
    ignored_weights=(*LLAMA.ignored_weights, r"model\.mtp\..*"),  # the modules that predict tokens after the next
    ignored_config=(*IGNORED, "sliding_window_size"),  # becomes sliding_window
)
