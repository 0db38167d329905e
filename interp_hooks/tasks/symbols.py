"""Tasks in tokens, for models that are trained on them; each function says what its tokens mean.

induction         0 a b c d a b c -> d           random tokens, which come again
key_value_recall  0 k1 v1 k2 v2 ... k1 -> v1     keys with their values, then one of the keys again
brackets          START ( ( ) ) END -> balanced  whether brackets match, read at START
modular_addition  a b = -> (a + b) mod p
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, Seed, checked, refuse_outside
from interp_hooks.experiments.task import Task, comparison
from interp_hooks.interventions.metrics import LogitDiff

START, PAD, END, OPEN, CLOSE = range(5)
UNBALANCED, BALANCED = range(2)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise BadInput(f"{name} must be at least {least}, got {value}")


def _distinct(n: int, size: int, among: int, generator: torch.Generator) -> Int[Tensor, "n size"]:
    """Rows of `size` different numbers below `among`."""
    return torch.rand(n, among, generator=generator).argsort(dim=1)[:, :size]


def _read_at_the_end(
    name: str, clean: Tensor, corrupt: Tensor, answer: Tensor, wrong: Tensor, **positions: Tensor
) -> Task:
    """A task whose answers are read at the last position."""
    return Task(
        name=name,
        clean=clean,
        corrupt=corrupt,
        answer=answer,
        wrong=wrong,
        metric=comparison(answer, wrong),
        positions=positions | {"end": torch.full((len(clean),), clean.shape[1] - 1)},
    )


@checked
def induction(n: Positive, d_vocab: Count, *, length: Count = 10, bos: int | None = 0, seed: Seed = 0) -> Task:
    """Random tokens, then some of them again (Elhage et al. 2021): what followed a token before follows it again.

    `length` different tokens are followed by a repetition, which ends at a random one of them (never the last): the
    answer is the token after that one. All repetitions are equally long, so one that ends early begins near the end of
    the tokens and goes on at their beginning. In the corrupt prompt another token stands in the answer's place. `bos`
    stands in front and nowhere else (None: no BOS). Positions: "first" (where the token that ends the prompt stood
    before), "next" (the answer there), "end".

    Raises:
        BadInput: a vocabulary that is too small for `length` different tokens and one more.
    """
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
    answer, first = half[torch.arange(n), place + 1], place + front
    return _read_at_the_end("induction", clean, corrupt, answer, other[:, None], first=first, next=first + 1)


@checked
def key_value_recall(n: Positive, n_keys: Count, n_values: Count, *, pairs: Count = 4, seed: Seed = 0) -> Task:
    """Keys, each followed by its value, then one of the keys again: the answer is its value.

    Tokens: 0 is BOS, keys are 1..n_keys, and the next `n_values` tokens are values. In a prompt all keys differ, and so
    do all values. The corrupt prompt asks for another of its keys. Positions: "key" and "value" of the pair that is
    asked for, "end".

    Raises:
        BadInput: too few keys or values for as many pairs.
    """
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
    rest = values[(torch.arange(pairs) != asked[:, None]) & (torch.arange(pairs) != other[:, None])]
    wrong = torch.cat((values[rows, other, None], rest.reshape(n, pairs - 2)), dim=1)
    places = dict(key=1 + 2 * asked, value=2 + 2 * asked)
    return _read_at_the_end("key-value-recall", clean, corrupt, answer, wrong, **places)


@checked
def modular_addition(p: Count, *, n: Count | None = None, seed: Seed = 0) -> Task:
    """(a + b) mod p (Nanda et al. 2023, arXiv 2301.05217): all sums, or `n` of them.

    Tokens: the residues 0 to p - 1, and p for "=". The corrupt prompt has another b. All other residues are wrong
    answers; the metric is the margin over the best of them.
    Positions: "a", "b", "end".

    Raises:
        BadInput: p below 2, or more sums than there are.
    """
    _at_least("p", p, 2)
    generator = _generator(seed)
    n = p * p if n is None else n
    refuse_outside("n", n, 1, p * p)
    sums = torch.arange(p * p) if n == p * p else torch.randperm(p * p, generator=generator)[:n]
    a, b = sums // p, sums % p
    other = (b + torch.randint(1, p, (n,), generator=generator)) % p
    equals = torch.full((n,), p)
    answer, corrupt_answer = (a + b) % p, (a + other) % p
    shifts = torch.arange(1, p).expand(n, -1)
    rest = (corrupt_answer[:, None] + shifts) % p
    rest = rest[rest != answer[:, None]].reshape(n, p - 2)
    wrong = torch.cat((corrupt_answer[:, None], rest), dim=1)
    clean, corrupt = (torch.stack((a, second, equals), dim=1) for second in (b, other))
    places = dict(a=torch.zeros_like(a), b=torch.ones_like(a))
    return _read_at_the_end("modular-addition", clean, corrupt, answer, wrong, **places)


# ----------------------------------------------------------------------------------------------------------- brackets


@checked
def brackets(n: Positive, *, length: Count = 20, near_misses: float = 0.5, seed: Seed = 0) -> Task:
    """Whether brackets are balanced: half of the clean prompts are, each paired with a prompt of the other kind.

    Every prompt is START, `length` brackets (an even number), END. The answer is read at START, position 0, and is one
    of two classes, UNBALANCED and BALANCED. With probability `near_misses` an unbalanced prompt is a balanced one with
    a mistake: one bracket is turned round (the count is wrong), or two are exchanged (the count is right, and a suffix
    has more "(" than ")"). All others are drawn at random. Templates: 0 balanced, 1 one turned, 2 two exchanged, 3
    random. Position: "start".

    Raises:
        BadInput: an odd length, or a probability outside 0..1.
    """
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
    """How many more ")" than "(" there are from each position to the end: never negative in a balanced prompt."""
    steps = (tokens == CLOSE).long() - (tokens == OPEN).long()
    return steps.flip(1).cumsum(1).flip(1)


def count_is_right(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """Whether there are as many "(" as ")"."""
    return elevation(tokens)[:, 0] == 0


def horizon_is_kept(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """Whether no suffix has more "(" than ")"."""
    return (elevation(tokens) >= 0).all(1)


def starts_open(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """Whether the first bracket is "("."""
    first = ((tokens == OPEN) | (tokens == CLOSE)).long().argmax(1, keepdim=True)
    return tokens.gather(1, first)[:, 0] == OPEN


def is_balanced(tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, " prompt"]:
    """Whether every bracket has its partner."""
    return count_is_right(tokens) & horizon_is_kept(tokens)


def enclosed(rows: Int[Tensor, "prompt length"]) -> Int[Tensor, "prompt pos"]:
    """Put rows of brackets between START and END."""
    start, end = (torch.full((len(rows), 1), token) for token in (START, END))
    return torch.cat((start, rows, end), dim=1)


def balanced_rows(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "{n} {length}"]:
    """Draw rows of matching brackets, all equally likely.

    Of the rotations of a row with one ")" too many, exactly one is balanced up to its last bracket, which is that ")".
    """
    order = torch.rand(n, length + 1, generator=generator).argsort(dim=1)
    steps = torch.where(order < length // 2, 1, -1)
    begin = steps.cumsum(1).argmin(1, keepdim=True) + 1  # after the first of the lowest points
    places = (begin + torch.arange(length)) % (length + 1)
    return torch.where(steps.gather(1, places) == 1, OPEN, CLOSE)


def unbalanced_rows(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "{n} {length}"]:
    """Draw rows of brackets at random, of which none match."""
    rows = torch.randint(OPEN, CLOSE + 1, (n, length), generator=generator)
    while bool((again := is_balanced(rows)).any()):
        rows[again] = torch.randint(OPEN, CLOSE + 1, (int(again.sum()), length), generator=generator)
    return rows


def one_turned(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt length"]:
    """Turn one bracket of each balanced row round: then the count is wrong."""
    place = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
    return rows.scatter(1, place, OPEN + CLOSE - rows.gather(1, place))


def two_exchanged(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt length"]:
    """Exchange a "(" and a later ")" of each balanced row: the count stays right, a suffix has more "(" than ")".

    At some point between the two at most one bracket is open, so that now one is closed that was never opened.
    """
    is_open, places = rows == OPEN, torch.arange(rows.shape[1])
    depth = torch.where(is_open, 1, -1).cumsum(1)
    between = _one_of(depth[:, :-1] <= 1, generator)
    opened = _one_of(is_open & (places <= between), generator)
    closed = _one_of(~is_open & (places > between), generator)
    return rows.scatter(1, opened, CLOSE).scatter(1, closed, OPEN)


def one_left_out(rows: Int[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt rest"]:
    """Leave one bracket of each balanced row out: then the length is odd."""
    left_out = torch.randint(rows.shape[1], (len(rows), 1), generator=generator)
    places = torch.arange(rows.shape[1] - 1).expand(len(rows), -1)
    return rows.gather(1, places + (places >= left_out))


def _one_of(allowed: Bool[Tensor, "prompt length"], generator: torch.Generator) -> Int[Tensor, "prompt 1"]:
    """Draw one of the allowed places of each row, all equally likely."""
    return torch.where(allowed, torch.rand(allowed.shape, generator=generator), -1.0).argmax(1, keepdim=True)
