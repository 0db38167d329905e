"""Differences of activations: against sums over caches, with planted differences, and for every split of a corpus."""

import copy

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import (
    Lens,
    activation_changes,
    difference_tokens,
    mean_difference,
    pattern_changes,
    tokens_of,
)
from tests.tiny import build, random_tokens

TOKENS = random_tokens(batch=5, pos=8, d_vocab=23)
QUIET = dict(progress=False, exclude=())


def value(result, *cell: object) -> float:
    index = [list(labels).index(label) for labels, label in zip(result.axes.values(), cell, strict=True)]
    return float(result.mean[tuple(index)])


@pytest.fixture(scope="module")
def pair() -> tuple[HookedTransformer, HookedTransformer]:
    return build(seed=0), build(seed=1)


def test_measures_are_those_of_the_caches(pair) -> None:
    found = activation_changes(*pair, TOKENS, hooks=["resid_mid", "z"], **QUIET)
    caches = [model.run_with_cache(TOKENS)[1] for model in pair]
    for layer in range(3):
        for hook in ("resid_mid", "z"):
            x, y = (cache[hook, layer].flatten(0, 1).flatten(1) for cache in caches)
            n, root = len(x), x.norm() / len(x) ** 0.5
            assert value(found, layer, hook, "relative_difference") == pytest.approx(float((y - x).norm() / x.norm()))
            assert value(found, layer, hook, "norm_ratio") == pytest.approx(float(y.norm() / x.norm()))
            assert value(found, layer, hook, "mean_difference") == pytest.approx(float((y - x).mean(0).norm() / root))
            cosine = torch.cosine_similarity(x, y, dim=-1).mean()
            assert value(found, layer, hook, "cosine") == pytest.approx(float(cosine))
            centred = [(one - one.mean(0)).flatten() for one in (x, y)]
            expected = float(torch.cosine_similarity(*centred, dim=0))
            assert value(found, layer, hook, "centred_cosine") == pytest.approx(expected)
            assert n == TOKENS.numel()


def test_no_split_of_a_corpus_changes_a_bit(pair) -> None:
    corpus = list(TOKENS)
    one = activation_changes(*pair, corpus, per_batch=1, **QUIET)
    other = activation_changes(*pair, corpus, per_batch=5, tokens_at_once=8, **QUIET)
    assert torch.allclose(one.values, other.values, rtol=1e-12, atol=0)


def test_patterns_are_as_far_apart_as_the_caches_say(pair) -> None:
    found = pattern_changes(*pair, TOKENS, **QUIET)
    caches = [model.run_with_cache(TOKENS)[1] for model in pair]
    for layer in range(3):
        a, b = (cache["pattern", layer] for cache in caches)
        expected = (a - b).abs().sum(-1).mean((0, 2)) / 2
        torch.testing.assert_close(found.mean[layer], expected.detach())
    later = pattern_changes(*pair, TOKENS, exclude=("first",), progress=False)
    torch.testing.assert_close(later.mean[2], (a - b).abs().sum(-1)[:, :, 1:].mean((0, 2)).detach() / 2)
    assert not pattern_changes(pair[0], pair[0], TOKENS, **QUIET).mean.any()


def test_a_model_beside_itself(pair) -> None:
    found = activation_changes(pair[0], pair[0], TOKENS, **QUIET)
    assert not found.mean[..., :2].any()
    torch.testing.assert_close(found.mean[..., 2:], torch.ones_like(found.mean[..., 2:]))


def test_a_changed_block_shows_from_its_layer_on(pair) -> None:
    twin = copy.deepcopy(pair[0])
    twin.blocks[1].load_state_dict(pair[1].blocks[1].state_dict())
    found = activation_changes(pair[0], twin, TOKENS, hooks=["resid_post"], **QUIET).mean[:, 0, 0]
    assert found[0] == 0
    assert bool((found[1:] > 0.1).all())


def test_a_planted_bias_is_the_mean_difference_at_its_layer() -> None:
    model, twin = build(), build()
    planted = torch.randn(12, dtype=torch.float64)
    with torch.no_grad():
        twin.blocks[1].mlp.b_out += planted
    found = mean_difference(model, twin, TOKENS, first=3, progress=False)
    assert not found.mean[0].any()
    torch.testing.assert_close(found.mean[1], planted.expand(3, -1), rtol=1e-12, atol=1e-13)
    caches = [one.run_with_cache(TOKENS)[1]["resid_post", 2] for one in (model, twin)]
    torch.testing.assert_close(found.mean[2], (caches[1] - caches[0]).mean(0)[:3].detach(), rtol=1e-10, atol=1e-12)

    table = difference_tokens(model, found, k=2)
    expected = tokens_of(model, planted, k=2)
    rows = table[(table["layer"] == 1) & (table["pos"] == 2)]
    assert rows["token"].tolist() == expected.words()[0]
    assert rows["norm"].tolist() == pytest.approx([float(planted.norm())] * 2)
    turned = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    through = difference_tokens(model, found, k=2, lens=Lens(maps={2: turned}))
    rows = through[(through["layer"] == 1) & (through["pos"] == 2)]
    assert rows["token"].tolist() == tokens_of(model, turned @ planted, k=2).words()[0]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (dict(d_vocab=24), "other vocabularies"),
        (dict(n_layers=2), "3 and 2 layers"),
        (dict(d_model=16), "of other sizes"),
    ],
)
def test_models_that_cannot_be_subtracted(other: dict, told: str) -> None:
    model = build()
    with pytest.raises(BadInput, match=told):
        activation_changes(model, build(**other), TOKENS, **QUIET)
    assert not any(point.hooked for point in model.hook_dict.values())


def test_what_is_no_corpus() -> None:
    model = build()
    with pytest.raises(BadInput, match="no documents"):
        activation_changes(model, model, [], **QUIET)
    with pytest.raises(BadInput, match="first=") as told:
        mean_difference(model, model, TOKENS[:, :2], first=3, progress=False)
    assert "3 tokens" in str(told.value)
    with pytest.raises(BadInput, match=r"layers must be some of 0\.\.2"):
        mean_difference(model, model, TOKENS, layers=[3], progress=False)
    with pytest.raises(BadInput, match="length must be"):
        pattern_changes(model, model, TOKENS, length=99, **QUIET)
    with pytest.raises(BadInput, match="mean_difference"):
        difference_tokens(model, activation_changes(model, model, TOKENS, **QUIET))
