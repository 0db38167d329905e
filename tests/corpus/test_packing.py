"""Every token of every document is in some row, once, beside those of its piece."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus.packing import ADDED, Packer, Rows
from interp_hooks.errors import BadInput
from tests.tiny import build


@pytest.fixture(scope="module")
def tiny() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def packer(model: HookedTransformer, **changes: Any) -> Packer:
    given = dict(length=9, longer="refuse", exclude=("bos",), tokens_at_once=40)
    return Packer(model=model, **{**given, **changes})


def pieces_of(rows: list[Rows]) -> list[tuple[int, list[int], list[int]]]:
    """Document, token ids and positions of each piece, as the rows have them."""
    found = []
    for part in rows:
        for number in range(int(part.pieces.max()) + 1):
            there = part.pieces == number
            assert len(there.any(1).nonzero()) == 1, "a piece is in one row"
            places = there.any(0).nonzero()[:, 0]
            assert torch.equal(places, torch.arange(int(places[0]), int(places[-1]) + 1)), "its tokens stand together"
            (document,) = part.documents[there].unique().tolist()
            found.append((document, part.tokens[there].tolist(), part.positions[there].tolist()))
    return sorted(found, key=lambda one: (one[0], max(one[2])))


def test_documents_fill_rows_and_none_is_lost() -> None:
    model = build()
    documents = [torch.randint(1, 19, (size,)) for size in (3, 9, 1, 5, 2, 4, 9, 8)]
    many = packer(model)
    rows = many.rows([piece for number, one in enumerate(documents) for piece in many.pieces(number, one)])
    expected = [(number, one.tolist(), list(range(len(one)))) for number, one in enumerate(documents)]
    assert pieces_of(rows) == expected
    assert all(part.tokens.numel() <= 40 for part in rows)
    assert sum(len(part.tokens) for part in rows) == 5, "41 tokens in rows of 9"


def test_a_long_document_is_split_into_pieces_that_begin_with_its_bos(tiny: HookedTransformer) -> None:
    tokens = tiny.to_tokens("When Mary and John went to the store, John gave a drink to")[0]
    split = packer(tiny, length=6, longer="split")
    (rows,) = split.rows(split.pieces(7, tokens))
    found = pieces_of([rows])
    bos = int(tokens[0])
    assert all(ids[0] == bos for _, ids, _ in found)
    together = [(position, id) for _, ids, positions in found for position, id in zip(positions, ids, strict=True)]
    assert sorted(one for one in together if one[0] != ADDED) == list(enumerate(tokens.tolist()))
    assert rows.counted.sum() == len(tokens) - 1, "no BOS counts, neither its own nor those that were added"


def test_a_long_document_is_cut_or_refused() -> None:
    model, tokens = build(), torch.arange(1, 15)
    (piece,) = packer(model, longer="cut").pieces(0, tokens)
    assert torch.equal(piece.tokens, tokens[:9])
    with pytest.raises(BadInput, match=r"document 3 has 14 tokens, more than the 9 .* longer='split'"):
        packer(model).pieces(3, tokens)


@pytest.mark.parametrize(("exclude", "counted"), [((), 4), (("bos",), 3), (("first",), 3), (("special",), 2)])
def test_what_does_not_count(exclude: tuple[str, ...], counted: int, tiny: HookedTransformer) -> None:
    assert tiny.tokenizer is not None
    words = tiny.to_tokens("When Mary")[0]
    tokens = torch.cat((words, torch.tensor([tiny.tokenizer.eos_token_id])))
    one = packer(tiny, exclude=exclude)
    (rows,) = one.rows(one.pieces(0, tokens))
    assert int(rows.counted.sum()) == counted


def test_lengths_that_change_frequencies_are_not_mixed() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0, "max_position_embeddings": 4}
    one = packer(build(positional_embedding_type="rotary", rotary_layers=(rope,) * 3))
    short: list[Tensor] = [torch.arange(1, 4)] * 3
    rows = one.rows([piece for number, ids in enumerate(short) for piece in one.pieces(number, ids)])
    assert [len(part.tokens) for part in rows] == [3]


def test_a_document_without_tokens_is_refused(tiny: HookedTransformer) -> None:
    model = build()
    with pytest.raises(BadInput):
        packer(model).tokens(4, torch.tensor([99]))
