"""Dictionaries of the MLP's input after the norm's gain are the same features of what the gain multiplies."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookPoint
from interp_hooks.dictionaries import CrossLayerTranscoder, adapted
from interp_hooks.errors import BadInput, UnknownHook
from tests.dictionaries.random_ones import sae, transcoder
from tests.tiny import assert_close, build, random_tokens

TOKENS = random_tokens(d_vocab=23)


def mlp_input(model: Any, layer: int) -> Tensor:
    """What the MLP of a layer is given, as the module shows it to torch's own hooks."""
    found: list[Tensor] = []
    handle = model.blocks[layer].mlp.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    model(TOKENS)
    handle.remove()
    return found[0]


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, dict(normalization_type="RMS", norm_gain_offset=1.0)])
def test_the_gain_is_folded_in(fields: dict[str, Any]) -> None:
    model = build(**fields)
    each = [
        dataclasses.replace(transcoder(layer=layer, seed=layer), hook_in=f"blocks.{layer}.mlp.hook_in")
        for layer in range(3)
    ]
    x = [mlp_input(model, layer) for layer in range(3)]
    read: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        read[hook.name] = value

    model.run_with_hooks(TOKENS, fwd_hooks=[(f"blocks.{layer}.ln2.hook_normalized", keep) for layer in range(3)])
    for layer, one in enumerate(each):
        here = adapted(one, model)
        assert here.hook_in == f"blocks.{layer}.ln2.hook_normalized"
        assert_close(here.encode(read[here.hook_in]), one.encode(x[layer]), 1e-9)
        assert_close(here(read[here.hook_in]), one(x[layer]), 1e-9)
    several = CrossLayerTranscoder.of(each)
    here = adapted(several, model)
    stacked = torch.stack([read[hook] for hook in here.hooks_in], 2)
    assert_close(here(stacked), several(torch.stack(x, 2)), 1e-9)
    here.refuse_unfit(model)
    with pytest.raises(UnknownHook, match="hook_in"):
        several.refuse_unfit(model)


def test_others_are_left_or_refused() -> None:
    model, one = build(), transcoder()
    assert adapted(one, model) is one
    folded = build(normalization_type="LNPre")
    theirs = dataclasses.replace(one, hook_in="blocks.1.mlp.hook_in")
    with pytest.raises(BadInput, match="fold_ln=False"):
        adapted(theirs, folded)
    with pytest.raises(BadInput, match="would have to write there"):
        adapted(sae(hook="blocks.1.mlp.hook_in"), model)
