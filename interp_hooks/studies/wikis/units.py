"""The units that have a page, and what one scan over the corpus keeps of each.

head             how much it writes: the length of z W_O, its part of the stream (before any norm of its output)
neuron           what it gives on to the output weights ("post")
expert_neuron    the same in an expert, times the router's weight; the neurons of all experts are numbered in turn
shared_neuron    the same in the MLP that stands beside experts and that all tokens pass
..._feature      how active a feature of a dictionary is, which reads the model as it is; a kind for each dictionary

Neurons that may well be negative, as in gated MLPs, have two sides: examples of the smallest values, and of bands
below 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.reducers.active import ActiveUnits
from interp_hooks.corpus.reducers.bands import FIRST, LAST, Bands
from interp_hooks.corpus.reducers.base import Reducer
from interp_hooks.corpus.reducers.statistics import Histogram, Statistics
from interp_hooks.corpus.reducers.top import Side, TopK
from interp_hooks.corpus.units import Part, Units, neurons
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.errors import BadInput
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.features.units import LayerFeatures, by_layer, feature_units
from interp_hooks.studies.heads.criteria import norm_factor, written_norms
from interp_hooks.studies.neurons.weights import signed

UnitKind = Literal["head", "neuron", "expert_neuron", "shared_neuron"]
PARTS: Mapping[UnitKind, Part] = {"neuron": "mlp", "expert_neuron": "experts", "shared_neuron": "shared"}
ENDS: Mapping[Side, str] = {"largest": "top", "smallest": "bottom"}
"""What the examples at either end are called; the bands of that side are "top_bands" and "bottom_bands"."""


def result_norm(
    found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
) -> Float[Tensor, "row pos head"]:
    """The length of what each head writes, from z."""
    assert layer is not None
    return written_norms(found["z"], norm_factor(model.whole(model.blocks[layer].attn.W_O)))


@dataclass(frozen=True)
class Kind:
    """A kind of units: what is measured of them, in which words, and at which ends of their activation.

    `letter` stands in their names ("L3N17"), and `of_expert` is how many of them each expert has. `dictionaries`, by
    layer, are those of which they are features.
    """

    name: str
    units: Units
    activation: str
    activation_unit: str
    letter: str = "N"
    of_expert: int | None = None
    sides: Sequence[Side] = ("largest",)
    dictionaries: Mapping[int, LayerFeatures] = field(default_factory=dict)

    def reducers(self, top: int, per_band: int, seed: int) -> dict[str, Reducer]:
        """What a scan keeps of these units, each under the kind's name."""
        found: dict[str, Reducer] = {
            f"{self.name}_statistics": Statistics(self.units),
            f"{self.name}_histogram": Histogram(self.units),
        }
        if self.dictionaries:
            found[f"{self.name}_active"] = ActiveUnits(self.units)
        for side in self.sides:
            end = ENDS[side]
            found[f"{self.name}_{end}"] = TopK(self.units, k=top, side=side)
            found[f"{self.name}_{end}_bands"] = Bands(self.units, n=per_band, seed=seed, side=side)
        return found


HEADS = Kind(
    "head",
    Units("head", ("z",), of=result_norm),
    "norm of what the head writes",
    "length of a vector in the residual stream",
    "H",
)


def sides_of(model: HookedTransformer) -> Sequence[Side]:
    """The ends at which the activation of a model's neurons may be large."""
    return ("largest", "smallest") if signed(model) else ("largest",)


def kinds_of(model: HookedTransformer) -> list[Kind]:
    """The kinds of units that a model has."""
    plain = Kind("neuron", neurons(), "activation after the nonlinearity", "activation", sides=sides_of(model))
    kinds = [HEADS, plain]
    if model.cfg.experts is not None:
        one = replace(plain, name="expert_neuron", units=neurons(part="experts"), letter="E")
        weighted = "activation after the nonlinearity, times the router's weight"
        kinds.append(replace(one, activation=weighted, of_expert=model.cfg.experts.d_expert))
        kinds.append(replace(plain, name="shared_neuron", units=neurons(part="shared"), letter="S"))
    return [kind for kind in kinds if kind.units.exist(model)]


def feature_kinds(
    model: HookedTransformer, dictionaries: Mapping[str, Dictionary | Sequence[Dictionary]]
) -> list[Kind]:
    """The kinds of units that some dictionaries have, by the names of these.

    Raises:
        BadInput: a name that cannot be one of a table, or dictionaries that `feature_units` refuses.
    """
    kinds: list[Kind] = []
    for name, listed in dictionaries.items():
        if not name.isidentifier():
            raise BadInput(f"dictionaries have names that a table can have, such as 'sae', got {name!r}")
        by, kind = by_layer(model, listed), f"{name}_feature"
        units = feature_units(model, listed, name=kind)
        kinds.append(Kind(kind, units, "activation of the feature", "activation", letter="F", dictionaries=by))
    return kinds


def band_names(side: Side = "largest") -> list[str]:
    """The bands of activation by name: octaves, from the smallest on; on the other side, those of minus the activation.

    >>> band_names()[1], band_names("smallest")[1]
    ('1/256 to 1/128', '-1/256 to -1/128')
    """
    sign, (beyond, within) = ("", ("more", "below")) if side == "largest" else ("-", ("less", "above"))
    edges = [sign + str(Fraction(2) ** exponent) for exponent in range(FIRST, LAST + 1)]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"{within} {edges[0]}", *between, f"{edges[-1]} and {beyond}"]
