"""Waves over the residues mod p, with which models that add modulo p compute (Nanda et al. 2023, arXiv 2301.05217).

    fourier_power  how much of an embedding, or another table with a row for each residue, lies on each frequency
    along_sums     the part of logits [a, b, c] that depends on a + b mod p, at some frequencies
    cosines        how much of logits [a, b, c] is a sum of waves cos(w_k (a + b - c)), w_k = 2 pi k / p

Frequency 0 is the constant; the others are 1 to p // 2, each with a cosine and a sine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked, fits, told

SAME = 1e-12  # numbers that differ by less than this part of them are the same but for rounding


@checked
def fourier_basis(p: Positive) -> Float[Tensor, "wave residue"]:
    """Orthonormal waves over 0..p-1, one a row, in float64: the constant, cos 1, sin 1, cos 2, sin 2, ...

    An even p ends with cos p/2, whose sine is 0 everywhere and is left out.

    Raises:
        BadInput: p below 1.
    """
    residues = torch.arange(p)
    angles = 2 * torch.pi / p * (torch.arange(1, p // 2 + 1)[:, None] * residues % p).double()
    waves = torch.stack((angles.cos(), angles.sin()), dim=1).flatten(0, 1)[: p - 1]
    basis = torch.cat((torch.ones(1, p, dtype=torch.float64), waves))
    return basis / basis.norm(dim=1, keepdim=True)


@checked
def fourier_power(values: Float[Tensor, "residue *rest"]) -> Float[Tensor, " frequency"]:
    """The power of each frequency 0..p//2 along the first axis, summed over all other axes.

    Powers add up to the sum of the squared values. `fourier_power(model.W_E[:p])` shows the frequencies a model uses.
    """
    p = len(values)
    on_waves = (fourier_basis(p).to(values.device) @ values.double().reshape(p, -1)).square().sum(1)
    return torch.zeros(p // 2 + 1, device=values.device, dtype=on_waves.dtype).index_add(
        0, _frequency_of_wave(p).to(values.device), on_waves
    )


@checked
def along_sums(logits: Float[Tensor, "a b out"], frequencies: Sequence[int]) -> Float[Tensor, "a b out"]:
    """Project `logits` on cos(w_k (a + b)) and sin(w_k (a + b)), w_k = 2 pi k / p, for some frequencies k.

    The part on frequency 0 is the same for all a and b. The parts of all frequencies together are what depends on
    a + b mod p alone.

    Raises:
        BadInput: `logits` are empty or do not have as many a as b, or a frequency is outside 0..p//2.
    """
    p = _residues(logits)
    chosen = torch.tensor(_checked_frequencies(frequencies, p), dtype=torch.long)
    sums = (torch.arange(p)[:, None] + torch.arange(p)) % p
    of_sum = torch.stack([logits[sums == one].double().mean(0) for one in range(p)])  # [a + b mod p, out]
    basis = fourier_basis(p)[torch.isin(_frequency_of_wave(p), chosen)].to(logits.device)
    return (basis.T @ (basis @ of_sum)).to(logits.dtype)[sums]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cosines:
    """How well the sum over k = 1..p//2 of coefficient[k] cos(w_k (a + b - c)) fits logits[a, b, c].

    `coefficient` and `explained_variance` have an entry for each frequency, and 0 for frequency 0. The variance is that
    over the outputs c, averaged over a and b: all that a softmax can see. The cosines are orthogonal, so that their
    shares of the variance add up.
    """

    coefficient: Float[Tensor, " frequency"]
    explained_variance: Float[Tensor, " frequency"]


@checked
def cosines(logits: Float[Tensor, "a b c"]) -> Cosines:
    """Fit `logits` by cos(w_k (a + b - c)) for each frequency k; a model that adds with waves has a few large ones.

    Raises:
        BadInput: a, b and c are not equally many, or logits are the same for every c, so that there is no variance.
    """
    p = _residues(logits)
    if logits.shape[2] != p:
        raise BadInput(f"expected logits [a, b, c] of p = {p} residues each, got {list(logits.shape)}")
    centred = logits.double() - logits.double().mean(2, keepdim=True)
    if not centred.abs().max() > SAME * logits.double().abs().max():
        raise BadInput("these logits [a, b, c] do not depend on c, so there is nothing that waves could explain")
    places = torch.arange(p, device=logits.device)
    distance = (places[:, None, None] + places[:, None] - places) % p
    mean = torch.zeros(p, dtype=torch.float64, device=logits.device)
    mean = mean.index_add(0, distance.flatten(), centred.flatten()) / p**2  # of all logits whose a + b - c is the same
    waves = 2 * torch.pi / p * (torch.arange(1, p // 2 + 1, device=logits.device)[:, None] * places % p).double()
    size = waves.cos().square().sum(1)
    coefficient = (waves.cos() @ mean) / size
    explained = coefficient.square() * size * p**2 / centred.square().sum()
    nothing = torch.zeros(1, dtype=torch.float64, device=logits.device)
    return Cosines(coefficient=torch.cat((nothing, coefficient)), explained_variance=torch.cat((nothing, explained)))


def _frequency_of_wave(p: int) -> Tensor:
    """The frequency of each row of `fourier_basis`."""
    return (torch.arange(p) + 1) // 2


def _residues(logits: Tensor) -> int:
    if not 0 < logits.shape[0] == logits.shape[1]:
        raise BadInput(f"expected logits [a, b, out] for all pairs of p residues, got {list(logits.shape)}")
    return len(logits)


def _checked_frequencies(frequencies: Sequence[int], p: int) -> list[int]:
    if unknown := [one for one in frequencies if not fits(one, int) or not 0 <= one <= p // 2]:
        raise BadInput(f"frequencies of {p} residues are ints 0..{p // 2}, got {told(unknown[0])}")
    return [int(one) for one in frequencies]
