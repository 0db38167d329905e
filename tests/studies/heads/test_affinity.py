"""Scores, kernels and their moments are those of matrices written out, and of random rotations drawn."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.studies.heads.affinity import random_moments, weight_composition
from tests.tiny import CUSTOM, assert_close, build, unchecked_types

PLAIN: dict[str, Any] = dict(normalization_type=None)


def rotations(n: int, dims: int) -> torch.Tensor:
    """Random rotations, uniform over all."""
    q, r = torch.linalg.qr(torch.randn(n, dims, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]


@pytest.mark.parametrize("dims", [5, 16])
def test_moments_are_those_of_random_rotations(dims: int) -> None:
    for a, b in (([1.0], [1.0]), ([0.7, 0.2, 0.1], [0.5, 0.5]), ([0.25] * 4, [0.2] * 5)):
        shares = [torch.tensor(one, dtype=torch.float64) for one in (a, b)]
        drawn = rotations(20_000, dims)[:, : len(a), : len(b)].pow(2)
        sums = torch.einsum("nij,i,j->n", drawn, *shares)
        mean, variance = random_moments(shares[0].pow(2).sum(), shares[1].pow(2).sum(), dims)
        assert float(sums.mean()) == pytest.approx(mean, rel=0.01)
        if len(b) < dims:
            assert float(sums.var()) == pytest.approx(float(variance), rel=0.05)
        else:
            assert abs(float(variance)) < 1e-15, "nothing is random about a whole space"


@pytest.mark.parametrize("via", ["Q", "K", "V"])
def test_numbers_are_those_of_matrices_written_out(via: Any) -> None:
    model = build(**PLAIN, n_key_value_heads=2, n_heads=4, d_model=14)
    found = weight_composition(model, via)
    W_Q, W_K, W_V, W_O = (one.detach() for one in (model.W_Q, model.W_K, model.W_V, model.W_O))
    left = W_V[0, 1] @ W_O[0, 1]
    right = {"Q": W_Q[2, 3] @ W_K[2, 3].T, "K": W_K[2, 3] @ W_Q[2, 3].T, "V": W_V[2, 3] @ W_O[2, 3]}[via]
    score = (left @ right).norm() / left.norm() / right.norm()
    assert float(found.score.mean[1, 11]) == pytest.approx(float(score), rel=1e-10)
    projections = [one @ torch.linalg.pinv(one) for one in (W_O[0, 1].T, {"Q": W_Q, "K": W_K, "V": W_V}[via][2, 3])]
    kernel = (projections[0] @ projections[1]).trace()
    assert float(found.kernel.mean[1, 11]) == pytest.approx(float(kernel), rel=1e-10)
    assert float(found.kernel_chance.mean[1, 11]) == pytest.approx(4 * 4 / 14, rel=1e-12)
    assert float(found.score.baselines["chance"]) == pytest.approx(14**-0.5, rel=1e-6)
    variance = 2 * 4 * 4 * 10 * 10 / (14**2 * 13 * 16)  # of the trace of two random projections of rank 4
    assert float(found.kernel_z.mean[1, 11]) == pytest.approx((float(kernel) - 4 * 4 / 14) / variance**0.5, rel=1e-8)
    spectra = [torch.linalg.svdvals(one)[:4] ** 2 for one in (left, right)]
    bound = (spectra[0] * spectra[1]).sum().sqrt() / left.norm() / right.norm()
    assert float(found.bound.mean[1, 11]) == pytest.approx(float(bound), rel=1e-10)
    assert bool((found.score.mean <= found.bound.mean + 1e-12)[~found.score.mean.isnan()].all())
    assert len(found.table()) == 48


def test_z_scores_are_of_unit_spread_where_weights_are_random() -> None:
    model = build(**PLAIN, d_model=32, n_heads=12, d_head=4, attn_only=True)
    for result in (weight_composition(model, "Q").score_z, weight_composition(model, "V").kernel_z):
        z = result.mean[~result.mean.isnan()]
        assert abs(float(z.mean())) < 0.15
        assert float(z.std()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("via", ["Q", "K", "V"])
def test_folding_changes_nothing(via: Any) -> None:
    load = HookedTransformer.from_pretrained
    folded = weight_composition(load("ioi-tiny", device="cpu", dtype=torch.float64), via)
    raw = weight_composition(HookedTransformer.from_pretrained_no_processing("ioi-tiny", dtype=torch.float64), via)
    for name, values in vars(folded).items():
        theirs = getattr(raw, name).mean.nan_to_num(0.0)
        assert_close(values.mean.nan_to_num(0.0), theirs, 1e-9)


def test_the_subspaces_do_not_turn_and_the_product_does() -> None:
    model = build(positional_embedding_type="rotary", normalization_type="RMS")
    here, there = (weight_composition(model, "K", offset=offset) for offset in (0, 3))
    assert_close(here.kernel.mean.nan_to_num(0.0), there.kernel.mean.nan_to_num(0.0), 1e-12)
    assert not torch.allclose(here.score.mean.nan_to_num(0.0), there.score.mean.nan_to_num(0.0), rtol=1e-3)


def test_the_induction_circuit_stands_out() -> None:
    found = weight_composition(induction().model, "K")
    best = found.table().iloc[0]
    assert (best.sender, best.reader) == ("L0H0", "L1H0")
    assert best.score == pytest.approx(0.298, abs=5e-4)
    assert best.kernel == pytest.approx(11.0, abs=1e-9), "what the one writes, the other reads all of"
    assert best.score_z > 5
    assert best.kernel_z > 5
    assert bool(found.score.mean[1].isnan().all()), "a head without weights has no score"


def test_what_is_refused() -> None:
    model: HookedTransformer = build()
    unknown: Any = "QK"
    for call, message in (
        (lambda: weight_composition(model, unknown), "via must be"),
        (lambda: weight_composition(build(**CUSTOM["latent"]), "Q"), "no|none has weights"),
        (lambda: weight_composition(build(n_layers=1), "Q"), "single layer"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
