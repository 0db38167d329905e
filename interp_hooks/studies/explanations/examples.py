"""Texts in which a unit fires, some to explain it by and others to test an explanation on, and texts in which it does
not.

    found = scan(model, corpus, {"bands": Bands(neurons(), n=20)})         or a wiki, which has such a scan's examples
    examples = unit_examples(model, found, [(3, 17)])["L3N17"]
    examples.train, examples.test, examples.silent                         no two of them are of the same document

A unit fires at a token if its activation is at least `threshold` there. Texts of train and test come from all bands of
activation in which the scan kept examples, alike; of silent ones, which are of random documents, no token fires. All
are windows of the same width, with the strongest token anywhere in their middle half, so that neither length nor place
tells them apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.corpus.packing import Packer, leads
from interp_hooks.corpus.reducers.bands import band_of
from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Seed, checked
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.explanations.sources import (
    OfScan,
    OfWiki,
    Row,
    Trace,
    Where,
    firing_rows,
    name_of_unit,
    traces_of,
)
from interp_hooks.studies.wikis.head_columns import patterns_of
from interp_hooks.studies.wikis.tables import Wiki
from interp_hooks.studies.wikis.units import band_names

LEVELS = 10  # of activation, in words
KEYS = 3  # that a head attends to most
TRIES = 4  # random documents for each silent text that is asked for, and windows tried in each
AGREE = 0.02  # of the largest activation, between a scan and what is read again


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


@checked
def unit_examples(
    model: HookedTransformer,
    found: Scan | Wiki,
    units: Sequence[tuple[int | None, int]],
    *,
    kind: str = "neuron",
    side: Side = "largest",
    train: Count = 20,
    test: Count = 20,
    width: Count = 24,
    active: float = 0.25,
    length: Count | None = None,
    seed: Seed = 0,
) -> dict[str, UnitExamples]:
    """Examples of some units, given as (layer, number), by name: "L3N17", "L1H0"; from a scan or a wiki of the model.

    `kind` is the name of the units in the scan: "neuron", "head" and others in wikis, or that of any `Units` that the
    scan read with `Bands` or `TopK`, features of a spliced dictionary say. A unit fires where its activation is at
    least `active` of the largest one among its examples (with side "smallest": minus its activation). At most `train`
    and `test` of the scan's examples are taken, in this ratio if there are fewer, and up to `test` silent texts from
    random documents, all `width` tokens long. `length` is that of the scan, if it read documents in pieces.

    Raises:
        BadInput: the scan did not measure such a unit, it has too few examples or fires everywhere, or the model, or
            `length`, is another than that of the scan.

    >>> from interp_hooks.corpus import Bands, neurons, scan
    >>> from interp_hooks.studies import unit_examples
    >>> found = scan(model, [*clean, *corrupt], {"bands": Bands(neurons())}, progress=False)
    >>> examples = unit_examples(model, found, [(1, 17)], active=0.5, width=8)
    >>> sorted(examples)
    ['L1N17']
    """
    _check(train=train, test=test, width=width)
    if not 0 < active <= 1:
        raise BadInput(f"active must be a share above 0 and at most 1, got {active}")
    source = OfWiki(model, found, kind, side) if isinstance(found, Wiki) else OfScan(found, kind, side)
    sign = 1 if side == "largest" else -1
    rng = random.Random(seed)
    listed = {unit: firing_rows(source, unit, sign, active) for unit in units}
    drawn = rng.sample(source.documents, min(len(source.documents), TRIES * test))
    wanted = sorted({document for rows in listed.values() for document, *_ in rows} | set(drawn))
    length = source.length or model.cfg.n_ctx if length is None else length
    traces = traces_of(model, source, units, wanted, length)
    texts = {document: _texts(model, source.tokens(document)) for document in wanted}
    made: dict[str, UnitExamples] = {}
    for unit, rows in listed.items():
        making = _Making(name_of_unit(kind, *unit), kind, side, texts, traces[unit], sign, width, rng)
        made[making.name] = making.examples(rows, drawn, active, train, test)
    if kind == "head":
        packer = Packer(model=model, length=length, longer="split", exclude=("bos",), tokens_at_once=length)
        made = {
            name: _with_attention(model, packer, source, unit, one)
            for unit, (name, one) in zip(listed, made.items(), strict=True)
        }
    return made


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise BadInput(f"{name} must be at least 1, got {count}")


def _on_a_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _texts(model: HookedTransformer, tokens: Int[Tensor, " pos"]) -> list[str]:
    """The text of each token; ids with a space before them where nobody knows a text."""
    name = names_of(model)
    known = model.tokenizer is not None
    return [name(one) if known else f" {name(one)}" for one in tokens.tolist()]


# -------------------------------------------------------------------------------------------------------- making them


@dataclass(frozen=True, eq=False)
class _Making:
    """How the examples of one unit are made."""

    name: str
    kind: str
    side: Side
    texts: Mapping[int, Sequence[str]]
    trace: Trace
    sign: int
    width: int
    rng: random.Random

    def examples(self, rows: Sequence[Row], drawn: Sequence[int], active: float, train: int, test: int) -> UnitExamples:
        largest = max(row[2] for row in rows)
        threshold = active * largest
        seen: set[str] = set()
        fires = list(self._new((self._around(*row, largest) for row in self._shuffled(rows)), seen))
        in_rows = {document for document, *_ in rows}
        random_ones = (self._silent(document, threshold) for document in drawn if document not in in_rows)
        silent = list(self._new((one for one in random_ones if one is not None), seen))
        if len(fires) < 2 or not silent:
            raise BadInput(
                f"{self.name} fires in {len(fires)} different examples of the scan, and is silent in {len(silent)} "
                f"random ones (it fires from {threshold:.3g} on); at least 2 and 1 are needed. Scan more documents, "
                "keep more with Bands(units, n=20), or choose another active="
            )
        apart = _apart(fires, train, test)
        return UnitExamples(
            name=self.name,
            kind=self.kind,
            largest=largest,
            threshold=threshold,
            train=apart[0][:train],
            test=apart[1][:test],
            silent=silent[:test],
        )

    def _shuffled(self, rows: Sequence[Row]) -> list[Row]:
        return self.rng.sample(rows, len(rows))

    def _new(self, made: Iterable[Example], seen: set[str]) -> Iterator[Example]:
        """Those whose text was not there before."""
        for one in made:
            if one.text not in seen:
                seen.add(one.text)
                yield one

    def _around(self, document: int, position: int, value: float, largest: float) -> Example:
        """The text around a place."""
        read = self.sign * float(self.trace[document][position])
        if not abs(read - value) <= AGREE * largest:
            raise BadInput(
                f"{self.name} is {value:.4g} at token {position} of document {document} in the scan, and now "
                f"{read:.4g}: length= must be that of the scan, and the model the same"
            )
        before = self.rng.randrange(self.width // 4, max(self.width // 4 + 1, self.width - self.width // 4))
        band = band_names(self.side)[int(band_of(torch.tensor(value)))]
        return replace(self._window(document, position - before), band=band)

    def _silent(self, document: int, threshold: float) -> Example | None:
        """A random text of a document in which the unit does not fire, if some tries find one."""
        for _ in range(TRIES):
            one = self._window(document, self.rng.randrange(max(1, len(self.texts[document]) - self.width + 1)))
            if not one.firing(threshold) and any(value == value for value in one.activations):
                return one
        return None

    def _window(self, document: int, start: int) -> Example:
        """The text from about a place on, within the document and without what does not count at its beginning."""
        values = self.sign * self.trace[document]
        counted = (~values.isnan()).nonzero()[:, 0].tolist() or [0]
        start = max(counted[0], min(start, len(values) - self.width))
        part = slice(start, start + self.width)
        return Example(
            document=document,
            start=start,
            tokens=tuple(self.texts[document][part]),
            activations=tuple(values[part].tolist()),
        )


def _apart(fires: Sequence[Example], train: int, test: int) -> tuple[list[Example], list[Example]]:
    """Examples in two lists, in the ratio of two numbers in every band; in each list, bands take turns."""
    bands: dict[str, list[Example]] = {}
    for one in fires:
        bands.setdefault(one.band, []).append(one)
    parts: tuple[list[list[Example]], list[list[Example]]] = ([], [])
    counts = [0, 0]
    for band in bands.values():
        of_band: tuple[list[Example], list[Example]] = ([], [])
        for one in band:
            part = int(counts[0] * test > counts[1] * train)
            counts[part] += 1
            of_band[part].append(one)
        for part in (0, 1):
            parts[part].append(of_band[part])
    first, second = ([one for one in chain(*zip_longest(*lists)) if one is not None] for lists in parts)
    return first, second


def _with_attention(
    model: HookedTransformer, packer: Packer, source: OfScan | OfWiki, unit: Where, made: UnitExamples
) -> UnitExamples:
    """The examples by which a head is explained, with what its strongest tokens attend to, beside the first token."""
    layer, head = unit
    assert layer is not None
    train = []
    for one in made.train:
        tokens = source.tokens(one.document)
        strongest = one.start + max(one.firing(made.threshold), key=one.activations.__getitem__)
        for piece in packer.pieces(one.document, tokens):
            places = piece.positions.tolist()
            if strongest in places:
                query, texts = places.index(strongest), _texts(model, piece.tokens)
                row = patterns_of(model, piece, [layer])[layer][head, query, : query + 1].float().cpu()
                row[: int(leads(model, piece.tokens) or query > 0)] = -1.0
                best = row.topk(min(KEYS, len(row)))
                keys = [
                    (texts[key], query - key, round(share, 3))
                    for share, key in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                    if share > 0
                ]
                one = replace(one, attended=tuple(keys))
        train.append(one)
    return replace(made, train=train)
