"""What many families have in common: fields of configs that name them as most do, and lines of tables for modules."""

from collections.abc import Sequence
from typing import Any

from interp_hooks.errors import nearest
from interp_hooks.loading.rules import Table

ACTIVATION_NAMES = {"swish": "silu", "gelu_python": "gelu", "gelu_python_tanh": "gelu_new", "gelu_accurate": "gelu_new"}
# Settings that no family reads: of a head that classifies; and old names, which transformers moves to rope_parameters.
SUMMARY = tuple(f"summary_{what}" for what in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout"))
OLDER_ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor")
QK_RMS: dict[str, Any] = dict(qk_norm="shared", qk_norm_type="RMS")
QK_LN: dict[str, Any] = dict(qk_norm="shared", qk_norm_type="LN")

# ----------------------------------------------------------------------------------------------------------- configs


def basics(hf: Any, *, act_fn: str, eps: float) -> dict[str, Any]:
    """The fields that every model has; transformers translates these four names where a config has others."""
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        d_vocab=hf.vocab_size,
        act_fn=ACTIVATION_NAMES.get(act_fn, act_fn),
        eps=eps,
    )


def llama_like(hf: Any, *, act_fn: str, eps: float) -> dict[str, Any]:
    """The fields of a rotary decoder whose config calls everything as Llama's does."""
    return basics(hf, act_fn=act_fn, eps=eps) | dict(
        n_key_value_heads=hf.num_key_value_heads,
        d_head=head_width(hf),
        d_mlp=getattr(hf, "intermediate_size", 0),  # absent where all layers have experts
        n_ctx=hf.max_position_embeddings,
        **rotary(hf, head_width(hf)),
    )


def head_width(hf: Any) -> int:
    """The width of a head; where a config does not give it, the heads share the width of the stream."""
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def rotary(hf: Any, d_head: int) -> dict[str, Any]:
    """Rotary positions from `rope_parameters`: one mapping for all layers, or one (or None) for each layer type.

    Mappings are kept whole where frequencies are scaled: transformers' own functions compute the frequencies from them.
    """
    rope, longest = dict(hf.rope_parameters), getattr(hf, "max_position_embeddings", None)
    context = {} if longest is None else {"max_position_embeddings": longest}
    if "rope_type" not in rope:
        layers = tuple(None if rope[kind] is None else dict(rope[kind]) | context for kind in hf.layer_types)
        return dict(positional_embedding_type="rotary", rotary_layers=layers)
    return dict(
        positional_embedding_type="rotary",
        rotary_base=rope["rope_theta"],
        rotary_dim=int(d_head * rope.get("partial_rotary_factor", 1.0)),
        rotary_scaling=None if rope["rope_type"] == "default" else rope | context,
    )


