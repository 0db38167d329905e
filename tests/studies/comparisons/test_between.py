"""Activations of one model in the other: exact where the rest is the same; direct effects; the way between models."""

import copy

import pytest
import torch

from interp_hooks import HookedTransformer, LogitDiff, Loss, Result, evaluate
from interp_hooks.errors import BadInput
from interp_hooks.interventions import Run
from interp_hooks.studies import attribution_changes, cross_model_patch, direct_logit_attribution, interpolated
from tests.tiny import build, random_tokens

TOKENS = random_tokens(batch=3, pos=7, d_vocab=19)
METRIC = LogitDiff(torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))


def twins(block: int) -> tuple[HookedTransformer, HookedTransformer]:
    """Two models that differ in one block."""
    model, source = build(d_vocab=19), build(d_vocab=19, seed=1)
    twin = copy.deepcopy(model)
    twin.blocks[block].load_state_dict(source.blocks[block].state_dict())
    return model, twin


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_changed_block_is_found_by_patching(block: int) -> None:
    """After the block the stream of the other gives the other's scores; before it nothing changes."""
    for a, b in (twins(block), twins(block)[::-1]):
        after = cross_model_patch(a, b, TOKENS, METRIC, progress=False)
        before = cross_model_patch(a, b, TOKENS, METRIC, "resid_pre", progress=False)
        expected = torch.tensor([float(layer >= block) for layer in range(3)], dtype=torch.float64)
        torch.testing.assert_close(after.recovered_fraction, expected, rtol=0, atol=1e-12)
        assert abs(float(before.recovered_fraction[block])) < 1e-12
        assert before.baselines["model"].equal(evaluate(a, [Run(TOKENS)], METRIC)[0])
        assert before.baselines["other"].equal(evaluate(b, [Run(TOKENS)], METRIC)[0])


def test_logits_are_the_other_models() -> None:
    a, b = twins(1)
    loss = cross_model_patch(a, b, TOKENS, progress=False)
    assert loss.metric == Loss().name
    torch.testing.assert_close(loss.values[1], evaluate(b, [Run(TOKENS)], Loss())[0], rtol=1e-12, atol=1e-12)
    assert loss.values[0].equal(loss.baselines["model"])


def test_heads_and_positions_can_be_put_one_by_one() -> None:
    a, b = twins(1)
    heads = cross_model_patch(a, b, TOKENS, METRIC, "z", over=("layer", "head"), layers=[1], progress=False)
    assert heads.values.shape == (1, 4, 3)
    last = cross_model_patch(a, b, TOKENS, METRIC, over=("layer", "pos"), layers=[2], progress=False)
    assert float(last.recovered_fraction[0, -1]) == pytest.approx(1)
    assert not last.change[0, :-1].any()


def test_it_is_kept_and_run_again(tmp_path) -> None:
    a, b = twins(1)
    found = cross_model_patch(a, b, TOKENS, METRIC, progress=False)
    found.save(tmp_path / "patch", model=a)
    loaded = Result.load(tmp_path / "patch")
    assert loaded.table().equals(found.table())
    again = loaded.rerun(a, progress=False)
    assert again.values.equal(found.values)
    assert again.baselines["other"].equal(found.baselines["other"])


def test_direct_effects_are_subtracted() -> None:
    a, b = build(d_vocab=19), build(d_vocab=19, seed=1)
    answers = dict(answer=torch.tensor([1, 2, 3]), wrong=torch.tensor([4, 5, 6]))
    for unit in ("component", "head", "neuron"):
        found = attribution_changes(a, b, TOKENS, **answers, unit=unit)
        torch.testing.assert_close(found.values.sum(0), found.baselines["difference"], rtol=1e-9, atol=1e-9)
        scores = [evaluate(one, [Run(TOKENS)], METRIC)[0] for one in (a, b)]
        torch.testing.assert_close(found.baselines["difference"], scores[1] - scores[0], rtol=1e-9, atol=1e-9)
        single = direct_logit_attribution(b, TOKENS, *answers.values(), unit=unit)
        other = direct_logit_attribution(a, TOKENS, *answers.values(), unit=unit)
        torch.testing.assert_close(found.mean, (single.values - other.values).mean(-1))


def test_the_ends_of_the_way_are_the_models() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a, b = build(seed=0).to(dtype), build(seed=1).to(dtype)
        for alpha, end in ((0.0, a), (1.0, b)):
            made = interpolated(a, b, alpha)
            assert all(one.equal(end.get_parameter(name)) for name, one in made.named_parameters())
    a, b = build(seed=0), build(seed=1)
    kept = {name: one.clone() for name, one in a.named_parameters()}
    for alpha in (0.5, 3.0, -1.0):
        made = interpolated(a, b, alpha)
        for name, weight in made.named_parameters():
            torch.testing.assert_close(weight, kept[name] + alpha * (b.get_parameter(name) - kept[name]))
    assert all(one.equal(kept[name]) for name, one in a.named_parameters())


def test_what_cannot_be_put_there() -> None:
    a = build(d_vocab=19)
    with pytest.raises(BadInput, match="other vocabularies"):
        cross_model_patch(a, build(), TOKENS, METRIC, progress=False)
    with pytest.raises(BadInput, match="other parts"):
        attribution_changes(a, build(d_vocab=19, n_layers=2), TOKENS, torch.tensor([1]), None)
    with pytest.raises(BadInput, match="cannot patch"):
        cross_model_patch(a, build(d_vocab=19, d_model=16), TOKENS, METRIC, progress=False)
    with pytest.raises(BadInput, match=r"blocks\.2"):
        interpolated(a, build(d_vocab=19, n_layers=2), 0.5)
    with pytest.raises(BadInput, match="between which nothing lies"):
        interpolated(a, build(d_vocab=19, act_fn="relu"), 0.5)
    with pytest.raises(BadInput, match="finite"):
        interpolated(a, a, float("nan"))
