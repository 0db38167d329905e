"""Dictionaries that absorb or hedge by construction do so by what arithmetic gives; trained ones in known order."""

import pytest
import torch
from torch import Tensor

from interp_hooks.dictionaries import (
    SAE,
    Recipe,
    absorption,
    hedging,
    planted_metrics,
    random_dictionary,
    train_on_activations,
)
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import PlantedFeatures, planted_features


def tree() -> PlantedFeatures:
    """A parent, its child, a child of that, and a feature on its own."""
    return planted_features([0.5, 0.3, 0.1, 0.2], 7, parents=[-1, 0, 1, -1], seed=5)


def hand_built(planted: PlantedFeatures, reads: Tensor, writes: Tensor) -> SAE:
    """Latents that read and write sums of true directions: a row of coefficients for each."""
    n, d = len(reads), planted.directions.shape[1]
    rows = torch.eye(n, len(planted.rates), dtype=torch.float64)
    zero = torch.zeros(d, dtype=torch.float64)
    W_enc, W_dec = ((rows + one) @ planted.directions for one in (reads, writes))
    threshold = torch.full((n,), -1e-6, dtype=torch.float64)  # above what rounding leaves of 0
    return SAE(hook="resid_post0", W_enc=W_enc.T, b_enc=threshold, W_dec=W_dec, b_dec=zero)


def test_a_perfect_dictionary_absorbs_nothing() -> None:
    found = absorption(hand_built(tree(), torch.zeros(4, 4), torch.zeros(4, 4)), tree(), n_tokens=500)
    assert found.pairs.tolist() == [[0, 1], [1, 2]]
    assert found.recall.tolist() == found.recall_with_child.tolist() == [1, 1]
    assert found.absorbed.tolist() == [0, 0]
    assert found.fraction.abs().max() < 1e-9


def test_a_dictionary_that_absorbs_by_construction() -> None:
    """The parent's latent is silent where the grandchild is there, whose latent writes all three directions."""
    reads, writes = torch.zeros(4, 4), torch.zeros(4, 4)
    reads[0, 2] = reads[1, 2] = -1.0
    writes[2, 0] = writes[2, 1] = 1.0
    found = absorption(hand_built(tree(), reads, writes), tree(), n_tokens=4000, seed=2)
    there = tree().draw(4000, 2).features > 0
    share = float(there[there[:, 1], 2].double().mean())
    assert 0.25 < share < 0.42
    assert found.recall.tolist() == [1, 1]
    torch.testing.assert_close(found.recall_with_child, torch.tensor([1 - share, 0.0]).double())
    torch.testing.assert_close(found.absorbed, torch.tensor([share, 1.0]).double())
    torch.testing.assert_close(found.fraction, torch.tensor([share, 1.0]).double(), atol=1e-5, rtol=0)


def test_half_of_a_parent_may_be_absorbed() -> None:
    reads, writes = torch.zeros(4, 4), torch.zeros(4, 4)
    reads[0, 1], writes[1, 0] = -0.25, 0.25
    found = absorption(hand_built(tree(), reads, writes), tree(), n_tokens=500)
    assert found.absorbed.tolist() == [0, 0]
    assert float(found.fraction[0]) == pytest.approx(0.25, abs=1e-5)


