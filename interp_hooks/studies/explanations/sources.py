"""The examples of a unit: texts in which it fires, to explain it by and to test on, and texts in which it does not.

Where units fire is told by what a scan kept, or by what a wiki has in its tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.bands import Bands
from interp_hooks.corpus.reducers.base import Reducer, State
from interp_hooks.corpus.reducers.top import NONE, Side, TopK
from interp_hooks.corpus.scanning import Scan, scan
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import check_arguments
from interp_hooks.model.identity import Identity
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import Found
from interp_hooks.studies.wikis.tables import Wiki
from interp_hooks.studies.wikis.units import kinds_of

LEVELS = 10  # of activation, in words


@dataclass(frozen=True, kw_only=True)
class Example:
    """A piece of a document: its tokens as text, and a unit's activations there (nan where they do not count).

    `start` is where it begins in the document, `band` the band of its largest activation. `attended` are, of a head,
    the tokens that the strongest one attends to most: text, how many tokens before it, share of attention.
    """

    document: int
    start: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    band: str = ""
    attended: tuple[tuple[str, int, float], ...] = ()

    @property
    def text(self) -> str:
        """The text, on a single line."""
        return _on_a_line("".join(self.tokens))

    def marked(self, which: Iterable[int]) -> str:
        """The text, on a single line, with some tokens between << and >>."""
        marks, parts, inside = set(which), list[str](), False
        for place, token in enumerate(self.tokens):
            if (place in marks) != inside:
                parts.append(">>" if inside else "<<")
                inside = not inside
            parts.append(token)
        return _on_a_line("".join(parts) + ">>" * inside)

    def firing(self, threshold: float) -> list[int]:
        """The places of tokens at which the unit fires."""
        return [place for place, value in enumerate(self.activations) if value >= threshold]


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitExamples:
    """The examples of a unit; activations are minus its own if it is looked at where it is smallest.

    Raises:
        BadInput: a document or a text stands in two of the lists, a silent text in which it fires, or an empty list.
    """

    name: str
    kind: str
    largest: float
    threshold: float
    train: Sequence[Example] = field(repr=False)
    test: Sequence[Example] = field(repr=False)
    silent: Sequence[Example] = field(repr=False)

    def __post_init__(self) -> None:
        check_arguments(type(self).__init__, vars(self))
        lists = {"train": self.train, "test": self.test, "silent": self.silent}
        if empty := [name for name, examples in lists.items() if not examples]:
            raise BadInput(f"{self.name} has no {empty[0]} examples")
        for what in ("document", "text"):
            seen: dict[Any, str] = {}
            for name, examples in lists.items():
                for one in {getattr(example, what) for example in examples}:
                    if one in seen:
                        raise BadInput(
                            f"{self.name} has a {what} among the {seen[one]} and the {name} examples: {one!r:.60}"
                        )
                    seen[one] = name
        if any(one.firing(self.threshold) for one in self.silent):
            raise BadInput(f"{self.name} fires in one of its silent examples")

    def level(self, activation: float) -> int:
        """An activation on a scale from 1 to 10, the largest one; 0 where it is none."""
        share = round(activation / self.largest, 6)  # so that rounding errors make no level
        return min(LEVELS, math.ceil(LEVELS * share)) if activation > 0 else 0


def _on_a_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


LETTERS = {"head": "H", "neuron": "N", "expert_neuron": "E", "shared_neuron": "S"}
NAME = re.compile(rf"L(\d+)([{''.join(LETTERS.values())}])(\d+)")

Where = tuple[int | None, int]
"""A unit's layer (None outside of layers) and number."""
Row = tuple[int, int, float]
"""An example: document, position, activation (of the smallest ones: minus it)."""
Trace = Mapping[int, Float[Tensor, " pos"]]
"""A unit's activations by document; nan where they do not count."""


def name_of_unit(kind: str, layer: int | None, number: int) -> str:
    """What a unit is called: "L3N17", or with the name of its kind, "L3 feature 17"."""
    place = "" if layer is None else f"L{layer}"
    return f"{place}{LETTERS[kind]}{number}" if kind in LETTERS else f"{place} {kind} {number}".strip()


