"""How a task in words is made for a tokenizer.

A prompt in words is text in which the words that matter are marked, each with its label:

    "When[IO: Mary] and[S1: John] went to the store,[S2: John] gave a ring to"

A pair of prompts is used if every marked word is one token, if both prompts have equally many tokens, and if every
answer is one token. Pairs that cannot be used are counted by reason.
"""

from __future__ import annotations

import functools
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import torch

from interp_hooks.errors import TokenError
from interp_hooks.experiments.task import Task, comparison, position_labels
from interp_hooks.interventions.metrics import LogitDiff
from interp_hooks.model.transformer import HookedTransformer

TRIES = 50  # drawn pairs for each one that is asked for, before giving up
MARKED = re.compile(r"\[(\w+):([^\]]*)\]")


class Candidate(NamedTuple):
    """A drawn pair of marked prompts, the right answer to the clean one and wrong ones, each with its leading space."""

    clean: str
    corrupt: str
    answer: str
    wrong: Sequence[str]
    template: int = 0


class Fitted(NamedTuple):
    """A candidate as a tokenizer reads it: the clean prompt's tokens, where its labels are, the answers' tokens."""

    candidate: Candidate
    ids: list[int]
    positions: dict[str, int]
    answers: list[int]


def plain(marked: str) -> str:
    """A marked prompt as the model reads it."""
    return MARKED.sub(r"\2", marked)


def tokenizing(model: HookedTransformer) -> Callable[[str], list[int]]:
    """A function that gives the tokens of marked prompts, with a BOS if the model puts one in front."""

    @functools.cache
    def ids_of(marked: str) -> list[int]:
        if not marked:
            return ids_of(" a")[:1] if model.default_prepend_bos else []
        return model.text.encode(plain(marked)).tokens[0].tolist()

    return ids_of


def fitted(ids_of: Callable[[str], list[int]], candidate: Candidate) -> Fitted:
    """Find the positions of the labels and the tokens of the answers.

    Raises:
        TokenError: the pair cannot be used with this tokenizer; the message is the reason.
    """
    clean, ids = candidate.clean, ids_of(candidate.clean)
    positions = {"end": len(ids) - 1}
    for word in MARKED.finditer(clean):
        start, begun = len(ids_of(clean[: word.start()])), ids_of(clean[: word.end()])
        if len(begun) != start + 1 or begun != ids[: start + 1]:
            raise TokenError(f"{word[1]} is not one token")
        positions[word[1]] = start
    if len(ids_of(candidate.corrupt)) != len(ids):
        raise TokenError("the corrupt prompt has another number of tokens")
    answers = []
    for answer in (candidate.answer, *candidate.wrong):
        *before, last = ids_of(clean + answer)
        if before != ids:
            raise TokenError("an answer is not one token")
        answers.append(last)
    if answers[0] in answers[1:]:
        raise TokenError("the answer is a distractor, too")
    return Fitted(candidate, ids, positions, answers)


def task_in_words(
    model: HookedTransformer,
    name: str,
    n: int,
    drawn: Iterator[Candidate],
    *,
    same_length: bool = False,
    answers_as_text: bool = False,
) -> Task:
    """The first `n` drawn pairs that can be used with this model's tokenizer.

    With `same_length` only those with the most common number of tokens among the first 4 `n`.

    Raises:
        TokenError: too few can be used.
    """
    ids_of, usual = tokenizing(model), None
    if same_length:
        first = list(islice(drawn, 4 * n))
        usual, drawn = statistics.mode(len(ids_of(one.clean)) for one in first), chain(first, drawn)
    kept: list[Fitted] = []
    left_out: Counter[str] = Counter()
    for _, candidate in zip(range(TRIES * n), drawn, strict=False):
        try:
            if usual not in (None, len(ids_of(candidate.clean))):
                raise TokenError("it has another number of tokens than most")
            kept.append(fitted(ids_of, candidate))
        except TokenError as reason:
            left_out[str(reason)] += 1
        if len(kept) == n:
            break
    if len(kept) < n:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in left_out.items())
        raise TokenError(f"only {len(kept)} of {n} prompts of {name!r} fit this model's tokenizer ({reasons})")
    longest, left = max(len(one.ids) for one in kept), model.default_padding_side == "left"
    shift = torch.tensor([longest - len(one.ids) if left else 0 for one in kept])
    labels = set.intersection(*(set(one.positions) for one in kept))
    ids = torch.tensor([one.answers for one in kept])
    answer, wrong, candidates = ids[:, 0], ids[:, 1:], [one.candidate for one in kept]
    metric = comparison(answer, wrong)
    if answers_as_text:
        answer, wrong = [one.answer for one in candidates], [one.wrong[0] for one in candidates]
        metric = LogitDiff(answer, wrong)
    return Task(
        name=name,
        clean=[plain(one.clean) for one in candidates],
        corrupt=[plain(one.corrupt) for one in candidates],
        answer=answer,
        wrong=wrong,
        metric=metric,
        positions={label: torch.tensor([one.positions[label] for one in kept]) + shift for label in sorted(labels)},
        labels=position_labels([one.ids for one in kept], model.to_str_tokens(torch.tensor(kept[0].ids))),
        template=torch.tensor([one.template for one in candidates]),
        left_out=dict(left_out),
    )
