"""Ungrouped attention computes the same, head by head, and goes back only while the copies are alike."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from tests.tiny import assert_close, build, our_logits, random_tokens

TOKENS = random_tokens(d_vocab=23)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotary, shared gain": dict(positional_embedding_type="rotary", qk_norm="shared", qk_norm_type="RMS"),
    "a gain for each head": dict(qk_norm="per_head", qk_norm_type="LN"),
    "all heads together": dict(qk_norm="all_heads", qk_norm_type="RMS"),
}


@pytest.fixture(params=KINDS)
def grouped(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(n_key_value_heads=2, **KINDS[request.param])


def keys_by_head(model: HookedTransformer) -> Tensor:
    _, cache = model.run_with_cache(TOKENS, names_filter="blocks.1.attn.hook_k")
    return cache["blocks.1.attn.hook_k"]


@torch.no_grad()
def test_the_same_function_with_every_head_apart(grouped: HookedTransformer) -> None:
    logits, keys = our_logits(grouped, TOKENS), keys_by_head(grouped)
    W_K, names = grouped.W_K, set(grouped.hook_dict)
    grouped.set_ungroup_grouped_query_attention(True)
    assert_close(our_logits(grouped, TOKENS), logits, 1e-12)  # float64, other kernels
    assert_close(keys_by_head(grouped), keys.repeat_interleave(2, dim=2), 1e-12)
    assert torch.equal(grouped.W_K, W_K)
    assert grouped.cfg.n_key_value_heads == 4
    assert set(grouped.hook_dict) - names == {f"blocks.{layer}.hook_attn_in" for layer in range(3)}
    _, cache = grouped.run_with_cache(TOKENS, names_filter=lambda name: True)
    for name, point in grouped.hook_dict.items():
        sizes = [point.sizes.get(axis, size) for axis, size in zip(point.axes, cache[name].shape, strict=True)]
        assert list(cache[name].shape) == sizes, name
    grouped.set_ungroup_grouped_query_attention(True)
    assert_close(our_logits(grouped, TOKENS), logits, 1e-12)


@torch.no_grad()
def test_and_back(grouped: HookedTransformer) -> None:
    logits, state, names = our_logits(grouped, TOKENS), grouped.state_dict(), list(grouped.hook_dict)
    grouped.set_ungroup_grouped_query_attention(False)
    grouped.set_ungroup_grouped_query_attention(True)
    grouped.set_ungroup_grouped_query_attention(False)
    assert grouped.cfg.n_key_value_heads == 2
    assert torch.equal(our_logits(grouped, TOKENS), logits)
    assert set(grouped.hook_dict) == set(names)
    for name, weight in grouped.state_dict().items():
        assert torch.equal(weight, state[name])
        assert weight.stride() == state[name].stride()


@torch.no_grad()
def test_one_head_can_be_changed_alone_and_is_then_not_merged(grouped: HookedTransformer) -> None:
    _, cache = grouped.run_with_cache(TOKENS)
    grouped.set_ungroup_grouped_query_attention(True)

    def zero_keys_of_head_1(k: Tensor, hook: Any) -> None:
        k[:, :, 1] = 0.0

    with grouped.hooks([("blocks.1.attn.hook_k", zero_keys_of_head_1)]):
        _, changed = grouped.run_with_cache(TOKENS)
    differs = [not torch.allclose(changed["z", 1][:, :, head], cache["z", 1][:, :, head]) for head in range(4)]
    if grouped.cfg.qk_norm != "all_heads":
        assert differs == [False, True, False, False]
    grouped.blocks[2].attn.W_V[3] *= 2.0
    logits = our_logits(grouped, TOKENS)
    with pytest.raises(BadInput, match="the heads of a group differ in W_V of layer 2"):
        grouped.set_ungroup_grouped_query_attention(False)
    assert torch.equal(our_logits(grouped, TOKENS), logits)
    assert grouped.cfg.n_key_value_heads == 4


def test_models_that_share_nothing_stay_as_they_are() -> None:
    model = build()
    state = model.state_dict()
    for ungrouped in (True, False):
        model.set_ungroup_grouped_query_attention(ungrouped)
        assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
