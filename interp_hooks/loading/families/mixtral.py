"""Mixtral (Jiang et al. 2024): Llama with two of eight experts for every token in place of the MLP.

Phi-3.5-MoE (Abdin et al. 2024) is Mixtral with LayerNorms, biases and the routing of SparseMixer (Liu et al. 2024).
Aria (Li et al. 2024) has an MLP for every token too.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, in_every_layer
from interp_hooks.loading.families.shared import LAYER, modules, window_everywhere
from interp_hooks.model.config import ExpertsConfig


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(window_sizes=window_everywhere(hf), experts=in_every_layer(hf, hf.num_local_experts))


def _phimoe_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf)
    experts = replace(fields["experts"], scores="sparsemixer", normalize_weights=False, jitter=hf.router_jitter_noise)
    return fields | dict(normalization_type="LN", experts=experts, rotary_scaling=_phimoe_scaling(hf))


def _aria_config(hf: Any) -> dict[str, Any]:
    experts = ExpertsConfig(
        n_experts=hf.moe_num_experts,
        experts_per_token=hf.moe_topk,
        d_expert=hf.intermediate_size,
        layers=(True,) * hf.num_hidden_layers,
        d_shared=hf.moe_num_shared_experts * hf.intermediate_size,
    )
    return LLAMA.config(hf) | dict(experts=experts)


def _phimoe_scaling(hf: Any) -> dict[str, Any] | None:
    """The `longrope` mapping with the scale that Phi-3.5-MoE gives its sines and cosines.

    Prompts beyond the original context take the long factors, as in the authors' code and in transformers up to 5.12;
    from 5.16 on (seen up to 5.23) transformers takes the short ones there too.
    """
    rope = dict(hf.rope_parameters)
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "longrope" or rope["short_mscale"] != rope["long_mscale"]:
        raise UnsupportedConfig(
            f"rope_parameters={rope} is not implemented for Phi-MoE: only longrope with short_mscale == long_mscale is"
        )
    return rope | {
        "attention_factor": rope["short_mscale"],
        "max_position_embeddings": hf.max_position_embeddings,
    }


MIXTRAL = replace(
    LLAMA,
    model_type="mixtral",
    name="Mixtral",
    config=_config,
    weights=LLAMA.weights | expert_weights(),
    ignored_config=(*LLAMA.ignored_config, *TRAINING_ONLY),
)

PHIMOE = replace(
    MIXTRAL,
    model_type="phimoe",
    name="Phi-3.5-MoE",
    config=_phimoe_config,
    weights=LLAMA.weights | expert_weights(router="mlp.router"),
    ignored_config=(
        *MIXTRAL.ignored_config,
        "lm_head_bias",  # shows in the tensors
        "original_max_position_embeddings",  # a copy of the one in rope_parameters
    ),
    requires={"num_experts_per_tok": 2},  # SparseMixer's two rounds
)

ARIA = replace(
    MIXTRAL,
    model_type="aria_text",
    name="Aria",
    config=_aria_config,
    weights=LLAMA.weights
    | expert_weights(router="mlp.router")
    | {
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{LAYER}.mlp.experts.gate_up_proj | e d (two n) -> two e d n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{LAYER}.mlp.experts.down_proj",
    }
    | modules(
        shared_gate="mlp.shared_experts.gate_proj",
        shared_up="mlp.shared_experts.up_proj",
        shared_down="mlp.shared_experts.down_proj",
    ),
)
