"""Documents as rows of tokens for a pass: several to a row, each read as if it had the row for itself.

    documents   | BOS the cat sat |  | BOS a dog |  | BOS it was late and nobody ... |
    one row     BOS the cat sat BOS a dog . . .         attention stays within documents, positions begin anew

A document longer than a row can be split into pieces, each of which begins with a BOS that the document does not have
there. Positions count a document's own tokens, its BOS included: they are those of `model.to_tokens(text)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.corpus.reading import Corpus, Document, documents
from interp_hooks.errors import BadInput, TokenError, nearest
from interp_hooks.model.transformer import HookedTransformer

Longer = Literal["refuse", "split", "cut"]
Excluded = Literal["bos", "first", "special"]
EXCLUDED: tuple[Excluded, ...] = get_args(Excluded)
TOGETHER = 64  # documents that are packed together
ADDED = -1  # the position of a BOS that was put before a piece


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of a document, and the position of each in it."""

    document: int
    tokens: Int[Tensor, " pos"]
    positions: Int[Tensor, " pos"]


@dataclass(frozen=True)
class Rows:
    """Rows of pieces: for each token its id, its document (-1: padding), and its position in it.

    `pieces` [row, pos] numbers the pieces of these rows, from 0; padding has -1 and tokens that `counted` leaves out
    have one like the others.
    """

    tokens: Int[Tensor, "row pos"]
    documents: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]
    pieces: Int[Tensor, "row pos"]
    counted: Bool[Tensor, "row pos"]

    @cached_property
    def real(self) -> Bool[Tensor, "row pos"]:
        return self.pieces >= 0

    def told_apart(self, device: torch.device, copies: int = 1) -> dict[str, Any]:
        """What a pass over copies of these rows has to know beside the tokens: padding, and pieces where rows have
        several."""
        several = bool((self.documents[:, 1:] != self.documents[:, :-1]).any())
        real, pieces = (one.repeat(copies, 1).to(device) for one in (self.real, self.pieces))
        return {"attention_mask": real, "documents": pieces if several else None}


