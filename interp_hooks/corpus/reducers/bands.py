"""Examples from all over a unit's range, not from its top alone: a reservoir for each band of activation.

The top of a list shows a unit at its strongest, and often suggests another concept than the rest of its range
(Bolukbasi et al. 2021, arxiv.org/abs/2104.07143). Here every piece of a document is an example, its value the unit's
largest in it. Bands are octaves, so that none has to be known beforehand:

    band 0: below the smallest octave, band 1: 2^-8 to 2^-7, ... the last band: from 2^7 on

With `side="smallest"` the value is the unit's smallest in the piece, and bands are those of minus the value.

In each band those `n` examples are kept whose hash, a number that depends on the piece and a seed alone, is smallest:
a uniform sample without replacement, whatever the order and the workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.base import Reducer, State
from interp_hooks.corpus.reducers.top import NONE, Side
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import fits, told

FIRST, LAST = -8, 7  # the exponents of the first and the last octave
N_BANDS = LAST - FIRST + 2
LARGEST_HASH = 2**63 - 1  # of no example
EMPTY = {"values": 0.0, "documents": NONE, "positions": NONE, "hashes": LARGEST_HASH}


def band_of(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The band of each value, 0 for those below the first octave, negative ones included."""
    exponent = torch.frexp(values).exponent - 1
    return torch.where(values > 0, (exponent - FIRST + 1).clamp(0, N_BANDS - 1), 0)


def edges() -> list[float]:
    """The lower edge of every band."""
    return [-torch.inf, *(2.0**exponent for exponent in range(FIRST, LAST + 1))]


def hashed(documents: Int[Tensor, "*shape"], positions: Int[Tensor, "*shape"], seed: int) -> Int[Tensor, "*shape"]:
    """A number for each place in a corpus, evenly spread over 0..2^63-1 (the mixing steps of SplitMix64)."""
    mixed = documents * -7046029254386353131 + positions * -4417276706812531889
    mixed = mixed + torch.tensor(seed) * 1442695040888963407
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (mixed ^ ((mixed >> 31) & ((1 << 33) - 1))) & (LARGEST_HASH - 1)


@dataclass(frozen=True)
class Bands(Reducer):
    """`n` random examples of each unit in every band of activation, and how many there were.

    The state has `counts` [unit, band], and `values`, `documents`, `positions` and `hashes` [unit, band, n].
    """

    units: Units
    n: int = 4
    seed: int = 0
    side: Side = "largest"

    def __post_init__(self) -> None:
        if not fits(self.n, int) or self.n < 1 or self.side not in ("largest", "smallest"):
            came = f"{told(self.n)}, {self.side!r}"
            raise BadInput(f"Bands keep at least 1 example of the 'largest' or 'smallest', got {came}")

    def reduce(self, seen: Seen) -> State:
        sign = 1 if self.side == "largest" else -1
        found, documents, positions, starts = seen.per_piece(sign)
        hashes = hashed(documents.cpu(), starts.cpu(), self.seed)
        order = hashes.argsort()
        values, positions = found.T.cpu().float()[:, order], positions.T.cpu()[:, order]
        documents, hashes = (one.cpu()[order].expand_as(positions) for one in (documents, hashes))
        bands = band_of(sign * values).long()
        counts = torch.zeros(len(values), N_BANDS, dtype=torch.long).scatter_add_(1, bands, torch.ones_like(bands))
        by_band = bands.argsort(dim=1, stable=True)
        bands = bands.gather(1, by_band)
        rank = torch.arange(bands.shape[1]) - (counts.cumsum(1) - counts).gather(1, bands)
        unit, place = (rank < self.n).nonzero(as_tuple=True)
        to, of = (unit, bands[unit, place], rank[unit, place]), (unit, by_band[unit, place])
        state = {name: torch.full((*counts.shape, self.n), fill) for name, fill in EMPTY.items()}
        for name, listed in (
            ("values", values),
            ("documents", documents),
            ("positions", positions),
            ("hashes", hashes),
        ):
            state[name][to] = listed[of]
        return {"counts": counts, **state}

    def merge(self, one: State, other: State) -> State:
        both = {name: torch.cat((one[name], other[name]), dim=2) for name in EMPTY}
        kept = both["hashes"].argsort(dim=2, stable=True)[..., : self.n]
        return {"counts": one["counts"] + other["counts"], **{name: x.gather(2, kept) for name, x in both.items()}}
