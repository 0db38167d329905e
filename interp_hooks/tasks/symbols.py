"""Tasks in tokens, for models that are trained on them; vocabularies stand beside each.

induction         0 a b c d a b c -> d          random tokens, which come again
key_value_recall  0 k1 v1 k2 v2 ... k1 -> v1    pairs, of which one key comes again
brackets          START ( ( ) ) END -> balanced whether brackets match, read at START
modular_addition  a b = -> (a + b) mod p
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.task import Task
from interp_hooks.interventions.metrics import LogitDiff, LogitMargin

START, PAD, END, OPEN, CLOSE = range(5)
UNBALANCED, BALANCED = range(2)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise BadInput(f"{name} must be at least {least}, got {value}")


def _distinct(n: int, size: int, among: int, generator: torch.Generator) -> Int[Tensor, "n size"]:
    """Rows of different numbers from 0 on."""
    return torch.rand(n, among, generator=generator).argsort(dim=1)[:, :size]


def induction(n: int, d_vocab: int, *, length: int = 10, bos: int | None = 0, seed: int = 0) -> Task:
    """Random tokens, all different, then some of them again (Elhage et al. 2021): what came next before comes next.

    The first half has `length` tokens. It comes again, from its end on to its beginning where need be, up to a random
    one of its tokens but the last, with which the prompt ends. In the corrupt prompt another token follows that one.
    `bos` stands in front of all and nowhere else (None: there is none). Positions: "first" (of the token that ends the
    prompt), "next", "end".

    Raises:
        BadInput: a vocabulary that is too small for `length` different tokens and one more.
    """
    _at_least("n", n, 1)
    _at_least("length", length, 2)
    _at_least("d_vocab", d_vocab, length + 1 + (bos is not None))
    generator = _generator(seed)
    drawn = _distinct(n, length + 1, d_vocab - (bos is not None), generator)
    drawn = drawn if bos is None else drawn + (drawn >= bos)
    half, other = drawn[:, :length], drawn[:, length]
    place = torch.randint(length - 1, (n,), generator=generator)
    repeated = int(place.max()) + 1  # all prompts are as long; those whose token comes earlier begin later
    places = (place[:, None] - torch.arange(repeated - 1, -1, -1)) % length
    clean = torch.cat((half, half.gather(1, places)), dim=1)
    corrupt_half = half.clone()
    corrupt_half[torch.arange(n), place + 1] = other
    corrupt = torch.cat((corrupt_half, corrupt_half.gather(1, places)), dim=1)
    front = 0 if bos is None else 1
    if bos is not None:
        clean, corrupt = (torch.cat((torch.full((n, 1), bos), half), dim=1) for half in (clean, corrupt))
    answer = half[torch.arange(n), place + 1]
    end = torch.full((n,), clean.shape[1] - 1)
    return Task(
        name="induction",
        clean=clean,
        corrupt=corrupt,
        answer=answer,
        wrong=other[:, None],
        metric=LogitDiff(answer, other),
        positions={"first": place + front, "next": place + 1 + front, "end": end},
        template=torch.zeros(n, dtype=torch.long),
    )


def key_value_recall(n: int, n_keys: int, n_values: int, *, pairs: int = 4, seed: int = 0) -> Task:
    """Keys, each followed by its value, then one of the keys again: which value did it have?

    Tokens: 0 is BOS, keys are 1..n_keys, values follow. All keys and all values of a prompt differ. The corrupt prompt
    asks for another key. Positions: "key" and "value" of the pair that is asked for, "end".

    Raises:
        BadInput: too few keys or values for as many pairs.
    """
    _at_least("n", n, 1)
    _at_least("pairs", pairs, 2)
    _at_least("n_keys", n_keys, pairs)
    _at_least("n_values", n_values, pairs)
    generator = _generator(seed)
    keys = 1 + _distinct(n, pairs, n_keys, generator)
    values = 1 + n_keys + _distinct(n, pairs, n_values, generator)
    asked, other = _distinct(n, 2, pairs, generator).T
    rows = torch.arange(n)
    told = torch.stack((keys, values), dim=2).flatten(1)
    clean, corrupt = (
        torch.cat((torch.zeros(n, 1, dtype=torch.long), told, keys[rows, which, None]), dim=1)
        for which in (asked, other)
    )
    answer = values[rows, asked]
    rest = torch.stack([values[row, torch.arange(pairs) != which] for row, which in enumerate(asked.tolist())])
    first = torch.stack([row[row != value] for row, value in zip(rest, values[rows, other], strict=True)])
    wrong = torch.cat((values[rows, other, None], first), dim=1)
    return Task(
        name="key-value-recall",
        clean=clean,
        corrupt=corrupt,
        answer=answer,
        wrong=wrong,
        metric=LogitMargin(answer, wrong),
        positions={"key": 1 + 2 * asked, "value": 2 + 2 * asked, "end": torch.full((n,), clean.shape[1] - 1)},
        template=torch.zeros(n, dtype=torch.long),
    )


def modular_addition(p: int, *, n: int | None = None, seed: int = 0) -> Task:
    """(a + b) mod p (Nanda et al. 2023, arXiv 2301.05217): tokens a, b and p for "=", for all sums or `n` of them.

    The corrupt prompt has another b. Distractors are all other residues; the metric is the margin over the best.
    Positions: "a", "b", "end".

    Raises:
        BadInput: p below 2, or more sums than there are.
    """
    _at_least("p", p, 2)
    generator = _generator(seed)
    n = p * p if n is None else n
    if not 1 <= n <= p * p:
        raise BadInput(f"n must be 1 to {p * p}, got {n}")
    sums = torch.arange(p * p) if n == p * p else torch.randperm(p * p, generator=generator)[:n]
    a, b = sums // p, sums % p
    other = (b + torch.randint(1, p, (n,), generator=generator)) % p
    equals = torch.full((n,), p)
    answer, corrupt_answer = (a + b) % p, (a + other) % p
    shifts = torch.arange(1, p).expand(n, -1)
    rest = (corrupt_answer[:, None] + shifts) % p
    rest = rest[rest != answer[:, None]].reshape(n, p - 2)
    wrong = torch.cat((corrupt_answer[:, None], rest), dim=1)
    return Task(
        name="modular-addition",
        clean=torch.stack((a, b, equals), dim=1),
        corrupt=torch.stack((a, other, equals), dim=1),
        answer=answer,
        wrong=wrong,
        metric=LogitMargin(answer, wrong),
        positions={"a": torch.zeros_like(a), "b": torch.ones_like(a), "end": torch.full((n,), 2)},
        template=torch.zeros(n, dtype=torch.long),
    )


# ----------------------------------------------------------------------------------------------------------- brackets


def brackets(n: int, *, length: int = 20, near_misses: float = 0.5, seed: int = 0) -> Task:
    """Whether brackets are balanced: half of the prompts are, each paired with one that is not.

    Tokens: START ( ... ) END, every prompt of `length` brackets, which is even. The answer is read at START, position
    0, from two classes, UNBALANCED and BALANCED. An unbalanced prompt is a near miss with probability `near_misses`,
    of either kind: one bracket of a balanced one is turned (the count is off), or two are exchanged (the count is
    right, and a suffix has more "(" than ")"); else its brackets are drawn at random. Templates: 0 balanced, 1 one
    turned, 2 two exchanged, 3 random. Position: "start".

    Raises:
        BadInput: an odd length, or a probability outside 0..1.
    """
    _at_least("n", n, 1)
    _at_least("length", length, 2)
    if length % 2 or not 0 <= near_misses <= 1:
        raise BadInput(f"expected an even length and near_misses in 0..1, got {length} and {near_misses}")
    generator = _generator(seed)
    good = balanced_rows(n, length, generator)
    bad = torch.stack(
        (good, one_turned(good, generator), two_exchanged(good, generator), unbalanced_rows(n, length, generator))
    )
    is_near, is_turned = (torch.rand(2, n, generator=generator) < torch.tensor([[near_misses], [0.5]])).unbind()
    kind = torch.where(is_near, torch.where(is_turned, 1, 2), 3)
    bad = bad[kind, torch.arange(n)]
    swapped = torch.arange(n) % 2 == 1
    answer = torch.where(swapped, UNBALANCED, BALANCED)
    return Task(
        name="brackets",
        clean=enclosed(torch.where(swapped[:, None], bad, good)),
        corrupt=enclosed(torch.where(swapped[:, None], good, bad)),
        answer=answer,
        wrong=(1 - answer)[:, None],
        metric=LogitDiff(answer, 1 - answer, pos=0),
        positions={"start": torch.zeros(n, dtype=torch.long)},
        template=torch.where(swapped, kind, 0),
    )


def elevation(tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "prompt pos"]:
    """From each position to the end, how many more ")" than "(" there are: never negative in a balanced prompt."""
    steps = (tokens == CLOSE).long() - (tokens == OPEN).long()
    return steps.flip(1).cumsum(1).flip(1)


def count_is_right(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """As many "(" as ")"."""
    return elevation(tokens)[:, 0] == 0


def horizon_is_kept(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """No suffix has more "(" than ")"."""
    return (elevation(tokens) >= 0).all(1)


def starts_open(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """The first bracket is "("."""
    first = ((tokens == OPEN) | (tokens == CLOSE)).long().argmax(1, keepdim=True)
    return tokens.gather(1, first)[:, 0] == OPEN


def is_balanced(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    return count_is_right(tokens) & horizon_is_kept(tokens)


def enclosed(rows: Int[Tensor, "prompt length"]) -> Int[Tensor, "prompt pos"]:
    """Rows of brackets between START and END."""
    start, end = (torch.full((len(rows), 1), token) for token in (START, END))
    return torch.cat((start, rows, end), dim=1)


def balanced_rows(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "{n} {length}"]:
    """Random rows of matching brackets, all as likely: with one more ")" just one rotation is balanced before it."""
    order = torch.rand(n, length + 1, generator=generator).argsort(dim=1)
    steps = torch.where(order < length // 2, 1, -1)
    begin = steps.cumsum(1).argmin(1, keepdim=True) + 1  # after the first of the lowest points
    places = (begin + torch.arange(length)) % (length + 1)
    return torch.where(steps.gather(1, places) == 1, OPEN, CLOSE)


def unbalanced_rows(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "{n} {length}"]:
    """Rows of brackets that were drawn at random and do not match."""
    rows = torch.randint(OPEN, CLOSE + 1, (n, length), generator=generator)
    while bool((again := is_balanced(rows)).any()):
        rows[again] = torch.randint(OPEN, CLOSE + 1, (int(again.sum()), length), generator=generator)
    return rows


def one_turned(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt length"]:
    """Near misses of the count: balanced rows in which one bracket is turned round."""
    place = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
    return rows.scatter(1, place, OPEN + CLOSE - rows.gather(1, place))


def two_exchanged(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt length"]:
    """Near misses of the horizon: balanced rows in which a "(" and a later ")" have changed places.

    At some point between the two not more than one bracket was open, so that there is one too few now.
    """
    is_open, places = rows == OPEN, torch.arange(rows.shape[1])
    depth = torch.where(is_open, 1, -1).cumsum(1)
    between = _one_of(depth[:, :-1] <= 1, generator)
    opened = _one_of(is_open & (places <= between), generator)
    closed = _one_of(~is_open & (places > between), generator)
    return rows.scatter(1, opened, CLOSE).scatter(1, closed, OPEN)


def one_left_out(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt rest"]:
    """Near misses of odd length: balanced rows without one of their brackets."""
    left_out = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
    places = torch.arange(rows.shape[1] - 1).expand(len(rows), -1)
    return rows.gather(1, places + (places >= left_out))


def _one_of(allowed: Bool[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt 1"]:
    """For each row one of the places that are allowed, all as likely."""
    return torch.where(allowed, torch.rand(allowed.shape, generator=generator), -1.0).argmax(1, keepdim=True)