@dataclass(frozen=True, kw_only=True)
class Packer:
    """How the documents of a batch become rows: what is done with those longer than a row, and which tokens count.

    `exclude` names tokens that are read but not counted: "bos", a document's BOS, where attention rests and activations
    are of another size; "first", the first token of every document, whatever it is; "special", all special tokens of
    the tokenizer. A BOS that was put before a later piece never counts.
    """

    model: HookedTransformer
    length: int
    longer: Longer
    exclude: Sequence[Excluded]
    tokens_at_once: int

    def __post_init__(self) -> None:
        if wrong := [one for one in self.exclude if one not in EXCLUDED]:
            known = ", ".join(EXCLUDED)
            raise BadInput(f"exclude may name {known}, got {wrong[0]!r}.{nearest(str(wrong[0]), EXCLUDED)}")
        if self.longer not in get_args(Longer):
            raise BadInput(f"longer must be 'refuse', 'split' or 'cut', got {self.longer!r}")
        if self.tokens_at_once < 1:
            raise BadInput(f"tokens_at_once must be at least 1, got {self.tokens_at_once}")
        if not 2 <= self.length <= self.model.cfg.n_ctx:
            raise BadInput(f"length must be 2..{self.model.cfg.n_ctx}, the model's context, got {self.length}")

    def tokens(self, number: int, document: Document) -> Int[Tensor, " pos"]:
        """The token ids of a document, on the CPU.

        Raises:
            BadInput: it has none, or an id outside the vocabulary.
        """
        if isinstance(document, str):
            try:
                return self.model.to_tokens(document, truncate=False, move_to_device=False)[0]
            except TokenError as error:
                raise type(error)(f"document {number}: {error}") from error
        return self.model.checked_tokens(document)[0].cpu()

    def pieces(self, number: int, tokens: Int[Tensor, " pos"]) -> list[Piece]:
        """A document as pieces that fit into rows.

        Raises:
            BadInput: it is longer than a row, and nothing was said of such documents.
        """
        if len(tokens) > self.length and self.longer == "refuse":
            raise BadInput(
                f"document {number} has {len(tokens)} tokens, more than the {self.length} that are read at once; "
                "longer='split' reads it in pieces, longer='cut' its beginning"
            )
        places = torch.arange(len(tokens))
        found = [Piece(number, tokens[: self.length], places[: self.length])]
        if self.longer == "cut":
            return found
        bos = tokens[: int(leads(self.model, tokens))]
        room = self.length - len(bos)
        for start in range(self.length, len(tokens), room):
            part = slice(start, start + room)
            found.append(
                Piece(number, torch.cat((bos, tokens[part])), torch.cat((torch.full_like(bos, ADDED), places[part])))
            )
        return found

    def rows(self, pieces: Iterable[Piece]) -> list[Rows]:
        """Pieces as rows, as many as are read at once to a `Rows`: the longest first, each where it first fits."""
        filled: list[list[Piece]] = []
        room: list[int] = []
        longest_first = sorted(pieces, key=lambda one: -len(one.tokens))
        longest = max((len(piece.tokens) for piece in longest_first[:1]), default=0)
        for piece in longest_first:
            size = len(piece.tokens)
            place = next((place for place, left in enumerate(room) if left >= size), None)
            if place is None or not self._several:
                place = len(filled)
                filled.append([])
                room.append(max(longest, min(self.length, ROW)))
            filled[place].append(piece)
            room[place] -= size
        width = max((sum(len(one.tokens) for one in row) for row in filled), default=0)
        at_once = max(1, self.tokens_at_once // max(1, width))
        return [self._stacked(filled[start : start + at_once]) for start in range(0, len(filled), at_once)]

    def batches(self, numbered: Iterable[tuple[int, Document]]) -> Iterator[Rows]:
        """Documents with their numbers as rows, `TOGETHER` of them packed at a time."""
        numbered = iter(numbered)
        while batch := list(itertools.islice(numbered, TOGETHER)):
            yield from self.rows(
                piece for number, one in batch for piece in self.pieces(number, self.tokens(number, one))
            )

    def endless(self, corpus: Corpus, column: str, ended: Callable[[], str]) -> Iterator[Rows]:
        """A corpus over and over, as rows.

        Raises:
            BadInput: with the text `ended()`, where nothing of it counts, or it cannot be read again.
        """
        while True:
            counted = 0
            for rows in self.batches(enumerate(documents(self.model, corpus, column))):
                counted += int(rows.counted.sum())
                yield rows
            if not counted:
                raise BadInput(ended())

    @cached_property
    def _several(self) -> bool:
        """Whether rows hold several documents; not where frequencies depend on how long a text is."""
        rotary = self.model.rotary
        most = torch.tensor([self.length])
        return rotary is None or not rotary.turns_anew(torch.ones_like(most), most)

    def _stacked(self, filled: Sequence[Sequence[Piece]]) -> Rows:
        shape = len(filled), max(sum(len(piece.tokens) for piece in row) for row in filled)
        tokens, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        documents, pieces = torch.full(shape, -1), torch.full(shape, -1)
        numbers = itertools.count()
        for place, row in enumerate(filled):
            end = 0
            for piece in row:
                part = slice(end, end := end + len(piece.tokens))
                tokens[place, part], positions[place, part] = piece.tokens, piece.positions
                documents[place, part], pieces[place, part] = piece.document, next(numbers)
        counted = (pieces >= 0) & ~self._left_out(tokens, positions)
        return Rows(tokens, documents, positions, pieces, counted)

    def _left_out(self, tokens: Int[Tensor, "row pos"], positions: Int[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
        tokenizer = self.model.tokenizer
        left_out = positions == ADDED
        if "first" in self.exclude:
            left_out |= positions == 0
        if "bos" in self.exclude and tokenizer is not None and tokenizer.bos_token_id is not None:
            left_out |= (positions == 0) & (tokens == tokenizer.bos_token_id)
        if "special" in self.exclude and tokenizer is not None:
            left_out |= torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
        return left_out


def bos_of(model: HookedTransformer) -> int | None:
    """The id of BOS; None where the model reads no text, or its tokenizer has none."""
    return None if model.tokenizer is None else cast("int | None", model.tokenizer.bos_token_id)


def leads(model: HookedTransformer, tokens: Int[Tensor, " pos"]) -> bool:
    """Whether a text begins with BOS, which stays before whatever of it is cut off."""
    return len(tokens) > 0 and int(tokens[0]) == bos_of(model)


ROW = 256  # tokens of a row, unless a document is longer: longer rows cost more attention, shorter ones more padding
