"""Counts, means and spreads of units, and their histograms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_hooks.corpus.reducers.base import Reducer, State, added, exact, number
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput


@dataclass(frozen=True)
class Statistics(Reducer):
    """How often, how much and how widely each unit is active.

    The result has, [unit] each: `mean`, `std` (of the population), `min`, `max`, `active` (the share of tokens above 0)
    and `positive` (the mean of what is above 0, 0 elsewhere), beside the number of tokens, `count`.
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        parts = [_of_some(values) for values in seen.values.split(SHORT)]
        found = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        sums = {name: exact(found[name].sum(0, dtype=torch.float64).cpu()) for name in ("sum", "positive", "squares")}
        return {
            "count": torch.tensor(len(seen.values)),
            "active": found["active"].sum(0).cpu(),
            **sums,
            "min": found["min"].amin(0).cpu().float(),
            "max": found["max"].amax(0).cpu().float(),
        }

    def merge(self, one: State, other: State) -> State:
        how = {"min": torch.minimum, "max": torch.maximum, "count": torch.add, "active": torch.add}
        return {name: how.get(name, added)(one[name], other[name]) for name in one}

    def result(self, state: State) -> dict[str, Tensor]:
        count = state["count"]
        mean = number(state["sum"]) / count
        variance = number(state["squares"]) / count - mean**2
        return {
            "count": count,
            "mean": mean,
            "std": variance.clamp(min=0).sqrt(),
            "min": state["min"],
            "max": state["max"],
            "active": state["active"].double() / count,
            "positive": number(state["positive"]) / count,
        }


SHORT = 128  # tokens: so many are summed in the values' own precision, while the processor has them at hand


def _of_some(values: Tensor) -> dict[str, Tensor]:
    """What `Statistics` adds up, of some tokens."""
    above = values.clamp(min=0)
    return {
        "active": (values > 0).sum(0),
        "sum": values.sum(0),
        "positive": above.sum(0),
        "squares": values.square().sum(0),
        "min": values.amin(0),
        "max": values.amax(0),
    }


FIRST, LAST = -12, 9  # exponents of the smallest and largest bins' lower edges


@dataclass(frozen=True)
class Histogram(Reducer):
    """How many tokens there are in each octave of every unit's activation, negative ones apart.

    The result is `counts` [unit, bin] and the lower `edges` [bin]: ... -2^-11, -2^-12 (what is nearer to 0, on both
    sides), 2^-12, 2^-11, ... The first and the last bin hold everything beyond.
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        one = torch.ones((), dtype=torch.long, device=seen.values.device)
        each = one.new_zeros(512, seen.values.shape[1])
        for values in seen.values.split(SHORT):
            sign_and_exponent = (values.float().view(torch.int32) >> 23).long() + 256  # of a float32: 0..511
            each.scatter_add_(0, sign_and_exponent, one.expand_as(sign_and_exponent))
        counts = one.new_zeros(2 * _SIZES + 1, seen.values.shape[1]).index_add_(0, _BINS.to(one.device), each)
        return {"counts": counts.T.contiguous().cpu()}

    def merge(self, one: State, other: State) -> State:
        return {"counts": one["counts"] + other["counts"]}

    def result(self, state: State) -> dict[str, Tensor]:
        octaves = [2.0**exponent for exponent in range(FIRST, LAST + 1)]
        lower = [-torch.inf, *(-one for one in octaves[:0:-1]), -octaves[0], *octaves]
        return {"counts": state["counts"], "edges": torch.tensor(lower, dtype=torch.float64)}


_SIZES = LAST - FIRST + 1  # 0: nearer to 0 than the smallest bin


def _bins() -> Tensor:
    """The bin of each sign and exponent that a float32 can have: negative ones first, each from 2^-127 up."""
    size = (torch.arange(256) - 126 - FIRST).clamp(0, _SIZES)
    return torch.cat((_SIZES - size, _SIZES + size))


_BINS = _bins()


@dataclass(frozen=True)
class MeanByToken(Reducer):
    """The mean of each unit at every token id that the corpus has: what a unit answers to, word by word.

    It takes 16 bytes for every id and unit, so select units (`Units(..., select=)`) where there are many.

    The result has `tokens` [n], their `counts` [n], and `means` [n, unit].
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        tokens, place, counts = seen.tokens.unique(return_inverse=True, return_counts=True)
        if len(tokens) * seen.values.shape[1] > MOST:
            raise BadInput(
                f"means of {seen.values.shape[1]} units at {len(tokens)} token ids do not fit into memory; select "
                "fewer units with Units(..., select=)"
            )
        sums = torch.zeros(len(tokens), seen.values.shape[1], dtype=torch.float64, device=seen.values.device)
        sums.index_add_(0, place, seen.values.double())
        return {"tokens": tokens.cpu(), "counts": counts.cpu(), "sums": exact(sums.cpu())}

    def merge(self, one: State, other: State) -> State:
        tokens, place = torch.cat((one["tokens"], other["tokens"])).unique(return_inverse=True)
        counts = torch.zeros(len(tokens), dtype=torch.long)
        sums = torch.zeros(2, len(tokens), *one["sums"].shape[2:], dtype=torch.long)
        for state, at in zip((one, other), place.split([len(one["tokens"]), len(other["tokens"])]), strict=True):
            counts[at] += state["counts"]
            sums[:, at] = added(sums[:, at], state["sums"])
        return {"tokens": tokens, "counts": counts, "sums": sums}

    def result(self, state: State) -> dict[str, Tensor]:
        means = number(state["sums"]) / state["counts"][:, None]
        return {"tokens": state["tokens"], "counts": state["counts"], "means": means}


MOST = 2**27  # numbers of one state


@dataclass(frozen=True)
class Moments(Reducer):
    """The mean and covariance of an activation's coordinates, as lenses, probes and erasers need them.

    The result has `count`, `mean` [unit] and `covariance` [unit, unit] (of the population), in float64.
    """

    units: Units

    def reduce(self, seen: Seen) -> State:
        values = seen.values.double()
        return {
            "count": torch.tensor(len(values)),
            "sum": exact(values.sum(0).cpu()),
            "products": exact((values.T @ values).cpu()),
        }

    def merge(self, one: State, other: State) -> State:
        return {
            "count": one["count"] + other["count"],
            "sum": added(one["sum"], other["sum"]),
            "products": added(one["products"], other["products"]),
        }

    def result(self, state: State) -> dict[str, Tensor]:
        mean = number(state["sum"]) / state["count"]
        products = number(state["products"]) / state["count"]
        return {"count": state["count"], "mean": mean, "covariance": products - mean[:, None] * mean}


@dataclass(frozen=True)
class CoActivation(Reducer):
    """How often two units are active, above a threshold, at one token.

    The result is `together` [unit, unit], whose diagonal counts each unit alone, and the number of tokens, `count`. It
    takes 8 bytes for every pair, so select units (`Units(..., select=)`) where there are many.
    """

    units: Units
    threshold: float = 0.0

    def reduce(self, seen: Seen) -> State:
        if seen.values.shape[1] ** 2 > MOST:
            raise BadInput(f"pairs of {seen.values.shape[1]} units do not fit into memory; select fewer")
        active = (seen.values > self.threshold).double()  # exact up to 2^53 tokens
        return {"count": torch.tensor(len(active)), "together": (active.T @ active).long().cpu()}

    def merge(self, one: State, other: State) -> State:
        return {name: one[name] + other[name] for name in one}
