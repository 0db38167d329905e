"""The mixtures of Granite 3 (IBM 2024): Granite with Mixtral's experts, some with an MLP for every token too,
some with windows and sinks.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.granite import GRANITE, SINKS, windowed
from interp_hooks.loading.families.moe import NO_EXPERT_BIASES, TRAINING_ONLY, in_every_layer
from interp_hooks.loading.families.shared import LAYER, modules
from interp_hooks.loading.rules import Table


def _config(hf: Any) -> dict[str, Any]:
    return GRANITE.config(hf) | dict(experts=in_every_layer(hf, hf.num_local_experts))


def _shared_config(hf: Any) -> dict[str, Any]:
    fields = _config(hf)
    return fields | dict(experts=replace(fields["experts"], d_shared=hf.shared_intermediate_size))


_EXPERTS = f"{LAYER}.block_sparse_moe.experts"
_OLDER = f"{LAYER}.block_sparse_moe"
EXPERTS: Table = modules(router="block_sparse_moe.router or block_sparse_moe.router.layer") | {
    "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
        f"{_EXPERTS}.gate_up_proj or {_OLDER}.input_linear.weight | e (two n) d -> two e d n"
    ),
    "blocks.{i}.mlp.experts.W_out": f"{_EXPERTS}.down_proj or {_OLDER}.output_linear.weight | e d n -> e n d",
    **NO_EXPERT_BIASES,
}
SHARED_MLP = modules(shared_gate_up="shared_mlp.input_linear", shared_down="shared_mlp.output_linear")

GRANITE_MOE = replace(
    GRANITE,
    model_type="granitemoe",
    name="Granite MoE",
    config=_config,
    weights=GRANITE.weights | EXPERTS,
    ignored_config=(*GRANITE.ignored_config, *TRAINING_ONLY),
)

GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    model_type="granitemoeshared",
    name="Granite MoE with shared experts",
    config=_shared_config,
    weights=GRANITE_MOE.weights | SHARED_MLP,
)

GRANITE_MOE_SWA = replace(
    GRANITE_MOE_SHARED,
    model_type="granitemoe_swa",
    name="Granite MoE SWA",
    config=lambda hf: windowed(hf, _shared_config(hf)),
    weights=GRANITE_MOE_SHARED.weights | SINKS,
)
