import pytest
import torch

from interp_hooks.corpus import TopK, neurons
from interp_hooks.errors import BadInput
from tests.corpus.streams import (
    N_UNITS,
    assert_merges,
    assert_same,
    joined,
    largest_per_document,
    random_seen,
    tensor_of,
)
from tests.tiny import unchecked_types


@pytest.mark.parametrize("side", ["largest", "smallest"])
@pytest.mark.parametrize("ties", [False, True])
def test_is_a_full_sort_for_any_split(side: str, ties: bool) -> None:
    sign = 1 if side == "largest" else -1
    reducer = TopK(neurons(), k=4, side=side)
    parts = [random_seen(seed, [2 * seed, 2 * seed + 1], ties=ties) for seed in range(6)]
    for seed in range(10):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed)).tolist()
        cut = 1 + seed % 5
        state = reducer.merge(
            reducer.reduce(joined(*(parts[place] for place in order[:cut]))),
            reducer.reduce(joined(*(parts[place] for place in order[cut:]))),
        )
        for unit in range(N_UNITS):
            sorted_by_hand = largest_per_document(joined(*parts), unit, sign)[:4]
            for place, name in enumerate(("values", "documents", "positions")):
                assert torch.equal(state[name][unit], tensor_of(sorted_by_hand, place).to(state[name].dtype))


@pytest.mark.parametrize("ties", [False, True])
def test_merges_exactly(ties: bool) -> None:
    assert_merges(TopK(neurons(), k=4), ties)
    assert_merges(TopK(neurons(), k=40, side="smallest"), ties)


def test_a_document_counts_once_wherever_its_pieces_are() -> None:
    reducer = TopK(neurons(), k=3)
    first, second = random_seen(0, [4, 5]), random_seen(1, [4, 6])
    state = reducer.merge(reducer.reduce(first), reducer.reduce(second))
    assert sorted(state["documents"][0].tolist()) == [4, 5, 6]
    assert_same(state, reducer.reduce(joined(first, second)))


def test_fewer_documents_than_asked_for() -> None:
    state = TopK(neurons(), k=4).reduce(random_seen(0, [0, 1]))
    assert state["documents"][:, 2:].eq(-1).all()
    assert state["values"][:, 2:].isneginf().all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 1"):
        TopK(neurons(), k=0)
    with unchecked_types(), pytest.raises(BadInput, match="'biggest'"):
        TopK(neurons(), side="biggest")  # pyright: ignore[reportArgumentType]
