"""Planted features come at the rates, with the correlations and magnitudes that were chosen, children with parents."""

from math import asin, pi
from typing import Any

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import planted_features
from tests.tiny import unchecked_types

N = 40_000


def test_rates_parents_and_magnitudes() -> None:
    rates = [0.5, 0.2, 0.1, 0.3]
    planted = planted_features(rates, 6, parents=[-1, 0, 1, -1], magnitudes=[1.0, 2.0, 3.0, 4.0], spread=0.5)
    features = planted.draw(N).features
    there = features > 0
    torch.testing.assert_close(there.double().mean(0), torch.tensor(rates).double(), atol=0.012, rtol=0)
    for parent, child in planted.pairs.tolist():
        assert not (there[:, child] & ~there[:, parent]).any()
    for feature, magnitude in enumerate((1.0, 2.0, 3.0, 4.0)):
        values = features[there[:, feature], feature] / magnitude
        assert 0.5 <= float(values.min()) < 0.51
        assert 1.49 < float(values.max()) <= 1.5
        assert float(values.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.6])
def test_correlated_features_are_there_together_as_sheppard_says(rho: float) -> None:
    """Of two normal numbers with correlation rho both lie below 0 in 1/4 + asin(rho) / 2 pi of all cases."""
    there = planted_features([0.5, 0.5], 4, correlated=[(0, 1, rho)]).draw(N).features > 0
    assert float(there.all(1).double().mean()) == pytest.approx(0.25 + asin(rho) / (2 * pi), abs=0.01)


def test_activations_are_sums_of_directions_and_noise() -> None:
    planted = planted_features([0.3, 0.3, 0.2], 5, noise=0.1)
    torch.testing.assert_close(planted.directions @ planted.directions.T, torch.eye(3).double())
    drawn, again = planted.draw(N, seed=3), planted.draw(N, seed=3)
    rest = drawn.activations - torch.einsum("tf,fd->td", drawn.features, planted.directions)
    torch.testing.assert_close(rest.T @ rest / N, 0.01 * torch.eye(5).double(), atol=5e-4, rtol=0)
    assert bool((drawn.activations == again.activations).all())
    assert not bool((drawn.features == planted.draw(N, seed=4).features).all())
    crowded = planted_features([0.1] * 9, 4).directions
    torch.testing.assert_close(crowded.norm(dim=1), torch.ones(9).double())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(rates=[], d=3), "expected rates of some features"),
        (dict(rates=[0.1, 1.2], d=3), "rates must be above 0"),
        (dict(rates=[0.1, 0.2], d=3, parents=[-1, 0]), "lower its rate"),
        (dict(rates=[0.2, 0.1], d=3, parents=[1, -1]), "parent must come before"),
        (dict(rates=[0.2, 0.1], d=3, parents=[-1]), r"parents must be \[2\]"),
        (dict(rates=[0.2, 0.1], d=3, parents=[-1, 0], correlated=[(0, 1, 0.5)]), "with its ancestors"),
        (dict(rates=[0.2, 0.1], d=3, correlated=[(0, 2, 0.5)]), "names two of 2 features"),
        (dict(rates=[0.2, 0.1], d=3, correlated=[(0, 1, 1.5)]), "positive definite"),
        (dict(rates=[0.2], d=3, magnitudes=-1.0), "magnitudes must be above 0"),
        (dict(rates=[0.2], d=3, spread=1.0), "spread must be"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], says: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=says):
        planted_features(**options)
