"""The tokens at which units are largest, one per document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp_hooks.corpus.reducers.base import Reducer, State
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput

Side = Literal["largest", "smallest"]
NONE = -1  # the document of an example that there is not


@dataclass(frozen=True)
class TopK(Reducer):
    """The `k` documents in which each unit is largest (or smallest), and where: the larger value comes first, of equal
    ones the earlier document, then the earlier position. Each document counts once, so that no text fills the list.

    The state has `values`, `documents` and `positions` [unit, k]; where there were fewer documents, the last ones have
    document -1 and an infinite value.
    """

    units: Units
    k: int = 20
    side: Side = "largest"

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1 or self.side not in ("largest", "smallest"):
            raise BadInput(f"TopK keeps at least 1 'largest' or 'smallest' value, got {self.k!r} and {self.side!r}")

    @property
    def _sign(self) -> int:
        return 1 if self.side == "largest" else -1

    def reduce(self, seen: Seen) -> State:
        values, documents, positions, _ = seen.per_piece(self._sign)
        documents = documents[:, None].expand_as(positions)
        return self._best(values.T.cpu().float(), documents.T.cpu(), positions.T.cpu())

    def merge(self, one: State, other: State) -> State:
        best, worst = self._sign * other["values"][:, 0], self._sign * one["values"][:, -1]
        units = (best >= worst).nonzero()[:, 0]  # those of whose list anything can change
        both = {name: torch.cat((one[name][units], other[name][units]), dim=1) for name in one}
        found = self._best(both["values"], both["documents"], both["positions"])
        return {name: one[name].index_copy(0, units, found[name]) for name in one}

    def _best(self, values: Tensor, documents: Tensor, positions: Tensor) -> State:
        """The first `k` by the rule, of a list for each unit."""
        sign = self._sign
        order = ((documents << 32) + positions).argsort(dim=1)
        order = order.gather(1, (-sign * values).gather(1, order).argsort(dim=1, stable=True))
        values, documents, positions = (one.gather(1, order) for one in (values, documents, positions))
        again = (documents[:, :, None] == documents[:, None, :]).tril(-1).any(2) | (documents == NONE)
        kept = again.byte().argsort(dim=1, stable=True)[:, : self.k]
        missing = again.gather(1, kept)
        state = {
            "values": values.gather(1, kept).masked_fill(missing, -sign * torch.inf),
            "documents": documents.gather(1, kept).masked_fill(missing, NONE),
            "positions": positions.gather(1, kept).masked_fill(missing, NONE),
        }
        short = self.k - kept.shape[1]
        if short > 0:
            fill = {"values": -sign * torch.inf, "documents": NONE, "positions": NONE}
            state = {name: torch.nn.functional.pad(one, (0, short), value=fill[name]) for name, one in state.items()}
        return state
