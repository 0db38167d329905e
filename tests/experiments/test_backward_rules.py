"""Rules of the backward pass: what they hold, that parts then sum to the whole, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    LogitDiff,
    attribution_patch,
    attribution_patches,
    eap,
    gradient_x_input,
    patch,
)
from interp_hooks.errors import BadInput
from tests.experiments.split import split
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

TOKENS, OTHER = (random_tokens(batch=3, pos=6, d_vocab=19, seed=seed) for seed in (1, 2))
ANSWERS = LogitDiff([3, 1, 4], [9, 2, 6])
GATED = dict(
    normalization_type="RMS", gated_mlp=True, act_fn="silu", positional_embedding_type="rotary", n_key_value_heads=2
)
SHAPES: dict[str, dict[str, Any]] = {
    "gated": GATED,
    "plain": dict(normalization_type="LN"),
    "normalized neurons": dict(act_fn="solu_ln"),
    "attention only": dict(attn_only=True),
    "normalized queries": GATED | dict(qk_norm="per_head", qk_norm_type="RMS"),
    "norms of outputs": GATED | dict(norm_placement="pre_and_output", residual_scale=0.5),
}


def without_biases(**fields: Any) -> HookedTransformer:
    model = build(eps=1e-300, **fields)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rpartition(".")[2].startswith("b"):
                weight.zero_()
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_sum_to_any_logit_of_a_model_without_biases(shape: str) -> None:
    model = without_biases(**SHAPES[shape])
    for token in (0, 7):

        def logit(logits: Tensor, token: int = token) -> Tensor:
            return logits[:, -1, token]

        def total(rules: Any) -> Tensor:
            return gradient_x_input(model, TOKENS, logit, "blocks.0.hook_resid_pre", over=(), rules=rules).values

        said = model(TOKENS).detach()[:, -1, token]
        for rules in ("relp_attention", "detached"):
            assert_close(total(rules), said, 1e-12)
        for rules in (None, "relp"):
            assert float((total(rules) - said).abs().max()) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_from_the_input_and_those_to_the_logits_sum_to_the_metric(shape: str) -> None:
    """Each reader of attention has a norm of its own there."""
    model = without_biases(**SHAPES[shape])
    said = float(ANSWERS(model(TOKENS).detach()).mean())
    sums = {}
    for rules in (None, "detached"):
        scores = eap(model, TOKENS, None, ANSWERS, ablation="zero", rules=rules).scores
        sums[rules] = [sum(score for edge, score in scores.items() if edge[side] == end) for side, end in ENDS]
    assert sums["detached"] == pytest.approx([said, said], rel=1e-9)
    assert sums[None] != pytest.approx([said, said], rel=1e-3)


ENDS = ((0, "input"), (1, "logits"))


def by_hand(model: HookedTransformer, stream: Tensor, rules: str) -> Tensor:
    """The logits of a gated model of one layer without biases, with whatever the rules hold detached."""
    attn: Any = model.blocks[0].attn
    mlp: Any = model.blocks[0].mlp

    def normed(x: Tensor, gain: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt().detach() * gain

    x = normed(stream, model.blocks[0].ln1.w)
    q, k, v = (torch.einsum("bpd,hdk->bhpk", x, weight) for weight in (attn.W_Q, attn.W_K, attn.W_V))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    pattern = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -torch.inf).softmax(-1)
    pattern = pattern if rules == "relp" else pattern.detach()
    stream = stream + torch.einsum("bhqk,bhkd,hdm->bqm", pattern, v, attn.W_O)
    x = normed(stream, model.blocks[0].ln2.w)
    gate, linear = x @ mlp.W_gate, x @ mlp.W_in
    activated = gate * torch.sigmoid(gate).detach()  # silu
    assert torch.allclose(activated, F.silu(gate))
    if rules == "detached":
        post = activated.detach() * linear
    else:
        post = (activated * linear.detach() + activated.detach() * linear) / 2
    return normed(stream + post @ mlp.W_out, model.ln_final.w) @ model.W_U


@pytest.mark.parametrize("rules", ["relp", "relp_attention", "detached"])
def test_gradients_are_those_of_a_model_in_which_these_parts_are_held(rules: Any) -> None:
    model = without_biases(**GATED | dict(n_layers=1, n_key_value_heads=None, positional_embedding_type="none"))
    stream = model.embed(TOKENS).detach().requires_grad_()
    scores = ANSWERS(by_hand(model, stream, rules))
    (gradient,) = torch.autograd.grad(scores.sum(), stream)
    ours = gradient_x_input(model, TOKENS, ANSWERS, "blocks.0.hook_resid_pre", over=("pos",), rules=rules)
    assert_close(ours.baselines["original"], scores.detach(), 1e-12)
    assert_close(ours.values, (gradient * stream).sum(-1).T.detach(), 1e-10)


def test_where_all_is_linear_estimates_are_exact() -> None:
    """Without norms, in a model whose MLPs are all there is, each half of a product says half of what it does."""
    model = build(normalization_type=None, n_layers=1, gated_mlp=True, act_fn="silu")
    truth = patch(model, TOKENS, OTHER, ANSWERS, "mlp_out", over=("layer", "pos"), progress=False)
    for rules in ("relp", "detached"):
        found = attribution_patch(model, TOKENS, OTHER, ANSWERS, "mlp_out", over=("layer", "pos"), rules=rules)
        assert_close(found.change, truth.change, 1e-9)


# -------------------------------------------------------------------------------------------------------------- steps


def test_steps_sum_to_the_difference_of_both_runs() -> None:
    model = build()
    found = attribution_patch(
        model, TOKENS, OTHER, ANSWERS, "resid_pre", over=("layer", "pos"), layers=[0], steps=64, progress=False
    )
    clean, corrupt = found.baselines["clean"], found.baselines["corrupt"]
    assert_close((found.values - corrupt).sum((0, 1)), clean - corrupt, 1e-3)
    plain = attribution_patch(model, TOKENS, OTHER, ANSWERS, "resid_pre", over=("layer", "pos"), layers=[0])
    assert float(((plain.values - corrupt).sum((0, 1)) - (clean - corrupt)).abs().max()) > 1e-2


def test_steps_take_the_mean_gradient_on_the_way() -> None:
    model, steps = build(), 3
    streams, values = [], []
    for tokens in (OTHER, TOKENS):
        _, cache = model.run_with_cache(tokens, names_filter=["resid_pre0", "z1"])
        streams.append(cache["resid_pre", 0].detach())
        values.append(cache["z", 1].detach())
    gradient = torch.zeros_like(values[0])
    for step in range(steps):
        there = streams[0] + (step + 0.5) / steps * (streams[1] - streams[0])

        def moved(value: Tensor, hook: Any, there: Tensor = there) -> Tensor:
            return there

        kept: list[Tensor] = []

        def keep(value: Tensor, hook: Any, kept: list[Tensor] = kept) -> None:
            kept.append(value)

        logits = model.run_with_hooks(OTHER, fwd_hooks=[("resid_pre0", moved), ("z1", keep)])
        gradient += torch.autograd.grad(ANSWERS(logits).sum(), kept)[0] / steps
    expected = (gradient * (values[1] - values[0])).sum((1, 3)).T
    found = attribution_patch(model, TOKENS, OTHER, ANSWERS, "z", layers=[1], steps=steps, progress=False)
    assert_close(found.values[0] - found.baselines["corrupt"], expected, 1e-9)


OPTIONS = [dict(steps=2), dict(rules="relp"), dict(steps=2, rules="relp"), dict(qk_fix=True, steps=2)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prompts_one_by_one_give_what_all_give(options: dict[str, Any]) -> None:
    model = build()
    sites = {"z": ("layer", "head"), "q": ("layer", "head", "pos"), "resid_post": ("pos", "layer")}
    whole = attribution_patches(model, TOKENS, OTHER, ANSWERS, sites, progress=False, **options)
    ours = split(
        model,
        lambda: attribution_patches(model, TOKENS, OTHER, ANSWERS, sites, progress=False, max_memory=1, **options),
    )
    for site in sites:
        assert_close(ours[site].values, whole[site].values, 1e-9)


# -------------------------------------------------------------------------------------------------------- bad input


def test_what_is_refused() -> None:
    model, experts = build(), build(**CUSTOM["experts"])
    wrong: Any = "rlep"
    for call, message in (
        (
            lambda: gradient_x_input(experts, TOKENS, ANSWERS, rules="relp"),
            "no backward rules for exp",
        ),
        (lambda: attribution_patch(model, TOKENS, OTHER, ANSWERS, "q", rules="detached"), "'q' acts through patterns"),
        (lambda: attribution_patch(model, TOKENS, OTHER, ANSWERS, grad_drop=True, steps=2), "choose one"),
        (lambda: attribution_patch(model, TOKENS, OTHER, ANSWERS, steps=0), "steps must be at least 1"),
        (lambda: attribution_patch(model, TOKENS, OTHER, ANSWERS, rules=wrong), "rules must be"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
    assert not any(point.hooked for point in model.hook_points())
