"""Routers by hand, experts where they are chosen against all of them, and what half precision leaves in float32."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks.components.moe import MoE, Router
from interp_hooks.config import ExpertsConfig
from tests.tiny import assert_close, build, redraw

# Sums of a dozen float64 numbers in another order.
EXACT = 1e-12
X = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LOGITS = torch.tensor([[0.1, 2.0, 1.9, -1.0, 1.0, 0.9]], dtype=torch.float64)


def experts(**fields: Any) -> ExpertsConfig:
    return ExpertsConfig(**dict(n_experts=6, experts_per_token=2, d_expert=7, layers=(True,) * 3) | fields)


def weights(choice_bias: Tensor | None = None, **fields: Any) -> dict[int, float]:
    """What each expert that is chosen for `LOGITS` weighs."""
    routed = Router(experts(**fields))(LOGITS, choice_bias)[0]
    return {expert: float(routed[expert]) for expert in routed.nonzero()[:, 0].tolist()}


def make(**fields: Any) -> MoE:
    cfg = build(gated_mlp=True, experts=experts(**fields)).cfg
    made = MoE(cfg, experts(**fields)).double()
    redraw(made)
    return made


def test_the_best_are_kept_normalized_and_scaled() -> None:
    softmax = LOGITS.softmax(-1)[0].tolist()
    best = softmax[1] + softmax[2]
    assert weights(normalize_weights=False) == pytest.approx({1: softmax[1], 2: softmax[2]})
    assert weights() == pytest.approx({1: softmax[1] / best, 2: softmax[2] / best})
    assert weights(weight_scale=3.0) == pytest.approx({1: 3 * softmax[1] / best, 2: 3 * softmax[2] / best})
    assert weights(min_weight_sum=2.0) == pytest.approx({1: softmax[1] / 2, 2: softmax[2] / 2})


def test_a_choice_bias_counts_for_the_choice_alone() -> None:
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0, 0.0])
    sigmoid = LOGITS.sigmoid()[0].tolist()
    assert weights(bias, scores="sigmoid", normalize_weights=False) == pytest.approx({1: sigmoid[1], 3: sigmoid[3]})


@pytest.mark.parametrize(("group_score", "chosen"), [("max", {0, 1}), ("top2", {4, 5})])
def test_only_the_best_groups_are_searched(group_score: str, chosen: set[int]) -> None:
    """The groups are (0, 1), (2, 3) and (4, 5): one has the best expert, another the best two."""
    logits = torch.tensor([[0.1, 2.0, 1.0, -1.0, 1.9, 1.8]], dtype=torch.float64)
    routed = Router(experts(scores="sigmoid", n_groups=3, group_score=group_score))(logits, None)[0]
    assert set(routed.nonzero()[:, 0].tolist()) == chosen


def test_the_sparse_mixer_compares_with_what_is_nearly_as_good() -> None:
    """Within 2 * 0.05 of 2.0 lies 1.9, and of 1.9 nobody that is left; within 2 * 0.3 lie all above 0.8, then 0.76."""
    assert weights(scores="sparsemixer", jitter=0.05) == pytest.approx({1: 1 / (1 + math.exp(-0.1)), 2: 1.0})
    first, second = LOGITS[0, [1, 2, 4, 5]].softmax(-1), LOGITS[0, [2, 4, 5]].softmax(-1)
    assert weights(scores="sparsemixer", jitter=0.3) == pytest.approx({1: float(first[0]), 2: float(second[0])})


@pytest.mark.parametrize("fields", [{}, dict(scores="sigmoid", n_groups=2), dict(d_shared=4, shared_gate=True)])
@torch.no_grad()
def test_what_is_computed_only_where_chosen_is_what_all_compute(fields: dict[str, Any]) -> None:
    made, seen = make(**fields), []
    chosen = made(X)
    made.experts.hook_out.add_hook(lambda value, hook: seen.append(value))
    assert_close(made(X), chosen, EXACT)
    assert list(seen[0].shape) == [2, 5, 6, 12]
    assert torch.equal(seen[0].ne(0).any(-1).sum(-1), torch.full((2, 5), 2)), "the others weigh nothing"


@torch.no_grad()
def test_half_precision_leaves_the_choice_in_float32() -> None:
    made = make(biased_choice=True, precise_router=True).float()
    assert made.choice_bias is not None
    exact, logits = made.choice_bias.clone(), []
    half = made.to(torch.bfloat16)
    assert half.choice_bias is not None
    assert torch.equal(half.choice_bias, exact)
    half.hook_router_logits.add_hook(lambda value, hook: logits.append(value))
    assert half(X.bfloat16()).dtype == half.W_router.dtype == torch.bfloat16
    assert logits[0].dtype == torch.float32
    assert_close(logits[0], X.bfloat16().float() @ half.W_router.float() + half.b_router.float(), 1e-6)