def unit_named(name: str) -> tuple[str, Where]:
    """The kind of a unit of that name, and where it is.

    Raises:
        BadInput: it is no such name.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise BadInput(f"units are named 'L1H0' (head), 'L3N17' (neuron), 'L3E17', 'L3S17' (of experts), got {name!r}")
    kinds = {letter: kind for kind, letter in LETTERS.items()}
    return kinds[found[2]], (int(found[1]), int(found[3]))


@dataclass(frozen=True, eq=False)
class OfScan:
    """What a scan kept of some units."""

    found: Scan
    kind: str
    side: Side
    length: None = None

    @cached_property
    def reducers(self) -> dict[str, TopK | Bands]:
        every = [(name, one) for name, one in self.found.reducers.items() if isinstance(one, TopK | Bands)]
        found = {name: one for name, one in every if one.units.name == self.kind and one.side == self.side}
        if not found:
            raise BadInput(f"this needs a scan with Bands of the units {self.kind!r} where they are {self.side}")
        return found

    @property
    def units(self) -> Units:
        return next(iter(self.reducers.values())).units

    @cached_property
    def documents(self) -> list[int]:
        return sorted(self.found.texts)

    def tokens(self, document: int) -> Int[Tensor, " pos"]:
        return self.found.tokens(document)

    def rows(self, layer: int | None, number: int) -> Iterator[Row]:
        for name in self.reducers:
            place = Found(self.found, self.kind).place(layer, number)
            state = self.found.states[name][layer]
            documents, positions, values = (state[key][place].flatten() for key in ("documents", "positions", "values"))
            real = documents != NONE
            yield from zip(*(one[real].tolist() for one in (documents, positions, values)), strict=True)


@dataclass(frozen=True, eq=False)
class OfWiki:
    """What the tables of a wiki have of some units."""

    model: HookedTransformer
    wiki: Wiki
    kind: str
    side: Side

    @cached_property
    def units(self) -> Units:
        kinds = {one.name: one for one in kinds_of(self.model)}
        if self.kind not in kinds:
            raise BadInput(f"kind must be one of {', '.join(kinds)}, of which a wiki has pages, got {self.kind!r}")
        if (unlike := Identity(**self.wiki.about["model"]).unlike(self.model, "the wiki")) is not None:
            raise BadInput(unlike)
        return kinds[self.kind].units

    @property
    def length(self) -> int:
        return int(self.wiki.about["options"]["length"])

    @cached_property
    def _tokens(self) -> dict[int, Tensor]:
        table = self.wiki.tokens.sort_values(["document", "position"])
        return {
            document: torch.tensor(rows, dtype=torch.long)
            for document, rows in table.groupby("document")["token_id"].apply(list).to_dict().items()
        }

    @property
    def documents(self) -> list[int]:
        return sorted(self._tokens)

    def tokens(self, document: int) -> Int[Tensor, " pos"]:
        return self._tokens[document]

    def rows(self, layer: int | None, number: int) -> Iterator[Row]:
        assert self.units
        table = self.wiki.examples
        of_unit = table[(table["unit"] == self.kind) & (table["layer"] == layer) & (table["index"] == number)]
        if of_unit.empty:
            raise BadInput(f"the wiki has no {name_of_unit(self.kind, layer, number)}")
        yield from zip(*(of_unit[name].tolist() for name in ("document", "position", "activation")), strict=True)


def firing_rows(source: OfScan | OfWiki, unit: Where, sign: int, active: float) -> list[Row]:
    """Where a unit is strongest in each document that the source has of it, the signed activation with it."""
    best: dict[int, Row] = {}
    for document, position, value in source.rows(*unit):
        if document not in best or sign * value > best[document][2]:
            best[document] = (document, position, sign * value)
    largest = max((row[2] for row in best.values()), default=0.0)
    if largest <= 0:
        raise BadInput(f"{name_of_unit(source.kind, *unit)} fires in no example where it is {source.side}")
    return [row for row in best.values() if row[2] >= active * largest]


@dataclass(frozen=True)
class _Traces(Reducer):
    """The activations of units at every counted token, of a few documents."""

    units: Units

    def reduce(self, seen: Seen) -> State:
        return {
            "documents": seen.documents.cpu(),
            "positions": seen.positions.cpu(),
            "values": seen.values.float().cpu(),
        }

    def merge(self, one: State, other: State) -> State:
        return {name: torch.cat((one[name], other[name])) for name in one}


def traces_of(
    model: HookedTransformer, source: OfScan | OfWiki, units: Sequence[Where], documents: Sequence[int], length: int
) -> Mapping[Where, Trace]:
    """What some units are at every token of some documents."""
    layers: dict[int | None, list[int]] = {}
    for layer, number in units:
        layers.setdefault(layer, []).append(number)
    reducers: dict[str, Reducer] = {}
    for layer, numbers in layers.items():
        chosen = replace(source.units, name=f"layer {layer}", select=tuple(numbers))
        reducers[str(layer)] = _Traces(chosen if layer is None else replace(chosen, layers=(layer,)))
    rows = [source.tokens(document) for document in documents]
    again = scan(model, rows, reducers, length=length, longer="split", progress=False)
    found: dict[Where, dict[int, Tensor]] = {unit: {} for unit in units}
    for layer, numbers in layers.items():
        state = again[str(layer)][layer]
        order = state["documents"].argsort(stable=True)
        sizes = torch.bincount(state["documents"], minlength=len(documents)).tolist()
        parts = (state[name][order].split(sizes) for name in ("positions", "values"))
        for document, row, positions, values in zip(documents, rows, *parts, strict=True):
            for place, number in enumerate(numbers):
                trace = torch.full((len(row),), torch.nan)
                trace[positions] = values[:, place]
                found[layer, number][document] = trace
    return found
