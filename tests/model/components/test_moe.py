"""Routers by hand, experts where they are chosen against all of them, and what half precision leaves in float32."""

import math
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from interp_hooks.model.components.moe import MoE, Router
from interp_hooks.model.config import ExpertsConfig
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


# ----------------------------------------------------------------------------------------- one token, one expert a time


def routed_by_hand(logits: list[float], bias: list[float], fields: ExpertsConfig) -> dict[int, float]:
    """The weights of one token's experts, by sorting."""
    if fields.scores == "softmax":
        total = sum(math.exp(logit) for logit in logits)
        scores = [math.exp(logit) / total for logit in logits]
    else:
        scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    choice = [score + added for score, added in zip(scores, bias, strict=True)]
    size = fields.n_experts // fields.n_groups
    groups = [range(first, first + size) for first in range(0, fields.n_experts, size)]
    counted = 2 if fields.group_score == "top2" else 1
    groups.sort(
        key=lambda group: sum(sorted((choice[expert] for expert in group), reverse=True)[:counted]), reverse=True
    )
    allowed = [expert for group in groups[: fields.groups_kept] for expert in group]
    chosen = sorted(allowed, key=lambda expert: choice[expert], reverse=True)[: fields.experts_per_token]
    total = sum(scores[expert] for expert in chosen) if fields.normalize_weights else 1.0
    return {expert: scores[expert] / max(total, fields.min_weight_sum) * fields.weight_scale for expert in chosen}


def mlp_by_hand(
    x: Tensor, gate: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor]
) -> Tensor:
    """A gated MLP with GELU (its exact form), as the models of these tests have it."""
    pre = x @ gate[0] + gate[1]
    activated = pre * 0.5 * (1 + torch.erf(pre / math.sqrt(2)))
    return (activated * (x @ into[0] + into[1])) @ out[0] + out[1]


def token_by_hand(made: MoE, fields: ExpertsConfig, x: Tensor) -> Tensor:
    logits = (x @ made.W_router + made.b_router).tolist()
    bias = [0.0] * fields.n_experts if made.choice_bias is None else made.choice_bias.tolist()
    own, total = made.experts, torch.zeros_like(x)
    for expert, weight in routed_by_hand(logits, bias, fields).items():
        pairs = [(own.W_gate, own.b_gate), (own.W_in, own.b_in), (own.W_out, own.b_out)]
        total += weight * mlp_by_hand(x, *((matrix[expert], bias[expert]) for matrix, bias in pairs))
    if made.shared is not None:
        shared = made.shared
        out = mlp_by_hand(x, (shared.W_gate, shared.b_gate), (shared.W_in, shared.b_in), (shared.W_out, shared.b_out))
        total += out * (torch.sigmoid(x @ made.W_shared_gate + made.b_shared_gate) if fields.shared_gate else 1.0)
    return total


ROUTINGS: dict[str, dict[str, Any]] = {
    "softmax": dict(normalize_weights=False),
    "normalized": {},
    "scaled": dict(weight_scale=2.5, min_weight_sum=0.8),
    "all of them": dict(experts_per_token=6, normalize_weights=False),
    "one": dict(experts_per_token=1),
    "biased sigmoid in groups": dict(scores="sigmoid", biased_choice=True, n_groups=3, groups_kept=2, weight_scale=1.7),
    "best two of a group": dict(scores="sigmoid", biased_choice=True, n_groups=2, group_score="top2"),
    "shared": dict(d_shared=5),
    "gated shared": dict(d_shared=5, shared_gate=True, scores="sigmoid"),
}