def rotary_where(rotates: Sequence[int | None], fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields for a model in which only some layers rotate: those whose entry in `rotates` is true."""
    rope = fields["rotary_scaling"] or {"rope_type": "default", "rope_theta": fields["rotary_base"]}
    return fields | dict(rotary_layers=tuple(rope if here else None for here in rotates))


def windows(hf: Any) -> tuple[int | None, ...]:
    """How many tokens each layer sees, from `layer_types`; None for all."""
    size = hf.sliding_window
    return tuple(size if kind == "sliding_attention" else None for kind in hf.layer_types)


def window_everywhere(hf: Any) -> tuple[int | None, ...]:
    """The same for a model all of whose layers have a window, or none has."""
    return (hf.sliding_window,) * hf.num_hidden_layers


# ------------------------------------------------------------------------------------------------------------ tables

LAYER = "model.layers.{i}"  # where Llama, and most who came after, keep their layers

_QKV = [", ".join(f"blocks.{{i}}.attn.{leaf}_{part}" for part in "QKV") for leaf in "Wb"]

# What a module of theirs holds: our weight and our bias, and the pattern that makes each from theirs.
_HOLDS: dict[str, tuple[str, ...]] = {
    "embed": ("embed.W_E",),
    "pos_embed": ("pos_embed.W_pos",),
    "token_type_embed": ("token_type_embed.W_token_type",),
    "ln_embed": ("ln_embed.w", "ln_embed.b"),
    "embed_map": ("embed_map.W | d embedded -> embedded d", "embed_map.b"),
    "ln_final": ("ln_final.w", "ln_final.b"),
    "mlm_dense": ("mlm_head.W | read written -> written read", "mlm_head.b"),
    "mlm_ln": ("mlm_head.ln.w", "mlm_head.ln.b"),
    "unembed": ("unembed.W_U | v d -> d v", "unembed.b_U"),
    **{ln: (f"blocks.{{i}}.{ln}.w", f"blocks.{{i}}.{ln}.b") for ln in ("ln1", "ln1_post", "ln2", "ln2_post")},
    **{norm: (f"blocks.{{i}}.attn.{norm}.w", f"blocks.{{i}}.attn.{norm}.b") for norm in ("q_norm", "k_norm")},
    "q": ("blocks.{i}.attn.W_Q | (h k) d -> h d k", "blocks.{i}.attn.b_Q | (h k) -> h k"),
    "k": ("blocks.{i}.attn.W_K | (g k) d -> g d k", "blocks.{i}.attn.b_K | (g k) -> g k"),
    "v": ("blocks.{i}.attn.W_V | (g k) d -> g d k", "blocks.{i}.attn.b_V | (g k) -> g k"),
    "o": ("blocks.{i}.attn.W_O | d (h k) -> h k d", "blocks.{i}.attn.b_O"),
    "qkv": (f"{_QKV[0]} | (heads k) d -> heads d k | h g g", f"{_QKV[1]} | (heads k) -> heads k | h g g"),
    "qkv_by_group": (
        f"{_QKV[0]} | (g x k) d -> x g k d | q 1 1 | x g k d -> (g x) d k",
        f"{_QKV[1]} | (g x k) -> x g k | q 1 1 | x g k -> (g x) k",
    ),
    "gate": ("blocks.{i}.mlp.W_gate | m d -> d m", "blocks.{i}.mlp.b_gate"),
    "up": ("blocks.{i}.mlp.W_in | m d -> d m", "blocks.{i}.mlp.b_in"),
    "gate_up": (
        "blocks.{i}.mlp.W_gate, blocks.{i}.mlp.W_in | (two m) d -> two d m",
        "blocks.{i}.mlp.b_gate, blocks.{i}.mlp.b_in | (two m) -> two m",
    ),
    "down": ("blocks.{i}.mlp.W_out | d m -> m d", "blocks.{i}.mlp.b_out"),
    "router": ("blocks.{i}.mlp.W_router | e d -> d e", "blocks.{i}.mlp.b_router"),
    "shared_gate": ("blocks.{i}.mlp.shared.W_gate | s d -> d s", "blocks.{i}.mlp.shared.b_gate"),
    "shared_up": ("blocks.{i}.mlp.shared.W_in | s d -> d s", "blocks.{i}.mlp.shared.b_in"),
    "shared_gate_up": (
        "blocks.{i}.mlp.shared.W_gate, blocks.{i}.mlp.shared.W_in | (two s) d -> two d s",
        "blocks.{i}.mlp.shared.b_gate, blocks.{i}.mlp.shared.b_in | (two s) -> two s",
    ),
    "shared_down": ("blocks.{i}.mlp.shared.W_out | d s -> s d", "blocks.{i}.mlp.shared.b_out"),
}


def modules(layer: str = LAYER, **named: str) -> Table:
    """The lines of a table for modules of theirs, each a linear map, a norm or an embedding: a weight and maybe a bias.

    A keyword says what the module is, its value what they call it (within `layer`, if it is a part of one; "a or b" if
    it has had two names):

        embed, pos_embed, token_type_embed, ln_embed, embed_map     before the layers
        ln_final, mlm_dense, mlm_ln, unembed             after them
        ln1, ln2, ln1_post, ln2_post                     norms of what attention and MLP read, and of what they write
        q, k, v, o, q_norm, k_norm                       attention
        qkv, qkv_by_group                                one matrix: all queries, then all keys, then all values; or the
                                                         queries, key and value of a head (or group) side by side
        gate, up, down, gate_up                          the MLP; gate and up in one matrix
        router, shared_gate, shared_up, ...              of a mixture of experts; the MLP that every token passes

    Linear maps are stored as nn.Linear stores them. `|` with a table of rules puts others in their place.
    """
    table: Table = {}
    for what, names in named.items():
        if what not in _HOLDS:
            raise ValueError(f"no module is called {what!r} here.{nearest(what, _HOLDS)}")
        for line, leaf in zip(_HOLDS[what], ("weight", "bias?"), strict=False):  # an embedding holds no bias
            ours, *pattern = line.split(" | ", 1)
            within = f"{layer}." if ours.startswith("blocks.") else ""
            theirs = " or ".join(f"{within}{name}.{leaf}" for name in names.split(" or "))
            table[ours] = " | ".join([theirs, *pattern])
    return table
