"""What a scan found of units, and its examples as prompts.

    found = Found(scan)                        the reducers of a scan that measured neurons, by kind
    top_contexts(model, found, 3, 17, k=8)     the documents in which neuron 17 of layer 3 is largest, each cut right
                                               after the token that follows the one at which it is
    found.scan, found.statistics[3]["mean"]    and what else there is

A unit is `Units` that select one: `neuron(3, 17)`, or anything else that a scan can measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import leads
from interp_hooks.corpus.reducers.bands import Bands
from interp_hooks.corpus.reducers.base import Reducer
from interp_hooks.corpus.reducers.statistics import Histogram, Statistics
from interp_hooks.corpus.reducers.top import NONE, Side, TopK
from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Units, neurons
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.transformer import HookedTransformer

AT_ONCE = 8192  # tokens of a pass
PER_UNIT = {TopK: "values", Statistics: "min", Histogram: "counts", Bands: "counts"}
"""The reducers that are read here, and something in their states that has a row for each unit."""


@checked
def neuron(layer: int, number: int, hook: str = "post") -> Units:
    """One neuron as a unit: what it gives on to the output weights, or another activation of it.

    >>> from interp_hooks.studies import neuron
    >>> neuron(1, 3).select
    (3,)
    """
    return replace(neurons([layer], hook), select=(number,))


@checked
def neuron_reducers(k: int = 20, layers: Sequence[int] | None = None) -> dict[str, Reducer]:
    """The reducers that studies of neurons read: a scan with these has all that they ask for.

    >>> from interp_hooks.studies import neuron_reducers
    >>> sorted(neuron_reducers())
    ['bands', 'bottom', 'histogram', 'statistics', 'top']
    """
    units = neurons(layers)
    return {
        "top": TopK(units, k=k),
        "bottom": TopK(units, k=k, side="smallest"),
        "statistics": Statistics(units),
        "histogram": Histogram(units),
        "bands": Bands(units),
    }


@dataclass(frozen=True, eq=False)
class Found:
    """The results of a scan's reducers of some units, by layer.

    Raises:
        BadInput: when asked for what no reducer of the scan measured.
    """

    scan: Scan
    units: str = "neuron"

    @cached_property
    def top(self) -> dict[int | None, Mapping[str, Tensor]]:
        return self.extreme("largest")

    @cached_property
    def bottom(self) -> dict[int | None, Mapping[str, Tensor]]:
        return self.extreme("smallest")

    @cached_property
    def statistics(self) -> dict[int | None, Mapping[str, Tensor]]:
        return self._of(Statistics, "Statistics(neurons())")

    @cached_property
    def histogram(self) -> dict[int | None, Mapping[str, Tensor]]:
        return self._of(Histogram, "Histogram(neurons())")

    def extreme(self, side: Side) -> dict[int | None, Mapping[str, Tensor]]:
        """The examples of one end."""
        return self._of(TopK, f"TopK(neurons(), side={side!r})", side)

    def measures(self, what: Literal["statistics", "histogram"]) -> bool:
        """Whether the scan has such a reducer of these units."""
        kind = {"statistics": Statistics, "histogram": Histogram}[what]
        return any(isinstance(reducer, kind) for reducer in self._reducers.values())

    def measured(self, layer: int | None, number: int) -> bool:
        """Whether the scan measured that unit."""
        return layer in self._numbers and number in self._numbers[layer]

    def place(self, layer: int | None, number: int) -> int:
        """Where a unit stands in the results of its layer.

        Raises:
            BadInput: the scan did not measure it.
        """
        if layer not in self._numbers:
            raise BadInput(f"this scan measured no units {self.units!r} in layer {layer}; it has {self._told}")
        if number not in self._numbers[layer]:
            raise BadInput(f"this scan did not measure unit {number} of {self.units!r} in layer {layer}")
        return self._numbers[layer].index(number)

    @cached_property
    def _reducers(self) -> dict[str, Reducer]:
        return {
            name: one
            for name, one in self.scan.reducers.items()
            if isinstance(one, Reducer) and one.units.name == self.units and type(one) in PER_UNIT
        }

    @cached_property
    def _numbers(self) -> dict[int | None, Sequence[int]]:
        """The units of every layer, in the order in which they stand in results."""
        found: dict[int | None, Sequence[int]] = {}
        for name, reducer in self._reducers.items():
            for layer, state in self.scan.states[name].items():
                size = len(state[PER_UNIT[type(reducer)]])
                found[layer] = range(size) if reducer.units.select is None else reducer.units.select
        return found

    def _of(self, kind: type[Reducer], called: str, side: Side | None = None) -> dict[int | None, Any]:
        for name, reducer in self._reducers.items():
            if isinstance(reducer, kind) and (not isinstance(reducer, TopK) or reducer.side == side):
                return self.scan[name]
        raise BadInput(f"this needs a scan with {called} of {self.units!r}; this one has {self._told}")

    @property
    def _told(self) -> str:
        reducers = [one for one in self.scan.reducers.values() if isinstance(one, Reducer)]
        return ", ".join(f"{type(one).__name__} of {one.units.name!r}" for one in reducers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """Prompts, each with the position that is looked at; there the next token follows, if the document has one.

    `values` are the unit's own, as they were in the scan; nan where nobody measured it.
    """

    rows: Sequence[Int[Tensor, " _"]]
    at: Int[Tensor, " context"]
    values: Float[Tensor, " context"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def next_tokens(self) -> Int[Tensor, " context"]:
        """The token that follows, -1 where the document ends."""
        following = [row[at + 1 : at + 2].tolist() for row, at in zip(self.rows, self.at.tolist(), strict=True)]
        return torch.tensor([one[0] if one else -1 for one in following], dtype=torch.long)

    def chosen(self, which: Sequence[int]) -> Contexts:
        """Some of them."""
        index = torch.tensor(list(which), dtype=torch.long)
        return Contexts(rows=[self.rows[one] for one in which], at=self.at[index], values=self.values[index])

    def followed(self) -> Contexts:
        """Those after which a token follows."""
        return self.chosen((self.next_tokens >= 0).nonzero()[:, 0].tolist())


def together(contexts: Sequence[Contexts]) -> Contexts:
    """Several lists of contexts as one."""
    return Contexts(
        rows=[row for one in contexts for row in one.rows],
        at=torch.cat([one.at for one in contexts]),
        values=torch.cat([one.values for one in contexts]),
    )


def top_contexts(
    model: HookedTransformer,
    found: Found,
    layer: int | None,
    number: int,
    *,
    k: int = 8,
    side: Side = "largest",
    before: int | None = None,
) -> Contexts:
    """The up to `k` best examples of a unit, with `before` tokens before them (default: as many as the model reads)."""
    listed = found.top if side == "largest" else found.bottom
    place = found.place(layer, number)
    documents, positions, values = (listed[layer][name][place][:k] for name in ("documents", "positions", "values"))
    real = documents != NONE
    return _contexts(
        model, found.scan, documents[real].tolist(), positions[real].tolist(), values[real].double(), before
    )


def random_contexts(
    model: HookedTransformer, scan: Scan, n: int, generator: torch.Generator, before: int | None = None
) -> Contexts:
    """`n` tokens of a scan's corpus, each as likely as another that is not the first and has one after it."""
    documents = sorted(scan.texts)
    rooms = torch.tensor([max(0, len(scan.texts[one]) - 2) for one in documents])
    ends = rooms.cumsum(0)
    if not int(ends[-1]):
        raise BadInput("this scan's documents have no token between the first and the last to draw")
    drawn = torch.randint(int(ends[-1]), (n,), generator=generator)
    which = torch.searchsorted(ends, drawn, right=True)
    positions = drawn - (ends - rooms)[which] + 1
    values = torch.full((n,), torch.nan, dtype=torch.float64)
    return _contexts(model, scan, [documents[one] for one in which.tolist()], positions.tolist(), values, before)


