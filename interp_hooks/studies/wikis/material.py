"""What columns and listings of a wiki are, and what they are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp_hooks.corpus.packing import Piece
from interp_hooks.corpus.reducers.base import State
from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.runs import Run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.features.units import LayerFeatures
from interp_hooks.studies.findings import Finding
from interp_hooks.studies.neurons.contexts import stacked
from interp_hooks.studies.neurons.vocabulary import VocabularyEffect, neuron_table, vocabulary_effect
from interp_hooks.studies.wikis.units import Kind, sides_of

LISTED = 10  # tokens of a listing
END: Mapping[Side, str] = {"largest": "max", "smallest": "min"}  # what statistics call it
RUNS = 8  # documents of the sample on which effects are measured

Made = TypeVar("Made")
Sizes = Mapping[int, int]
"""How many units of a kind each layer has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """Something that is known of every unit of a kind: a number, in some `unit`, or a label (a str; "" is none).

    `values` are [layer, unit], a tensor or nested sequences, or a mapping from layers to [unit]. A number that is not
    known is nan.
    """

    name: str
    unit: str
    about: str
    values: Tensor | Sequence[Sequence[Any]] | Mapping[int, Any]

    def of_layer(self, layer: int) -> list[Any]:
        values = self.values[layer]
        return values.tolist() if isinstance(values, Tensor) else list(values)

    @property
    def is_label(self) -> bool:
        layers = self.values if isinstance(self.values, Mapping) else range(len(self.values))
        return any(isinstance(one, str) for layer in layers for one in self.of_layer(layer)[:1])

    def check(self, sizes: Sizes) -> None:
        """Raises BadInput unless there is one value for each unit."""
        try:
            found = {layer: len(self.of_layer(layer)) for layer in sizes}
        except (KeyError, IndexError):
            found = None
        if found != dict(sizes):
            raise BadInput(f"the column {self.name!r} needs a value for each unit, {dict(sizes)} by layer, got {found}")


def columns_from(described: Mapping[str, tuple[str, str]], values: Callable[[str], Any]) -> list[Column]:
    """Columns by their names, of which a table gives units and what they are about, with the values of each."""
    return [Column(name=name, unit=unit, about=about, values=values(name)) for name, (unit, about) in described.items()]


LOST = {
    "loss": ("loss_change_nats", "next-token loss rises"),
    "kl": ("kl_nats", "predictions diverge"),
}


def lost_columns(rows: Mapping[tuple[str, int, int], Mapping[str, Any]], sizes: Sizes, ablated: str) -> list[Column]:
    """What is lost without each of the units that were examined, of which `rows` tell by contexts, layer and number."""
    made = []
    for contexts in dict.fromkeys(contexts for contexts, *_ in rows):
        for what, (name, told) in LOST.items():
            values = {layer: [math.nan] * n for layer, n in sizes.items()}
            for (of, layer, unit), row in rows.items():
                if of == contexts:
                    values[layer][unit] = float(row[name])
            about = f"by how much {told} on {contexts} contexts if {ablated} (of those examined)"
            made.append(Column(name=f"{contexts}_{what}_if_ablated", unit="nats", about=about, values=values))
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Some texts for every unit, with a number each (or None): tokens that it raises, prompts that drive it.

    `entries` are, by layer, a list for each unit. `of_units` says that the texts are names of units of the same kind.
    """

    name: str
    unit: str
    about: str
    entries: Mapping[int, Sequence[Sequence[tuple[str, float | None]]]]
    of_units: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What columns are made from: a model, what a scan found, and some pieces of documents that were drawn for more.

    `words` gives the text of a token id; `causal` asks for effects, which take many passes. `n_examined` neurons of
    each layer, those whose most extreme activation stands out most, get metrics that take passes of their own.
    """

    model: HookedTransformer
    found: Scan
    sample: Sequence[Piece] = field(repr=False)
    words: Callable[[int], str]
    kinds: Mapping[str, Kind] = field(repr=False)
    causal: bool
    progress: bool
    n_examined: int
    findings: Sequence[Finding] = ()
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` makes, or made when it was asked for by that name before."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def statistics(self, kind: str) -> dict[int, State]:
        """By layer, what the scan says of the activations of a kind of units."""
        return {int(layer): one for layer, one in self.found[f"{kind}_statistics"].items() if layer is not None}

    @cached_property
    def sizes(self) -> Mapping[str, Sizes]:
        """By kind and layer, how many units there are."""
        return {kind: {layer: len(one["mean"]) for layer, one in self.statistics(kind).items()} for kind in self.kinds}

    @cached_property
    def dictionaries(self) -> Mapping[str, Mapping[int, LayerFeatures]]:
        """By kind and layer, the dictionaries whose features units are."""
        return {name: kind.dictionaries for name, kind in self.kinds.items() if kind.dictionaries}

    @cached_property
    def units(self) -> Mapping[str, Units]:
        """By kind, what the scan measured."""
        return {name: kind.units for name, kind in self.kinds.items()}

    @cached_property
    def vocabulary(self) -> VocabularyEffect:
        """What every neuron does to the vocabulary by its weights."""
        return vocabulary_effect(self.model, k=LISTED)

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """The table of all neurons."""
        return neuron_table(self.model, self.found, effect=self.vocabulary)

    def examined(self, kind: str) -> list[tuple[int, int]]:
        """The neurons of a kind that are examined, as (layer, neuron)."""
        if not self.has_vocabulary:
            return []
        ends = [END[side] for side in sides_of(self.model)]
        chosen: list[tuple[int, int]] = []
        for layer, one in self.statistics(kind).items():
            far = torch.stack([(one[end] - one["mean"]).abs() for end in ends]).amax(0)
            outstanding = (far / one["std"]).nan_to_num(0.0, 0.0, 0.0)
            chosen += [
                (layer, unit) for unit in outstanding.topk(min(self.n_examined, len(outstanding))).indices.tolist()
            ]
        return chosen

    @cached_property
    def run(self) -> Run:
        """The first `RUNS` of the sample as a run, padded on the right, for effects of single units."""
        return stacked(self.model, [piece.tokens for piece in self.sample[:RUNS]])

    @cached_property
    def checked_findings(self) -> list[tuple[Finding, bool]]:
        """The findings, each with whether it holds.

        Raises:
            BadInput: one about a part that the model does not have.
        """
        return [(finding, finding.holds(self.model)) for finding in self.findings]

    @property
    def has_effects(self) -> bool:
        """Whether effects are asked for, and the model predicts next tokens, so that there are any."""
        cfg = self.model.cfg
        return self.causal and cfg.attention_dir == "causal" and cfg.d_vocab_out == cfg.d_vocab

    @property
    def has_vocabulary(self) -> bool:
        """Whether the stream makes the logits, so that what neurons write to it is an effect on tokens."""
        return not self.model.cfg.mlm_head