@torch.no_grad()
@pytest.mark.parametrize("path", ["chosen experts alone", "all experts, which somebody watches"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_token_by_hand(routing: str, path: str) -> None:
    fields = experts(**ROUTINGS[routing])
    made = make(**ROUTINGS[routing])
    if path.startswith("all"):
        made.experts.hook_post.add_hook(lambda value, hook: None)
    assert_close(made(X), torch.stack([token_by_hand(made, fields, x) for x in X.flatten(0, 1)]).view_as(X), EXACT)


@torch.no_grad()
@pytest.mark.parametrize("watched", [False, True])
def test_editing_the_weights_sends_a_token_to_another_expert(watched: bool) -> None:
    """Exactly: its output is that of the other expert, and no other token's changes."""
    made = make()
    before = made(X)
    if watched:
        made.experts.hook_out.add_hook(lambda value, hook: None)
        assert_close(made(X), before, EXACT)

    def send(value: Tensor, hook: Any) -> None:
        value[1, 3] = 0.0
        value[1, 3, 5] = 1.0

    made.hook_expert_weights.add_hook(send)
    after, own = made(X), made.experts
    pairs = [(own.W_gate, own.b_gate), (own.W_in, own.b_in), (own.W_out, own.b_out)]
    expected = before.clone()
    expected[1, 3] = mlp_by_hand(X[1, 3], *((matrix[5], bias[5]) for matrix, bias in pairs))
    assert_close(after, expected, EXACT)


@torch.no_grad()
def test_editing_the_router_logits_routes_anew() -> None:
    """Raising one expert's logit chooses it for every token, and the weights are those of the edited logits."""
    made, seen = make(), {}
    for point in (made.hook_router_logits, made.hook_expert_weights):
        point.name = "logits" if point is made.hook_router_logits else "weights"

    def keep(value: Tensor, hook: Any) -> None:
        seen[hook.name] = value.clone()

    def raise_fourth(value: Tensor, hook: Any) -> None:
        value[..., 4] += 100.0

    made.hook_router_logits.add_hook(raise_fourth)
    made.hook_router_logits.add_hook(keep)
    made.hook_expert_weights.add_hook(keep)
    made(X)
    assert_close(seen["weights"][..., 4], torch.ones(2, 5, dtype=torch.float64), EXACT)
    assert torch.equal(seen["weights"], Router(experts())(seen["logits"], None))


@torch.no_grad()
def test_what_experts_write_sums_to_what_the_layer_writes() -> None:
    made, seen = make(d_shared=5, shared_gate=True), {}

    def keep(name: str) -> Any:
        return lambda value, hook: seen.update({name: value.clone()})

    made.experts.hook_out.add_hook(keep("experts"))
    made.hook_shared_out.add_hook(keep("shared"))
    made.hook_expert_weights.add_hook(keep("weights"))
    total = made(X)
    assert_close(seen["experts"].sum(2) + seen["shared"], total, EXACT)
    assert torch.equal(seen["experts"].ne(0).any(-1), seen["weights"].ne(0)), "an expert of weight zero writes nothing"


@pytest.mark.types
def test_a_weight_without_an_expert_axis_is_refused() -> None:
    """The axes that hooks and annotations name are those of the values."""
    made = make()
    with pytest.raises(jaxtyping.TypeCheckError):
        made.experts(X, torch.ones(2, 5, dtype=torch.float64))
    assert made.hook_router_logits.axes == made.hook_expert_weights.axes == ("batch", "pos", "expert")
    for point, last in ((made.experts.hook_pre, "neuron"), (made.experts.hook_out, "d_model")):
        assert point.axes == ("batch", "pos", "expert", last)
        assert point.sizes["expert"] == 6


@pytest.mark.parametrize("watched", [False, True])
def test_gradients_of_both_paths_are_those_by_hand(watched: bool) -> None:
    made, fields = make(d_shared=5), experts(d_shared=5)
    if watched:
        made.experts.hook_pre.add_hook(lambda value, hook: None)
    parts = [made.experts.W_in, made.experts.W_out, made.experts.b_gate]
    ours = torch.autograd.grad(made(X).square().sum(), parts)
    by_hand = torch.stack([token_by_hand(made, fields, x) for x in X.flatten(0, 1)]).square().sum()
    for mine, expected in zip(ours, torch.autograd.grad(by_hand, parts), strict=True):
        assert_close(mine, expected, EXACT)
