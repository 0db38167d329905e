"""Random tokens in place of a corpus, and what every test of reducers asks of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_hooks.corpus import Reducer, Seen
from interp_hooks.corpus.reducers.base import State

N_UNITS = 5


def random_seen(seed: int, documents: Sequence[int], length: int = 6, ties: bool = False) -> Seen:
    """What a pass over some documents of one length may show; with `ties` many values are equal."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(documents) * length, N_UNITS, generator=generator)
    return Seen(
        values=values.round() if ties else values,
        tokens=torch.randint(7, (len(values),), generator=generator),
        documents=torch.tensor(documents).repeat_interleave(length),
        positions=torch.arange(length).repeat(len(documents)),
        pieces=torch.arange(len(documents)).repeat_interleave(length),
        layer=0,
    )


def joined(*parts: Seen) -> Seen:
    """Several passes as one."""
    sizes = [int(part.pieces.max()) + 1 for part in parts]
    shifts = [sum(sizes[:place]) for place in range(len(parts))]
    fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("values", "tokens", "documents")}
    return Seen(
        **fields,
        positions=torch.cat([part.positions for part in parts]),
        pieces=torch.cat([part.pieces + shift for part, shift in zip(parts, shifts, strict=True)]),
        layer=0,
    )


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_merges(reducer: Reducer, ties: bool = False) -> None:
    """However batches are merged, in any order and grouping, the state has the same bits."""
    parts = [random_seen(seed, [3 * seed + n for n in range(3)], ties=ties) for seed in range(6)]
    states = [reducer.reduce(part) for part in parts]
    whole = states[0]
    for state in states[1:]:
        whole = reducer.merge(whole, state)
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        left = [states[place] for place in torch.randperm(len(states), generator=generator)]
        while len(left) > 1:
            place = int(torch.randint(len(left) - 1, (), generator=generator))
            left[place : place + 2] = [reducer.merge(left[place], left[place + 1])]
        assert_same(left[0], whole)


def largest_per_document(seen: Seen, unit: int, sign: int = 1) -> list[tuple[float, int, int]]:
    """By hand: the largest value of each document, its number and position, by the rule of ties."""
    best: dict[int, tuple[float, int, int]] = {}
    for row in range(len(seen.values)):
        document, position = int(seen.documents[row]), int(seen.positions[row])
        found = (-sign * float(seen.values[row, unit]), document, position)
        best[document] = min(best.get(document, found), found)
    return [(-sign * value, document, position) for value, document, position in sorted(best.values())]


def tensor_of(found: list[tuple[float, int, int]], place: int) -> Tensor:
    return torch.tensor([one[place] for one in found])
