"""Mixtures whose router chooses experts with a bias that does not count in their weights, as DeepSeek-V3 does.

dots.llm1 (rednote 2025) and GLM-4.5 (Zhipu 2025) score with sigmoids and choose within the best groups of experts,
ERNIE 4.5 (Baidu 2025) scores with a softmax. Some layers are dense, the others have an expert for every token too.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.deepseek import EXPERTS, v3_experts
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY
from interp_hooks.loading.families.shared import LAYER, QK_RMS, head_width, rotary, windows
from interp_hooks.model.config import ExpertsConfig


def _dots_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | QK_RMS | dict(window_sizes=windows(hf), experts=v3_experts(hf))


def _glm_config(hf: Any) -> dict[str, Any]:
    normalized = QK_RMS if hf.use_qk_norm else {}
    return LLAMA.config(hf) | rotary(hf, head_width(hf)) | normalized | dict(experts=v3_experts(hf))


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
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
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
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
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
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
        "use_bias",  # shows in the tensors
        "moe_capacity",  # these are of the training framework; transformers does not read them
        "moe_gate",
        "moe_use_aux_free",
        "num_nextn_predict_layers",  # layers that guess further tokens ahead, which transformers does not load
    ),
)
