"""Toy models of superposition end where Elhage et al. (2022) say, and the measures of them are right by hand."""

import math

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import superposition
from interp_hooks.ground_truth.toy_models import Superposition
from tests.tiny import unchecked_types


def of_columns(*columns: tuple[float, ...]) -> Superposition:
    """One model with these W_i, and nothing trained."""
    W = torch.tensor(columns).T[None]
    nothing = torch.zeros(1, len(columns))
    return Superposition(
        probabilities=torch.ones(1), importance=torch.ones(len(columns)), W=W, b=nothing, feature_losses=nothing
    )


# --------------------------------------------------------------------------------------------------- measures, by hand


def test_dimensionality_of_known_shapes() -> None:
    pentagon = [(math.cos(2 * math.pi * i / 5), math.sin(2 * math.pi * i / 5)) for i in range(5)]
    shapes = {
        "orthogonal": (of_columns((1.0, 0.0), (0.0, 3.0)), [1.0, 1.0]),
        "antipodal": (of_columns((1.0, 0.0), (-1.0, 0.0), (0.0, 2.0)), [1 / 2, 1 / 2, 1.0]),
        "pentagon": (of_columns(*pentagon), [2 / 5] * 5),
        "unequal": (of_columns((1.0,), (2.0,), (0.0,)), [1 / 5, 4 / 5, 0.0]),
    }
    for name, (toy, expected) in shapes.items():
        assert toy.dimensionality[0].tolist() == pytest.approx(expected), name


def test_dimensionality_is_the_formula_and_adds_up_to_the_rank_at_most() -> None:
    W = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    toy = Superposition(
        probabilities=torch.ones(3),
        importance=torch.ones(9),
        W=W,
        b=torch.zeros(3, 9),
        feature_losses=torch.zeros(3, 9),
    )
    for instance in range(3):
        for i in range(9):
            own = W[instance, :, i]
            shared = sum(float((own / own.norm()) @ W[instance, :, j]) ** 2 for j in range(9))
            assert toy.dimensionality[instance, i].item() == pytest.approx(float(own @ own) / shared, rel=1e-5)
        assert toy.dimensionality[instance].sum() <= 4
        assert toy.gram[instance, 2, 5].item() == pytest.approx(float(W[instance, :, 2] @ W[instance, :, 5]), rel=1e-5)
        each = [float(W[instance, :, i].norm()) ** 2 for i in range(9)]
        assert toy.features_per_dimension[instance].item() == pytest.approx(sum(each) / 4, rel=1e-5)


# -------------------------------------------------------------------------------------------- what training must end in

CLOSE = 0.02  # gradients are those of random batches


def test_dense_inputs_get_a_dimension_each_or_none() -> None:
    """The best that is linear: the most important features as they are, of the others the mean."""
    importance = [0.7**i for i in range(5)]
    toy = superposition(5, 2, probability=1.0, importance=importance)
    assert torch.allclose(toy.gram[0], torch.diag(torch.tensor([1.0, 1, 0, 0, 0])), atol=CLOSE)
    assert toy.b[0].tolist() == pytest.approx([0, 0, 0.5, 0.5, 0.5], abs=CLOSE)
    assert toy.dimensionality[0, :2].tolist() == pytest.approx([1, 1], abs=CLOSE)
    lost = [importance[i] / 12 for i in (2, 3, 4)]  # the variance of a uniform feature is 1/12
    assert toy.feature_losses[0].tolist() == pytest.approx([0, 0, *lost], rel=0.02, abs=1e-4)
    assert toy.losses.item() == pytest.approx(sum(lost), rel=0.02)


def test_five_rare_features_form_a_pentagon_in_the_plane() -> None:
    toy = superposition(5, 2, probability=[0.05] * 3)
    assert torch.allclose(toy.dimensionality, torch.tensor(2 / 5), atol=CLOSE)
    directions = torch.atan2(toy.W[:, 1], toy.W[:, 0]).sort(dim=1).values
    gaps = torch.cat((directions.diff(dim=1), directions[:, :1] + 2 * torch.pi - directions[:, -1:]), dim=1)
    assert torch.allclose(gaps, torch.tensor(2 * torch.pi / 5), atol=0.05)
    assert (toy.dimensionality.sum(1) <= 2 + 1e-4).all()
    assert (toy.features_per_dimension > 2).all()


def test_four_rare_features_form_antipodal_pairs() -> None:
    toy = superposition(4, 2, probability=[0.1, 0.1])
    assert torch.allclose(toy.dimensionality, torch.tensor(1 / 2), atol=CLOSE)
    cosines = toy.gram / toy.W.norm(dim=1)[:, :, None] / toy.W.norm(dim=1)[:, None]
    assert torch.allclose(cosines.sort(dim=2).values, torch.tensor([-1.0, 0, 0, 1]), atol=CLOSE)


# ------------------------------------------------------------------------------------------------ losses and arguments


def test_losses_are_those_of_new_inputs() -> None:
    toy = superposition(4, 3, probability=[0.2, 0.9], importance=torch.tensor([1.0, 2.0, 0.5, 0.0]), steps=200)
    generator = torch.Generator().manual_seed(9)
    for instance, probability in enumerate((0.2, 0.9)):
        x = torch.rand(100_000, 4, generator=generator) * (torch.rand(100_000, 4, generator=generator) < probability)
        W, b = toy.W[instance], toy.b[instance]
        made = (x @ W.T @ W + b).relu()
        assert torch.allclose(toy(x)[:, instance], made, atol=1e-6)
        expected = (made - x).square().mean(0) * torch.tensor([1.0, 2.0, 0.5, 0.0])
        assert toy.feature_losses[instance].tolist() == pytest.approx(expected.tolist(), rel=0.05, abs=1e-5)


def test_a_seed_gives_the_same_models_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():
        one, same, other = (superposition(3, 2, probability=0.5, steps=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.W, same.W)
    assert not torch.equal(one.W, other.W)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(probability=0.0), "probabilities above 0 and up to 1, got 0.0"),
        (dict(probability=[0.5, 1.5]), r"probabilities above 0 and up to 1, got \[0.5, 1.5\]"),
        (dict(probability=[]), "expected probabilities"),
        (dict(probability=0.5, importance=[1.0, 1.0]), "expected 3 finite importances"),
        (dict(probability=0.5, importance=[1.0, -1.0, 1.0]), "importances of 0 or more"),
        (dict(probability=0.5, importance=[math.inf] * 3), "3 finite importances of 0 or more"),
        (dict(probability=0.5, steps=0), "steps must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_told(wrong: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        superposition(3, 2, **wrong)


def test_inputs_of_another_width_are_told() -> None:
    toy = of_columns((1.0, 0.0), (0.0, 3.0), (1.0, 1.0))
    for features in (torch.zeros(4, 2), torch.zeros(4, 1), torch.tensor(1.0)):
        with pytest.raises(BadInput, match=r"n_features.* 3, got|must be a tensor"), unchecked_types():
            toy(features)
