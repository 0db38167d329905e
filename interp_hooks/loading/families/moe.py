"""What mixtures of experts share: transformers stores gates and linear parts of all experts as one tensor."""

from typing import Any

from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig

LAYER = "model.layers.{i}"
_OURS = "blocks.{i}.mlp"

# Only training reads these.
TRAINING_ONLY = ("router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "input_jitter_noise")


def in_every_layer(hf: Any, n_experts: int, **more: Any) -> ExpertsConfig:
    """Experts, each as wide as a dense MLP would be, in all layers."""
    return ExpertsConfig(
        n_experts=n_experts,
        experts_per_token=hf.num_experts_per_tok,
        d_expert=hf.intermediate_size,
        layers=(True,) * hf.num_hidden_layers,
        **more,
    )


def expert_weights(block: str = "mlp", router: str = "gate.weight") -> Table:
    """Lines for the experts and the router of a layer's module `block`."""
    there = f"{LAYER}.{block}"
    return {
        f"{_OURS}.W_router": f"{there}.{router} | e d -> d e",
        f"{_OURS}.b_router": None,
        f"{_OURS}.experts.W_gate, {_OURS}.experts.W_in": f"{there}.experts.gate_up_proj | e (two n) d -> two e d n",
        f"{_OURS}.experts.W_out": f"{there}.experts.down_proj | e d n -> e n d",
        f"{_OURS}.experts.b_gate": None,
        f"{_OURS}.experts.b_in": None,
        f"{_OURS}.experts.b_out": None,
    }


def shared_expert_weights(module: str) -> Table:
    """Lines for the expert that every token passes, an MLP named `module`."""
    there = f"{LAYER}.mlp.{module}"
    return {
        f"{_OURS}.shared.W_gate": f"{there}.gate_proj.weight | s d -> d s",
        f"{_OURS}.shared.W_in": f"{there}.up_proj.weight | s d -> d s",
        f"{_OURS}.shared.W_out": f"{there}.down_proj.weight | d s -> s d",
        f"{_OURS}.shared.b_gate": f"{there}.gate_proj.bias?",
        f"{_OURS}.shared.b_in": f"{there}.up_proj.bias?",
        f"{_OURS}.shared.b_out": f"{there}.down_proj.bias?",
    }
