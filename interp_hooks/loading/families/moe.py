"""What mixtures of experts share: transformers stores gates and linear parts of all experts as one tensor."""

from typing import Any

from interp_hooks.loading.families.shared import LAYER, modules
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import ExpertsConfig

# Only training reads these.
TRAINING_ONLY = ("router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "input_jitter_noise")

NO_EXPERT_BIASES: Table = {f"blocks.{{i}}.mlp.experts.b_{part}": None for part in ("gate", "in", "out")}


def experts_of(
    hf: Any, n_experts: int, d_expert: int, layers: tuple[bool, ...] | None = None, **more: Any
) -> ExpertsConfig:
    """Experts in all layers, or in the given ones, as many to a token as the config says by the usual name."""
    there, per_token = layers or (True,) * hf.num_hidden_layers, hf.num_experts_per_tok
    return ExpertsConfig(n_experts=n_experts, experts_per_token=per_token, d_expert=d_expert, layers=there, **more)


def in_every_layer(hf: Any, n_experts: int, **more: Any) -> ExpertsConfig:
    """Experts in all layers, each as wide as a dense MLP would be."""
    return experts_of(hf, n_experts, hf.intermediate_size, **more)


def but_the_first(hf: Any, n_dense: int) -> tuple[bool, ...]:
    """For each layer, whether it has experts where the first ones are dense."""
    return tuple(layer >= n_dense for layer in range(hf.num_hidden_layers))


def where_sparse(hf: Any) -> tuple[bool, ...]:
    """For each layer, whether `mlp_layer_types` gives it experts."""
    return tuple(kind == "sparse" for kind in hf.mlp_layer_types)


def expert_weights(router: str = "mlp.gate") -> Table:
    """Lines for the experts of a layer's `mlp`, and for their router."""
    return {
        **modules(router=router),
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{LAYER}.mlp.experts.gate_up_proj | e (two n) d -> two e d n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{LAYER}.mlp.experts.down_proj | e d n -> e n d",
        **NO_EXPERT_BIASES,
    }