def test_the_best_narrow_decoder_hedges_by_the_regression() -> None:
    planted = planted_features([0.4, 0.2, 0.3], 6, correlated=[(0, 1, 0.7), (0, 2, -0.5)], spread=0.3)
    drawn = planted.draw(5000)
    x, feature = drawn.activations, drawn.features[:, 0]
    design = torch.stack((feature, torch.ones_like(feature)), 1)
    row = torch.linalg.lstsq(design, x).solution[:1]
    covariance = torch.cov(drawn.features.T)
    zero = torch.zeros(6, dtype=torch.float64)
    found = hedging(SAE(hook="x", W_enc=row.T, b_enc=zero[:1], W_dec=row, b_dec=zero), planted)
    slopes = covariance[0] / covariance[0, 0]
    assert slopes[1] > 0.1 > -0.1 > slopes[2]
    torch.testing.assert_close(found.mixing[0], slopes)
    mixed = slopes[1:].square().sum()
    assert found.degree == pytest.approx(float(mixed / (1 + mixed)))
    wide = hand_built(planted, torch.zeros(3, 3), torch.zeros(3, 3))
    assert hedging(wide, planted).degree == 0


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.8])
def test_a_trained_narrow_dictionary_mixes_what_is_correlated(rho: float) -> None:
    planted = planted_features([0.4, 0.15], 4, correlated=[(0, 1, rho)])
    recipe = Recipe(hook="x", n_features=1, kind="relu", sparsity=0.0, learning_rate=0.01, seed=1)
    x = planted.draw(4000).activations.float()
    trained = train_on_activations(x, recipe, steps=500, tokens_per_step=128, progress=False)
    assert isinstance(trained, SAE)
    found = hedging(trained, planted)
    assert found.true.tolist() == [0]
    mixing = float(found.mixing[0, 1])
    assert abs(mixing) < 0.05 if rho == 0 else mixing * rho > 0.3


def test_l1_absorbs_and_matryoshka_does_not() -> None:
    """Chanin et al. 2024; Bussmann et al. 2025: prefixes keep general latents from being taken over by special ones."""
    planted = planted_features([0.4, 0.4, *[0.1] * 6], 12, parents=[-1, -1, 0, 0, 0, 1, 1, 1])
    x = planted.draw(10_000, seed=1).activations.float()
    trained = {}
    for name, prefixes in (("l1", ()), ("matryoshka", (2,))):
        recipe = Recipe(
            hook="x", n_features=8, kind="relu", sparsity=0.3, prefixes=prefixes, learning_rate=5e-3, seed=1
        )
        trained[name] = train_on_activations(x, recipe, steps=350, tokens_per_step=256, progress=False)
    trained["random"] = random_dictionary(trained["l1"])
    found = planted_metrics(trained, planted, n_tokens=5000)
    row = {
        name: dict(zip(found.axes["measure"], one, strict=True))
        for name, one in zip(trained, found.mean.tolist(), strict=True)
    }
    assert row["l1"]["explained_variance"] > 0.9 > row["random"]["explained_variance"]
    assert row["l1"]["mcc"] > row["random"]["mcc"] + 0.2
    assert row["l1"]["recall"] > 0.9
    assert row["l1"]["absorbed"] > 0.15
    assert row["l1"]["fraction"] > 0.5
    assert row["matryoshka"]["recall_with_child"] > 0.9
    assert row["matryoshka"]["absorbed"] < 0.05
    assert row["matryoshka"]["fraction"] < 0.1


def test_what_a_narrow_dictionary_cannot_say_is_nan() -> None:
    narrow = hand_built(tree(), torch.zeros(1, 4), torch.zeros(1, 4))
    found = absorption(narrow, tree(), n_tokens=500)
    assert found.absorbed[0] == 0
    assert found.absorbed[1].isnan()
    crowded = planted_features([0.1] * 9, 7)
    values = dict(zip((table := planted_metrics(narrow, crowded)).axes["measure"], table.mean[0].tolist(), strict=True))
    assert {name for name, value in values.items() if value != value} == {
        "recall", "recall_with_child", "absorbed", "fraction", "hedging"
    }  # fmt: skip
    with pytest.raises(BadInput, match="linearly independent"):
        hedging(narrow, crowded)
    with pytest.raises(BadInput, match="no planted feature has a parent"):
        absorption(narrow, crowded)
    with pytest.raises(BadInput, match="have width 4"):
        absorption(narrow, planted_features([0.3, 0.2], 4, parents=[-1, 0]))
    with pytest.raises(BadInput, match="got none"):
        planted_metrics({}, crowded)
