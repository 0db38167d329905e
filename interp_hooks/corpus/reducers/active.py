"""Which units are active at which token, as a list: all that is needed of features of which few are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.base import Reducer, State
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput

MOST = 2**28  # active units of all tokens: 2 GiB


@dataclass(frozen=True)
class ActiveUnits(Reducer):
    """The units that are above 0 at each token, and how much they are.

    It takes 8 bytes for each of them and 12 for each token, so that it fits features of sparse dictionaries, of which
    some dozens are active at a token, however many there are. The state has, for each token with such units, `tokens`
    (document times 2^32 plus position) and `sizes`, how many; and one token after the other `units` and `values`.
    The result has the tokens in the order of the corpus, and the number of all units, `n_units`.
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        token, unit = (seen.values > 0).nonzero(as_tuple=True)
        sizes = token.bincount(minlength=len(seen.values))
        there = sizes > 0
        keys = (seen.documents << 32) + seen.positions
        return {
            "tokens": keys[there].cpu(),
            "sizes": sizes[there].int().cpu(),
            "units": unit.int().cpu(),
            "values": seen.values[token, unit].float().cpu(),
            "n_units": torch.tensor(seen.values.shape[1]),
        }

    def merge(self, one: State, other: State) -> State:
        if len(one["units"]) + len(other["units"]) > MOST:
            per_token = len(one["units"]) / max(1, len(one["tokens"]))
            raise BadInput(
                f"{per_token:.0f} of the units {self.units.name!r} are active at a token, too many to list for so many "
                "tokens: read fewer documents (limit=), or take a sparser dictionary"
            )
        both = {name: torch.cat((one[name], other[name])) for name in ("tokens", "sizes", "units", "values")}
        return {**both, "n_units": one["n_units"]}

    def result(self, state: State) -> dict[str, Tensor]:
        order = state["tokens"].argsort()
        sizes = state["sizes"].long()
        starts = sizes.cumsum(0) - sizes
        places = spread(starts[order], sizes[order])
        return {
            "tokens": state["tokens"][order],
            "sizes": sizes[order],
            "units": state["units"][places].long(),
            "values": state["values"][places],
            "n_units": state["n_units"],
        }


def spread(starts: Int[Tensor, " run"], sizes: Int[Tensor, " run"]) -> Int[Tensor, " n"]:
    """The numbers start, start + 1, ... of some runs, one run after the other."""
    first = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) + (starts - first).repeat_interleave(sizes)


def as_matrix(found: State, values: Float[Tensor, " n"]) -> Tensor:
    """A result of `ActiveUnits` as a sparse matrix [token, unit] that has `values` for the active units."""
    rows = torch.arange(len(found["sizes"])).repeat_interleave(found["sizes"])
    size = (len(found["sizes"]), int(found["n_units"]))
    return torch.sparse_coo_tensor(
        torch.stack((rows, found["units"])), values, size, is_coalesced=True, check_invariants=False
    )
