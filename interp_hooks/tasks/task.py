"""What a task is, and how one in words is made for a tokenizer.

A prompt in words is a list of pieces, of which some have labels: `[("", "When"), ("IO", " Mary"), ...]`. It is kept if
every labelled piece is one token of its own, the answers are single tokens, and the corrupt prompt has as many tokens;
what was left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.experiments.task import Task
from interp_hooks.interventions.metrics import LogitDiff, LogitMargin
from interp_hooks.model.transformer import HookedTransformer

TRIES = 50  # drawn prompts for each one that is asked for, before giving up


class Piece(NamedTuple):
    """Part of a prompt: a label ("" if nobody asks for its position) and text with its own leading space."""

    label: str
    text: str


class Candidate(NamedTuple):
    """A drawn pair of prompts in words."""

    clean: Sequence[Piece]
    corrupt: Sequence[Piece]
    answer: str
    wrong: Sequence[str]
    template: int = 0


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


class Fitted(NamedTuple):
    """A candidate as a tokenizer reads it."""

    candidate: Candidate
    length: int
    positions: dict[str, int]
    answers: list[int]


def fitted(model: HookedTransformer, candidate: Candidate) -> Fitted:
    """Where the labels are, and which tokens the answers.

    Raises:
        TokenError: why the pair is of no use to this tokenizer.
    """
    ids = _ids(model, text(candidate.clean))
    positions, begun = {"end": len(ids) - 1}, ""
    for label, piece in candidate.clean:
        before, begun = begun, begun + piece
        if label:
            start, stop = len(_ids(model, before)), len(_ids(model, begun))
            if stop != start + 1 or _ids(model, begun) != ids[:stop]:
                raise TokenError(f"{label} is not one token")
            positions[label] = start
    if len(_ids(model, text(candidate.corrupt))) != len(ids):
        raise TokenError("the corrupt prompt has another number of tokens")
    answers = []
    for answer in (candidate.answer, *candidate.wrong):
        longer = _ids(model, text(candidate.clean) + answer)
        if longer[:-1] != ids:
            raise TokenError("an answer is not one token")
        answers.append(longer[-1])
    if answers[0] in answers[1:]:
        raise TokenError("the answer is a distractor, too")
    return Fitted(candidate, len(ids), positions, answers)


def _ids(model: HookedTransformer, prompt: str) -> list[int]:
    """The tokens of a prompt, the BOS included if the model puts one in front."""
    if not prompt:
        return [] if not model.default_prepend_bos else _ids(model, " a")[:1]
    return model.to_tokens(prompt, move_to_device=False)[0].tolist()


def task_in_words(model: HookedTransformer, name: str, n: int, drawn: Iterator[Candidate]) -> Task:
    """The first `n` drawn pairs that fit this model's tokenizer.

    Raises:
        BadInput: fewer than one asked for.
        TokenError: too few fit.
    """
    if n < 1:
        raise BadInput(f"n must be at least 1, got {n}")
    kept: list[Fitted] = []
    left_out: Counter[str] = Counter()
    for _, candidate in zip(range(TRIES * n), drawn, strict=False):
        try:
            kept.append(fitted(model, candidate))
        except TokenError as reason:
            left_out[str(reason)] += 1
        if len(kept) == n:
            break
    if len(kept) < n:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in left_out.items())
        raise TokenError(f"only {len(kept)} of {n} prompts of {name!r} fit this model's tokenizer ({reasons})")
    answers = torch.tensor([one.answers for one in kept])
    longest, left = max(one.length for one in kept), model.default_padding_side == "left"
    shift = torch.tensor([longest - one.length if left else 0 for one in kept])
    labels = set.intersection(*(set(one.positions) for one in kept))
    positions = {label: torch.tensor([one.positions[label] for one in kept]) + shift for label in sorted(labels)}
    answer, wrong = answers[:, 0], answers[:, 1:]
    single = wrong.shape[1] == 1
    return Task(
        name=name,
        clean=[text(one.candidate.clean) for one in kept],
        corrupt=[text(one.candidate.corrupt) for one in kept],
        answer=answer,
        wrong=wrong,
        metric=LogitDiff(answer, wrong[:, 0]) if single else LogitMargin(answer, wrong),
        positions=positions,
        template=torch.tensor([one.candidate.template for one in kept]),
        left_out=dict(left_out),
    )
