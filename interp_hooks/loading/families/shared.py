"""What several families read in the same way."""

from typing import Any

ACTIVATION_NAMES = {"swish": "silu", "gelu_python": "gelu", "gelu_python_tanh": "gelu_new", "gelu_accurate": "gelu_new"}


def activation(name: str) -> str:
    """Our name of an activation that HuggingFace knows by several."""
    return ACTIVATION_NAMES.get(name, name)


def rotary(hf: Any, d_head: int) -> dict[str, Any]:
    """Rotary positions from `rope_parameters`; scaled frequencies keep the mapping for HuggingFace's initialisers."""
    rope = dict(hf.rope_parameters)
    scaling = None
    if rope["rope_type"] != "default":
        scaling = rope | {"max_position_embeddings": hf.max_position_embeddings}
    return dict(
        positional_embedding_type="rotary",
        rotary_base=rope["rope_theta"],
        rotary_dim=int(d_head * rope.get("partial_rotary_factor", 1.0)),
        rotary_scaling=scaling,
    )
