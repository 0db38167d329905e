"""The units that have a page, and what one scan over the corpus keeps of each.

head      how much it writes: the length of z W_O, what the head adds to the stream (before any norm of its output)
neuron    what it gives on to the output weights ("post")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.reducers.bands import FIRST, LAST, Bands
from interp_hooks.corpus.reducers.base import Reducer
from interp_hooks.corpus.reducers.statistics import Histogram, Statistics
from interp_hooks.corpus.reducers.top import TopK
from interp_hooks.corpus.units import Units, neurons
from interp_hooks.hooks.names import get_act_name
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.criteria import norm_factor, written_norms

UnitKind = Literal["head", "neuron"]
TOP = "top"


def result_norm(
    found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
) -> Float[Tensor, "row pos head"]:
    """The length of what each head writes, from z."""
    assert layer is not None
    return written_norms(found["z"], norm_factor(model.blocks[layer].attn.W_O))


@dataclass(frozen=True)
class Kind:
    """A kind of units: what is measured of them, and in which words."""

    name: UnitKind
    units: Units
    activation: str
    activation_unit: str

    def reducers(self, top: int, per_band: int, seed: int) -> dict[str, Reducer]:
        """What a scan keeps of these units, each under the kind's name."""
        return {
            f"{self.name}_top": TopK(self.units, k=top),
            f"{self.name}_bands": Bands(self.units, n=per_band, seed=seed),
            f"{self.name}_statistics": Statistics(self.units),
            f"{self.name}_histogram": Histogram(self.units),
        }


KINDS = (
    Kind(
        "head",
        Units("head", ("z",), of=result_norm),
        "norm of what the head writes",
        "length of a vector in the residual stream",
    ),
    Kind("neuron", neurons(), "activation after the nonlinearity", "activation"),
)


def kinds_of(model: HookedTransformer) -> list[Kind]:
    """The kinds of units that a model has."""
    layers = range(model.cfg.n_layers)
    return [
        kind
        for kind in KINDS
        if any(all(get_act_name(hook, layer) in model.hook_dict for hook in kind.units.hooks) for layer in layers)
    ]


def band_names() -> list[str]:
    """The activation bands by name, octaves from the smallest on."""
    edges = [str(Fraction(2) ** exponent) for exponent in range(FIRST, LAST + 1)]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and more"]
