"""Grouped query attention as if every query head had keys and values of its own, and back.

    W_K [group, d_model, d_head]  --ungroup-->  W_K [head, d_model, d_head], each group's once for each of its heads

The model computes the same, but its hooks on keys and values, and edits of W_K and W_V, are then about single heads.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.block import TransformerBlock
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.weights import READER_PER_HEAD, parameter

GROUPED = ("W_K", "W_V", "b_K", "b_V")
SHOWN_PER_GROUP = ("hook_k", "hook_v", "hook_rot_k", "hook_k_input", "hook_v_input", "k_norm.", "v_norm.")


@no_gradients
def ungroup(blocks: Iterable[TransformerBlock]) -> None:
    """Give every query head a copy of its group's weights for keys and values."""
    for block in (block for block in blocks if block.attends):
        copies = block.heads // block.groups
        _change(block, block.heads, partial(torch.repeat_interleave, repeats=copies, dim=0))


@no_gradients
def regroup(blocks: Iterable[TransformerBlock], groups: int) -> None:
    """Let `groups` groups of query heads share keys and values again.

    Raises:
        BadInput: the weights of a group's heads are no longer alike; nothing is changed.
    """
    for layer, block in enumerate(blocks):
        for name, weight in _grouped(block):
            first, *others = weight.unflatten(0, (groups, -1)).unbind(1)
            if not all(torch.equal(first, other) for other in others):
                raise BadInput(f"the heads of a group differ in {name} of layer {layer}, so they cannot share it")
    for block in (block for block in blocks if block.attends):
        _change(block, groups, lambda weight: weight.unflatten(0, (groups, -1))[:, 0])


def _grouped(block: TransformerBlock) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a block whose first axis is the group."""
    if not block.attends:
        return []
    gains = [(name, weight) for name, weight in block.attn.named_parameters() if name in ("k_norm.w", "k_norm.b")]
    own = [(name, weight) for name, weight in block.attn.named_parameters(recurse=False) if name in GROUPED]
    return own + [(name, weight) for name, weight in gains if weight.ndim == 2]


def _change(block: TransformerBlock, count: int, change: Callable[[Tensor], Tensor]) -> None:
    for name, weight in _grouped(block):
        changed = change(weight)
        place = parameter(*changed.shape, lies=READER_PER_HEAD if changed.ndim == 3 else None)
        place = nn.Parameter(place.to(weight).copy_(changed), weight.requires_grad)
        parent, _, leaf = name.rpartition(".")
        setattr(block.attn.get_submodule(parent), leaf, place)
    for name, part in block.named_modules():
        if isinstance(part, HookPoint) and name.removeprefix("attn.").startswith(SHOWN_PER_GROUP):
            part.sizes["head"] = count
    attn: Any = block.attn
    norm = attn.k_norm
    if isinstance(norm, Norm) and len(norm.over) == 2:  # over all heads together, whose statistic is one
        norm.over = (count, norm.over[1])
        norm.hook_scale.sizes["head"] = 1
    attn.groups, attn.queries_per_key = count, block.heads // count
    if block.heads == count:
        block.hook_attn_in = HookPoint("batch pos head d_model", collected=False, **block.hook_q_input.sizes)
    else:
        del block.hook_attn_in
