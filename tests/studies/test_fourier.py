"""Waves over residues, against sums written out and logits whose waves are known."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.studies.fourier import along_sums, cosines, fourier_basis, fourier_power
from tests.tiny import unchecked_types


def adder(p: int, coefficients: dict[int, float]) -> Tensor:
    """logits[a, b, c] = sum over k of coefficient cos(2 pi k (a + b - c) / p), one number after the other."""

    def logit(a: int, b: int, c: int) -> float:
        return sum(size * math.cos(2 * math.pi * k * (a + b - c) / p) for k, size in coefficients.items())

    return torch.tensor([[[logit(a, b, c) for c in range(p)] for b in range(p)] for a in range(p)], dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("frequencies", [(1,), (4,), (2, 5)])
def test_waves_of_the_difference_add(frequencies: tuple[int, ...]) -> None:
    """With p prime, any frequency does: the sum is largest at c = a + b mod p."""
    p = 11
    places = torch.arange(p)
    logits = adder(p, dict.fromkeys(frequencies, 1.0))
    assert torch.equal(logits.argmax(-1), (places[:, None] + places) % p)


@pytest.mark.parametrize("p", [1, 2, 3, 8, 53])
def test_the_basis_is_orthonormal_and_each_row_one_wave(p: int) -> None:
    basis = fourier_basis(p)
    assert torch.allclose(basis @ basis.T, torch.eye(p, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(basis[0], torch.tensor(p**-0.5, dtype=torch.float64))
    for k in range(1, (p - 1) // 2 + 1):
        for row, wave in ((2 * k - 1, math.cos), (2 * k, math.sin)):
            expected = torch.tensor([math.sqrt(2 / p) * wave(2 * math.pi * k * n / p) for n in range(p)])
            assert torch.allclose(basis[row], expected.double(), atol=1e-6)


@pytest.mark.parametrize("p", [7, 8])
def test_power_is_that_of_the_discrete_fourier_transform(p: int) -> None:
    values = noise(p, 3, 2)
    power = fourier_power(values)
    spectrum = torch.fft.fft(values, dim=0).abs().square().sum((1, 2)) / p
    expected = [float(spectrum[k] + (spectrum[p - k] if 0 < k < p - k else 0)) for k in range(p // 2 + 1)]
    assert power.tolist() == pytest.approx(expected)
    assert power.sum().item() == pytest.approx(float(values.square().sum()))
    on_one = torch.tensor([2.0 + 3 * math.sin(2 * math.pi * 2 * n / p + 0.3) for n in range(p)])
    assert fourier_power(on_one).tolist() == pytest.approx([4 * p, 0, 4.5 * p, *[0] * (p // 2 - 2)], abs=1e-4)


def test_the_part_along_sums_is_the_projection_on_the_two_waves_of_a_plus_b() -> None:
    p, k = 7, 2
    logits, part = noise(p, p, 4), torch.zeros(p, p, 4, dtype=torch.float64)
    for wave in (math.cos, math.sin):
        direction = torch.tensor(
            [[wave(2 * math.pi * k * (a + b) / p) for b in range(p)] for a in range(p)], dtype=torch.float64
        )
        direction /= direction.norm()
        part += direction[..., None] * torch.einsum("ab,abo->o", direction, logits)
    found = along_sums(logits, [k])
    assert torch.allclose(found, part)
    assert torch.allclose(along_sums(found, [k]), found)
    with unchecked_types():
        assert torch.equal(along_sums(logits, torch.tensor([k])), found)  # pyright: ignore[reportArgumentType]
    assert along_sums(logits, []).abs().max() == 0
    assert along_sums(found, [1, 3]).abs().max() < 1e-12
    assert torch.allclose(along_sums(logits, [0]), logits.mean((0, 1)).expand(p, p, 4))


@pytest.mark.parametrize("p", [7, 8])
def test_all_frequencies_together_are_what_depends_on_the_sum(p: int) -> None:
    of_sum = noise(p, 5)
    places = torch.arange(p)
    logits = of_sum[(places[:, None] + places) % p]
    assert torch.allclose(along_sums(logits, range(p // 2 + 1)), logits)
    assert along_sums(logits.float(), [1]).dtype == torch.float32
    if p % 2:  # else a + b and a - b have their parity in common
        other = noise(p)[(places[:, None] - places) % p][..., None]
        assert torch.allclose(along_sums(logits + other - other.mean(), range(p // 2 + 1)), logits)


@pytest.mark.parametrize("p", [7, 8])
def test_an_adder_by_waves_is_explained_by_its_own(p: int) -> None:
    sizes = {1: 0.5, 3: -2.0} | ({4: 1.5} if p == 8 else {})
    logits = adder(p, sizes) + noise(p, p, 1)  # what is the same for all outputs changes no probability
    found = cosines(logits)
    assert found.coefficient.tolist() == pytest.approx([sizes.get(k, 0.0) for k in range(p // 2 + 1)])
    assert found.explained_variance.sum().item() == pytest.approx(1)
    power = {k: size**2 * (1 if 2 * k == p else 1 / 2) for k, size in sizes.items()}
    shares = [power.get(k, 0.0) / sum(power.values()) for k in range(p // 2 + 1)]
    assert found.explained_variance.tolist() == pytest.approx(shares)


def test_what_other_waves_do_is_not_explained() -> None:
    p = 7
    sines = torch.tensor(
        [[[math.sin(2 * math.pi * (a + b - c) / p) for c in range(p)] for b in range(p)] for a in range(p)]
    )
    assert cosines(sines).explained_variance.abs().max() < 1e-6
    mixed = cosines(sines.double() + adder(p, {2: 1.0}))
    assert mixed.explained_variance.tolist() == pytest.approx([0, 0, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fourier_basis(0), "p must be at least 1, got 0"),
        (lambda: along_sums(torch.zeros(3, 4, 5), [0]), r"all pairs of p residues, got \[3, 4, 5\]"),
        (lambda: along_sums(torch.zeros(7, 7, 5), [4]), r"frequencies of 7 residues are ints 0\.\.3, got int 4"),
        (
            lambda: along_sums(torch.zeros(7, 7, 5), cast("Any", torch.tensor([0.5]))),
            "frequencies must be a list of ints",
        ),
        (lambda: along_sums(torch.zeros(0, 0, 5), [0]), r"all pairs of p residues, got \[0, 0, 5\]"),
        (lambda: cosines(torch.zeros(0, 0, 0)), r"all pairs of p residues, got \[0, 0, 0\]"),
        (lambda: cosines(torch.full((5, 5, 5), 0.1)), "do not depend on c"),
        (lambda: cosines(torch.zeros(5, 5, 5)), "do not depend on c"),
        (lambda: cosines(noise(5, 5, 1).expand(5, 5, 5)), "do not depend on c"),
        (lambda: cosines(torch.zeros(7, 7, 5)), r"p = 7 residues each, got \[7, 7, 5\]"),
        (lambda: cosines(torch.zeros(6, 7, 7)), r"all pairs of p residues, got \[6, 7, 7\]"),
    ],
)
def test_what_has_no_such_waves_is_told(call, said: str) -> None:
    with pytest.raises(BadInput, match=said), unchecked_types():
        call()