def _contexts(
    model: HookedTransformer,
    scan: Scan,
    documents: Sequence[int],
    positions: Sequence[int],
    values: Tensor,
    before: int | None,
) -> Contexts:
    rows, places = [], []
    for document, position in zip(documents, positions, strict=True):
        tokens = scan.tokens(document)
        begins = int(leads(model, tokens))
        most = model.cfg.n_ctx - begins - 2 if before is None else min(before, model.cfg.n_ctx - begins - 2)
        start = max(begins, position - most)
        rows.append(torch.cat((tokens[:begins], tokens[start : position + 2])) if position >= begins else tokens[:2])
        places.append(position if position < begins else begins + position - start)
    return Contexts(rows=rows, at=torch.tensor(places, dtype=torch.long), values=values)


def stacked(model: HookedTransformer, rows: Sequence[Int[Tensor, " _"]]) -> Run:
    """Prompts of any length as one run, padded on the right."""
    tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
    return Run(tokens.to(model.device), (), mask.to(model.device))


def split_by_size(rows: Sequence[Int[Tensor, " _"]], at_once: int = AT_ONCE) -> list[list[int]]:
    """The rows that go through the model in one pass, in their order."""
    groups: list[list[int]] = []
    longest = 0
    for number, row in enumerate(rows):
        longest = max(longest, len(row))
        if not groups or longest * (len(groups[-1]) + 1) > at_once:
            groups.append([])
            longest = len(row)
        groups[-1].append(number)
    return groups


def measured(model: HookedTransformer, unit: Units, run: Run) -> Float[Tensor, "row pos"]:
    """A unit's values in a run.

    Raises:
        BadInput: the units are not a single one.
    """
    places = list(unit.places(model).items())
    if len(places) != 1:
        raise BadInput(f"expected a unit of one layer, as neuron(layer, number) gives it; {unit.name!r} is of {places}")
    layer, hooks = places[0]
    shown = record(model, run, hooks)
    values = unit.values({short: shown[full] for short, full in zip(unit.hooks, hooks, strict=True)}, model, layer)
    if values.shape[2] != 1:
        raise BadInput(
            f"expected a single unit, as neuron(layer, number) gives it; {unit.name!r} has {values.shape[2]}"
        )
    return values[..., 0]
