"""What composition scores and eigenvalues are where they can be told: by chance, aligned, and for a known circuit."""

import pytest
import torch

from interp_hooks import FactoredMatrix
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.model.factored import composition_scores


def drawn(n: int, d_model: int, rank: int, seed: int) -> FactoredMatrix:
    generator = torch.Generator().manual_seed(seed)
    shapes = (n, d_model, rank), (n, rank, d_model)
    return FactoredMatrix(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


@pytest.mark.parametrize("d_head", [4, 8, 16])
@pytest.mark.parametrize(("d_model", "by_chance"), [(64, 0.1254), (128, 0.0876), (256, 0.0624)])
def test_by_chance_it_is_one_over_the_root_of_the_width(d_model: int, by_chance: float, d_head: int) -> None:
    """However wide the heads are."""
    scores = composition_scores(drawn(30, d_model, d_head, 0), drawn(30, d_model, d_head, 1))
    assert scores.shape == (30, 30)
    assert float(scores.mean()) == pytest.approx(by_chance, rel=0.03)
    assert float(scores.mean()) == pytest.approx(d_model**-0.5, rel=0.03)
    if d_head == 16:
        assert float(scores.std()) == pytest.approx(0.005, abs=0.003)


@pytest.mark.parametrize("d_model", [64, 256])
def test_of_one_direction_it_is_the_size_of_a_cosine(d_model: int) -> None:
    """Its mean is sqrt(2 / pi) = 0.80 of that."""
    scores = composition_scores(drawn(200, d_model, 1, 0), drawn(200, d_model, 1, 1))
    assert float(scores.mean()) * d_model**0.5 == pytest.approx(0.80, abs=0.015)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_aligned_maps_reach_one_over_the_root_of_their_rank(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(32, 2 * rank, generator=torch.Generator().manual_seed(0)).double())[0]
    written, inside = basis[:, :rank], basis[:, rank:]
    left, right = FactoredMatrix(inside, written.T), FactoredMatrix(written, inside.T)
    assert float(composition_scores(left, right)) == pytest.approx(rank**-0.5, abs=1e-12)  # 0.3015 for 11
    assert float(composition_scores(left, FactoredMatrix(inside, written.T))) == pytest.approx(0, abs=1e-12)


def test_the_induction_circuit_composes_through_keys_alone() -> None:
    model = induction(11).model.requires_grad_(False)
    scores = {mode: model.all_composition_scores(mode)[0, 0, 1] for mode in ("Q", "K", "V")}
    assert float(scores["K"][0]) == pytest.approx(0.298, abs=5e-4)
    assert scores["Q"][0] == scores["V"][0] == 0
    OV = model.OV
    virtual = OV[0, 0] @ OV[1, 0]
    assert float(virtual.norm()) == 0


def copying(eigenvalues: torch.Tensor) -> torch.Tensor:
    return eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)


def test_eigenvalues_tell_of_copying_from_tokens_to_logits_alone() -> None:
    model = induction(11).model.requires_grad_(False)
    OV = model.OV[1, 0]
    full = model.W_E @ OV @ model.W_U
    assert float(copying(full.eigenvalues)) == pytest.approx(1, abs=1e-10)
    assert torch.equal(full.AB.argmax(-1), torch.arange(11))
    assert float(OV.eigenvalues.abs().max()) < 1e-6, "a copier whose map from stream to stream is nilpotent"


def test_the_copying_score_of_symmetric_and_of_random_maps() -> None:
    W = torch.randn(300, 64, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert float(copying(FactoredMatrix(W, W.mT).eigenvalues).min()) > 1 - 1e-10
    scores = copying(drawn(300, 64, 16, 3).eigenvalues)
    assert abs(float(scores.mean())) < 0.03
    assert float(scores.std()) == pytest.approx(0.10, abs=0.02)
