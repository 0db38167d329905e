"""What several families read in the same way."""

from collections.abc import Sequence
from typing import Any

ACTIVATION_NAMES = {"swish": "silu", "gelu_python": "gelu", "gelu_python_tanh": "gelu_new", "gelu_accurate": "gelu_new"}


def activation(name: str) -> str:
    """Our name of an activation that HuggingFace knows by several."""
    return ACTIVATION_NAMES.get(name, name)


def sizes(hf: Any) -> dict[str, int]:
    """The sizes of a model whose config calls them as most do."""
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_key_value_heads,
        d_head=head_width(hf),
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
    )


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


def head_width(hf: Any) -> int:
    """The width of a head, which many configs leave to be worked out."""
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def windows(hf: Any) -> tuple[int | None, ...]:
    """How far each layer sees, from `layer_types`."""
    size = hf.sliding_window
    return tuple(size if kind == "sliding_attention" else None for kind in hf.layer_types)


def rotary_where(rotates: Sequence[int], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of `rotary` for a model in which only some layers rotate."""
    rope = fields["rotary_scaling"] or {"rope_type": "default", "rope_theta": fields["rotary_base"]}
    return fields | dict(rotary_layers=tuple(rope if here else None for here in rotates))


def rotary_of_types(hf: Any) -> dict[str, Any]:
    """Rotary positions from `rope_parameters` that hold a mapping for each kind in `layer_types`."""
    kinds = {
        kind: dict(rope) | {"max_position_embeddings": hf.max_position_embeddings}
        for kind, rope in hf.rope_parameters.items()
    }
    return dict(
        positional_embedding_type="rotary",
        rotary_layers=tuple(kinds[kind] for kind in hf.layer_types),
    )
