"""Where studies of attention end: layers that mix tokens by something else, and heads whose gates come after it."""

from typing import Any

from interp_hooks.errors import BadInput
from interp_hooks.model.components.block import TransformerBlock
from interp_hooks.model.transformer import HookedTransformer


def attention_of(model: HookedTransformer, layer: int) -> Any:
    """The attention of a layer.

    Raises:
        BadInput: something else stands in its place.
    """
    attend = [place for place, block in enumerate(model.blocks) if getattr(block, "attends", False)]
    if layer % model.cfg.n_layers not in attend:
        block = model.blocks[layer]
        kind = block.attn.kind if isinstance(block, TransformerBlock) else f"a {type(block).__name__}"
        others = f"layers {attend} have that" if attend else "no layer has that"
        raise BadInput(f"layer {layer} mixes tokens by {kind}, not by plain attention; {others}")
    return model.blocks[layer].attn


def makes_keys(model: HookedTransformer, layer: int) -> Any:
    """The attention of a layer that makes its own keys and values.

    Raises:
        BadInput: it has those of an earlier layer, or something else stands in its place.
    """
    attn = attention_of(model, layer)
    if (source := model.cfg.source_of_keys(layer)) is not None:
        raise BadInput(
            f"layer {layer} attends to the keys and values that layer {source} makes of the stream that enters there, "
            "and reads none itself"
        )
    return attn


def refuse_unweighted(model: HookedTransformer) -> None:
    """Raises BadInput unless what every head writes is a sum of values that its pattern weights."""
    for layer in range(model.cfg.n_layers):
        attention_of(model, layer)
    if model.cfg.gated_attn:
        raise BadInput(
            "gates multiply what this model's heads take from values (gated_attn), so that what they write is no sum "
            "of values that the pattern weights; patch z, attn_scores or pattern instead"
        )
