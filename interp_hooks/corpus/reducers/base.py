"""What a scan computes: reducers, whose states merge.

    reduce(seen)         the state that some tokens give
    merge(one, other)    the state of both; associative and exact, so that no split of a corpus changes a bit
    result(state)        what users see of it

A state is a mapping from names to tensors, and nothing else: it is kept on disk and sent between processes as it is.
Sums of floating-point numbers are not associative, so states hold them in fixed point, as `exact` makes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput

State = Mapping[str, Tensor]
States = dict[str, dict[int | None, State]]
"""By the name of the reducer and the layer."""
BITS = 62


class Merges(ABC):
    """States of a kind, however they come about: how two merge, and what users see of one.

    Subclass it as a dataclass of plain values: a scan that goes on where it was interrupted compares them.
    """

    @abstractmethod
    def merge(self, one: State, other: State) -> State:
        """The state of what gave one and what gave the other; changes neither."""

    def result(self, state: State) -> Any:
        """What users see of a layer's state: by default the state."""
        return dict(state)


class Reducer(Merges):
    """Something that is computed of every token of a corpus; `units` says of which numbers."""

    units: Units

    @abstractmethod
    def reduce(self, seen: Seen) -> State:
        """The state that some tokens of one layer give."""


def merged(reducers: Mapping[str, Merges], one: States, other: States) -> States:
    """The states of two parts of a corpus, as those of both."""
    both: States = {}
    for name, reducer in reducers.items():
        first, second = one.get(name, {}), other.get(name, {})
        both[name] = {
            layer: reducer.merge(first[layer], second[layer])
            if layer in first and layer in second
            else first.get(layer, second.get(layer, {}))
            for layer in {**first, **second}
        }
    return both


def exact(values: Float[Tensor, "*shape"]) -> Int[Tensor, "2 *shape"]:
    """Numbers in fixed point, whole part and rest in units of 2^-62, whose sums are exact and so associative.

    Raises:
        BadInput: a number beyond 4e18, or none.
    """
    values = values.double()
    if not bool((values.abs() < 2**BITS).all()):
        raise BadInput("activations sum up to numbers that are too large or nan; look for infinite activations")
    whole = values.trunc()
    rest = ((values - whole) * 2**BITS).long()
    return _carried(whole.long(), rest)


def added(one: Int[Tensor, "2 *shape"], other: Int[Tensor, "2 *shape"]) -> Int[Tensor, "2 *shape"]:
    """The sum of numbers in fixed point."""
    return _carried(*(one + other))


def _carried(whole: Tensor, rest: Tensor) -> Int[Tensor, "2 *shape"]:
    """With a rest that is not negative and less than one whole."""
    return torch.stack((whole + (rest >> BITS), rest & (2**BITS - 1)))


def number(fixed: Int[Tensor, "2 *shape"]) -> Float[Tensor, "*shape"]:
    """Numbers in fixed point as float64."""
    below = (fixed[0] < 0).long()  # small negative numbers are -1 and a rest: as one float, that would lose digits
    return (fixed[0] + below).double() + (fixed[1] - (below << BITS)).double() / 2**BITS
