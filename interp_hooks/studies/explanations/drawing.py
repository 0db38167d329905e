"""Texts in which a unit fires, some to explain it by and others to test an explanation on, and texts in which it does
not.

    found = scan(model, corpus, {"bands": Bands(neurons(), n=20)})         or a wiki, which has such a scan's examples
    examples = unit_examples(model, found, [(3, 17)])["L3N17"]
    examples.train, examples.test, examples.silent                         no two of them are of the same document

A unit fires at a token if its activation is at least `threshold` there, which lies between its mean and its largest
activation (heads always write something). Texts of train and test come from all bands of activation in which the scan
kept examples, alike; of silent ones, which are of random documents, no token fires. All are windows of the same width,
with the strongest token anywhere in their middle half, so that neither length nor place tells them apart.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.corpus.packing import Packer
from interp_hooks.corpus.reducers.bands import band_of
from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, Seed, checked
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.explanations.sources import (
    Example,
    OfScan,
    OfWiki,
    Row,
    Trace,
    UnitExamples,
    Where,
    firing_rows,
    name_of_unit,
    traces_of,
    unit_named,
)
from interp_hooks.studies.wikis.head_columns import patterns_of
from interp_hooks.studies.wikis.tables import Wiki
from interp_hooks.studies.wikis.units import band_names

KEYS = 3  # that a head attends to most
TRIES = 4  # random documents for each silent text that is asked for, and windows tried in each
AGREE = 0.02  # of the largest activation, between a scan and what is read again


@checked
def unit_examples(
    model: HookedTransformer,
    found: Scan | Wiki,
    units: Sequence[str | tuple[int | None, int]],
    *,
    kind: str = "neuron",
    side: Side = "largest",
    train: Positive = 20,
    test: Positive = 20,
    width: Positive = 24,
    active: float = 0.25,
    length: Count | None = None,
    seed: Seed = 0,
) -> dict[str, UnitExamples]:
    """Examples of some units, from a scan or a wiki of the model, by their names.

    A unit is "L3N17", "L1H0", as wikis name them, or (layer, number) of a `kind`: "neuron", or the name of any `Units`
    that the scan read with `Bands` or `TopK`; features of a spliced dictionary say, whose layer is None. It fires where
    its activation is at least `active` of the way from its mean in random documents (0 if that is negative) to the
    largest one among its examples; with side "smallest" all this is of minus its activation. At most `train` and `test`
    of the scan's examples are taken, in this ratio if there are fewer, and up to `test` silent texts from random
    documents, all `width` tokens long. `length` is that of the scan, if it read documents in pieces.

    Raises:
        BadInput: the scan did not measure such a unit, it has too few examples or fires everywhere, or the model, or
            `length`, is another than that of the scan.

    >>> from interp_hooks.corpus import Bands, neurons, scan
    >>> from interp_hooks.studies import unit_examples
    >>> found = scan(model, [*clean, *corrupt], {"bands": Bands(neurons())}, progress=False)
    >>> examples = unit_examples(model, found, ["L1N17"], active=0.5, width=8)
    >>> sorted(examples)
    ['L1N17']
    """
    if not 0 < active <= 1:
        raise BadInput(f"active must be a share above 0 and at most 1, got {active}")
    by_kind: dict[str, list[Where]] = {}
    for unit in units:
        of_kind, where = unit_named(unit) if isinstance(unit, str) else (kind, unit)
        by_kind.setdefault(of_kind, []).append(where)
    names = functools.cache(names_of(model))
    made: dict[str, UnitExamples] = {}
    for of_kind, listed in by_kind.items():
        source = OfWiki(model, found, of_kind, side) if isinstance(found, Wiki) else OfScan(found, of_kind, side)
        making = _Making(
            model=model,
            source=source,
            name_of=names if model.tokenizer is not None else lambda id: f" {names(id)}",
            length=(source.length or model.cfg.n_ctx) if length is None else length,
            n_train=train,
            n_test=test,
            width=width,
            active=active,
            seed=seed,
        )
        made |= making.of_units(list(dict.fromkeys(listed)))
    return made


# -------------------------------------------------------------------------------------------------------- making them


@dataclass(frozen=True, kw_only=True, eq=False)
class _Making:
    """How examples of units of one kind are made."""

    model: HookedTransformer
    source: OfScan | OfWiki
    name_of: Callable[[int], str]
    length: int
    n_train: int
    n_test: int
    width: int
    active: float
    seed: int

    @property
    def sign(self) -> int:
        return 1 if self.source.side == "largest" else -1

    def of_units(self, units: Sequence[Where]) -> dict[str, UnitExamples]:
        """The examples of some units by name; those of one do not depend on the others."""
        source = self.source
        listed = {unit: firing_rows(source, unit, self.sign, self.active) for unit in units}
        n = min(len(source.documents), TRIES * self.n_test)
        drawn = random.Random(self.seed).sample(source.documents, n)
        wanted = sorted({document for rows in listed.values() for document, *_ in rows} | set(drawn))
        traces = traces_of(self.model, source, units, wanted, self.length)
        found = {}
        for unit, rows in listed.items():
            name = name_of_unit(source.kind, *unit)
            usual = torch.cat([self.sign * traces[unit][document] for document in drawn]).nanmean().clamp(min=0.0)
            of_unit = _OfUnit(self, name, unit, traces[unit], float(usual), random.Random(f"{self.seed} {name}"))
            found[name] = of_unit.examples(rows, drawn)
        return found

    def texts(self, tokens: Int[Tensor, " pos"]) -> list[str]:
        """The text of each token."""
        return [self.name_of(id) for id in tokens.tolist()]

    @cached_property
    def packer(self) -> Packer:
        """How the scan made pieces of documents."""
        options: dict[str, Any] = dict(longer="split", exclude=("bos",), tokens_at_once=self.length)
        return Packer(model=self.model, length=self.length, **options)


@dataclass(frozen=True, eq=False)
class _OfUnit:
    """How the examples of one unit are made."""

    making: _Making
    name: str
    unit: Where
    trace: Trace
    usual: float
    rng: random.Random

    def examples(self, rows: Sequence[Row], drawn: Sequence[int]) -> UnitExamples:
        making = self.making
        largest = max(row[2] for row in rows)
        threshold = self.usual + making.active * (largest - self.usual)
        rows = [row for row in rows if row[2] >= threshold]
        seen: set[str] = set()
        shuffled = self.rng.sample(rows, len(rows))
        fires = list(_new((self._around(*row, largest) for row in shuffled), seen))
        in_rows = {document for document, *_ in rows}
        random_ones = (self._silent(document, threshold) for document in drawn if document not in in_rows)
        silent = list(_new((one for one in random_ones if one is not None), seen))
        if len(fires) < 2 or not silent:
            raise BadInput(
                f"{self.name} fires in {len(fires)} different examples of the scan, and is silent in {len(silent)} "
                f"random texts (it fires from {threshold:.3g} on); at least 2 and 1 are needed. Scan more documents, "
                "keep more of each (per_band=20 of wiki, interp-hooks wiki --per-band 20, or Bands(units, n=20) in a "
                "scan of your own), or give a larger active= (--active), which leaves more texts silent"
            )
        train, test = _apart(fires, making.n_train, making.n_test)
        train = train[: making.n_train]
        if making.source.kind == "head":
            train = [self._with_attention(one, threshold) for one in train]
        return UnitExamples(
            name=self.name,
            kind=making.source.kind,
            largest=largest,
            threshold=threshold,
            train=train,
            test=test[: making.n_test],
            silent=silent[: making.n_test],
        )

    def _around(self, document: int, position: int, value: float, largest: float) -> Example:
        """The text around a place."""
        width = self.making.width
        read = self.making.sign * float(self.trace[document][position])
        if not abs(read - value) <= AGREE * largest:
            raise BadInput(
                f"{self.name} is {value:.4g} at token {position} of document {document} in the scan, and now "
                f"{read:.4g}: length= must be that of the scan, and the model the same"
            )
        before = self.rng.randrange(width // 4, max(width // 4 + 1, width - width // 4))
        band = band_names(self.making.source.side)[int(band_of(torch.tensor(value)))]
        return replace(self._window(document, position - before), band=band)

    def _silent(self, document: int, threshold: float) -> Example | None:
        """A random text of a document in which the unit does not fire, if some tries find one."""
        starts = max(1, len(self.trace[document]) - self.making.width + 1)
        for _ in range(TRIES):
            one = self._window(document, self.rng.randrange(starts))
            if not one.firing(threshold) and not all(map(math.isnan, one.activations)):
                return one
        return None

    def _window(self, document: int, start: int) -> Example:
        """The text from about a place on, within the document and without what does not count at its beginning."""
        values, width = self.making.sign * self.trace[document], self.making.width
        counted = (~values.isnan()).nonzero()[:, 0].tolist() or [0]
        start = max(counted[0], min(start, len(values) - width))
        part = slice(start, start + width)
        return Example(
            document=document,
            start=start,
            tokens=tuple(self.making.texts(self.making.source.tokens(document)[part])),
            activations=tuple(values[part].tolist()),
        )

    def _with_attention(self, one: Example, threshold: float) -> Example:
        """An example of a head with what its strongest token attends to."""
        layer, head = self.unit
        assert layer is not None
        strongest = one.start + max(one.firing(threshold), key=one.activations.__getitem__)
        for piece in self.making.packer.pieces(one.document, self.making.source.tokens(one.document)):
            places = piece.positions.tolist()
            patterns = patterns_of(self.making.model, piece, [layer]) if strongest in places else {}
            if layer in patterns:
                query, texts = places.index(strongest), self.making.texts(piece.tokens)
                best = patterns[layer][head, query].float().cpu().topk(min(KEYS, len(places)))
                keys = zip(best.values.tolist(), best.indices.tolist(), strict=True)
                attended = [(texts[key], query - key, round(share, 3)) for share, key in keys if share > 0]
                return replace(one, attended=tuple(attended))
        return one


def _new(made: Iterable[Example], seen: set[str]) -> Iterator[Example]:
    """Those whose text was not there before."""
    for one in made:
        if one.text not in seen:
            seen.add(one.text)
            yield one


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
