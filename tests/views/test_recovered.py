"""Toy models whose features dictionaries find where these are sparse, and do not where they are not."""

import pytest
import torch

from interp_hooks.dictionaries import Recipe, recovery, superposition_recovery
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import superposition
from interp_hooks.views import recovery_figure


def test_superposed_features_are_recovered_where_they_are_sparse() -> None:
    """Ten features in five dimensions: found when they are rare, not when they come together."""
    toy = superposition(10, 5, probability=[0.02, 0.9], steps=600, seed=1)
    recipe = Recipe(hook="hidden", n_features=16, k=1, learning_rate=1e-2)
    found = superposition_recovery(toy, recipe, steps=400, tokens_per_step=256)
    rare, dense = found.values()
    assert list(found) == ["p=0.02", "p=0.9"]
    assert len(rare.cosine) > 5
    assert rare.mcc > 0.95
    assert rare.mcc > dense.mcc + 0.05
    figure = recovery_figure(found, title="recovered")
    (trace,) = figure.data
    assert trace.z[0][0] == pytest.approx(float(rare.cosine[0]))
    assert len(trace.z[1]) == max(len(rare.cosine), len(dense.cosine))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(BadInput, match="got none"):
        recovery_figure({})
    assert recovery(torch.eye(3), torch.eye(3)).mcc == pytest.approx(1)
