"""Attention written out with loops, against both of its paths."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks.model.components.attention import Attention, Visibility
from interp_hooks.model.config import HookedTransformerConfig
from tests.tiny import assert_close, build, redraw

# The same sums of a dozen float64 numbers in another order.
EXACT = 1e-12
POSITIONS = torch.arange(5)[None]
X = torch.randn(3, 2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make(**fields: Any) -> tuple[Attention, HookedTransformerConfig]:
    cfg = build(**fields).cfg
    attention = Attention(cfg, layer=1).double()
    redraw(attention, std=0.5)
    return attention, cfg


def written(attn: Attention, *arguments: Any) -> Tensor:
    """What all heads add to the stream."""
    return attn.write(attn(*arguments))


def by_hand(attn: Attention, inputs: tuple[Tensor, Tensor, Tensor], causal: bool, real: Tensor, scale: float) -> Tensor:
    """One batch row, query and head at a time, from the definition."""
    x_q, x_k, x_v = inputs
    batch, length, d_model = x_q.shape
    out = attn.b_O.expand(batch, length, d_model).clone()
    per_group = len(attn.W_Q) // len(attn.W_K)
    for b in range(batch):
        for h in range(len(attn.W_Q)):
            g = h // per_group
            for i in range(length):
                seen = [j for j in range(length) if (j <= i or not causal) and (real[b, j] or j == i)]
                q = x_q[b, i] @ attn.W_Q[h] + attn.b_Q[h]
                scores = torch.stack([q @ (x_k[b, j] @ attn.W_K[g] + attn.b_K[g]) / scale for j in seen])
                values = torch.stack([x_v[b, j] @ attn.W_V[g] + attn.b_V[g] for j in seen])
                out[b, i] += (scores.softmax(0)[:, None] * values).sum(0) @ attn.W_O[h]
    return out


MASKS = {
    "nothing padded": None,
    "left": torch.tensor([[True] * 5, [False, False, True, True, True]]),
    "right": torch.tensor([[True] * 5, [True, True, False, False, False]]),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@torch.no_grad()
def test_both_paths_are_the_definition(groups: int, direction: str, mask: str) -> None:
    real = MASKS[mask]
    attn, cfg = make(n_key_value_heads=groups, attention_dir=direction, attn_scale=1.7)
    visibility = Visibility(5, 5, direction == "causal", real, POSITIONS)
    inputs = (X[0], X[1], X[2])
    everything = torch.ones(2, 5, dtype=torch.bool)
    expected = by_hand(attn, inputs, direction == "causal", everything if real is None else real, cfg.attn_scale)
    assert_close(written(attn, inputs, None, visibility), expected, EXACT)
    for point in (attn.hook_pattern, attn.hook_attn_scores, attn.hook_result):
        handle = point.add_hook(lambda value, hook: None)
        assert_close(written(attn, inputs, None, visibility), expected, EXACT)
        handle.remove()


@torch.no_grad()
def test_the_layer_may_scale_the_scores() -> None:
    attn, cfg = make(scale_attn_by_inverse_layer_idx=True)
    expected = by_hand(attn, (X[0],) * 3, True, torch.ones(2, 5, dtype=torch.bool), 2 * cfg.d_head**0.5)
    assert_close(written(attn, (X[0],) * 3, None, Visibility(5, 5, True, None, POSITIONS)), expected, EXACT)


@torch.no_grad()
def test_one_stream_per_head_is_that_heads_input() -> None:
    attn, _ = make(n_key_value_heads=2)
    visibility = Visibility(5, 5, True, None, POSITIONS)
    shared = written(attn, (X[0],) * 3, None, visibility)
    apart = tuple(X[0][:, :, None].expand(-1, -1, heads, -1) for heads in (4, 2, 2))
    assert_close(written(attn, apart, None, visibility), shared, EXACT)
    zeroed = apart[0].clone()
    zeroed[:, :, 2] = 0
    seen: list[Tensor] = []
    attn.hook_q.add_hook(lambda value, hook: seen.append(value))
    written(attn, (zeroed, *apart[1:]), None, visibility)
    written(attn, apart, None, visibility)
    assert torch.equal(seen[0][:, :, 2], attn.b_Q[2].expand(2, 5, 4))
    assert torch.equal(seen[0][:, :, :2], seen[1][:, :, :2])


def test_a_padding_query_sees_only_itself() -> None:
    dense = Visibility(5, 5, True, MASKS["left"], POSITIONS).dense
    assert list(dense.shape) == [2, 1, 5, 5]
    assert dense[1, 0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_the_mask_is_made_once() -> None:
    visibility = Visibility(5, 5, True, None, POSITIONS)
    assert visibility.dense is visibility.dense
    assert torch.equal(visibility.dense[0, 0], torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_is_a_distance(causal: bool) -> None:
    """So many tokens back, itself included; and as many ahead where those are seen."""
    positions = torch.arange(7)[None]
    seen = Visibility(7, 7, causal, None, positions).mask(3)[0, 0]
    for query in range(7):
        for key in range(7):
            assert seen[query, key] == (0 <= query - key < 3 if causal else abs(query - key) < 3)
