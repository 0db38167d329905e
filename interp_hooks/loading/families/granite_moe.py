"""The mixtures of Granite 3 (IBM 2024): Granite with Mixtral's experts, some with an MLP for every token too."""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.granite import GRANITE
from interp_hooks.loading.families.llama import ATTENTION, ENDS, NORMS
from interp_hooks.loading.families.moe import LAYER, TRAINING_ONLY, expert_weights, in_every_layer


def _config(hf: Any) -> dict[str, Any]:
    return GRANITE.config(hf) | dict(experts=in_every_layer(hf, hf.num_local_experts))


def _shared_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf)
    return fields | dict(experts=replace(fields["experts"], d_shared=hf.shared_intermediate_size))


_BLOCK = f"{LAYER}.block_sparse_moe"
_PACKED = "e (two n) d -> two e d n"

GRANITE_MOE = replace(
    GRANITE,
    model_type="granitemoe",
    name="Granite MoE",
    config=_config,
    weights=ENDS
    | NORMS
    | ATTENTION
    | expert_weights("block_sparse_moe")
    | {
        "blocks.{i}.mlp.W_router": f"{_BLOCK}.router.weight or {_BLOCK}.router.layer.weight | e d -> d e",
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{_BLOCK}.experts.gate_up_proj or {_BLOCK}.input_linear.weight | {_PACKED}"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{_BLOCK}.experts.down_proj or {_BLOCK}.output_linear.weight | e d n -> e n d",
    },
    ignored_config=(*GRANITE.ignored_config, *TRAINING_ONLY),
)

GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    model_type="granitemoeshared",
    name="Granite MoE with shared experts",
    config=_shared_config,
    weights=GRANITE_MOE.weights
    | {
        "blocks.{i}.mlp.shared.W_gate, blocks.{i}.mlp.shared.W_in": (
            f"{LAYER}.shared_mlp.input_linear.weight | (two s) d -> two d s"
        ),
        "blocks.{i}.mlp.shared.W_out": f"{LAYER}.shared_mlp.output_linear.weight | d s -> s d",
        "blocks.{i}.mlp.shared.b_gate": None,
        "blocks.{i}.mlp.shared.b_in": None,
        "blocks.{i}.mlp.shared.b_out": None,
    },
)
