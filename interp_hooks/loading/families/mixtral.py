"""Mixtral (Jiang et al. 2024): Llama with two of eight experts for every token in place of the MLP.

Phi-3.5-MoE (Abdin et al. 2024) is Mixtral with LayerNorms, biases and the routing of SparseMixer (Liu et al. 2024).
"""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, expert_weights, in_every_layer
from interp_hooks.loading.families.shared import window_everywhere


def _config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(window_sizes=window_everywhere(hf), experts=in_every_layer(hf, hf.num_local_experts))


def _phimoe_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf)
    experts = replace(fields["experts"], scores="sparsemixer", normalize_weights=False, jitter=hf.router_jitter_noise)
    return fields | dict(normalization_type="LN", experts=experts, rotary_scaling=_phimoe_scaling(hf))


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
