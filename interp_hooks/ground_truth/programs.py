"""Compiled programs with a task: reverse, histogram, fraction-previous, sort, pair balance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_hooks.ground_truth.compiler import Compiled, compile_program
from interp_hooks.ground_truth.rasp import (
    INDICES,
    TOKENS,
    Aggregate,
    LinearMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    Value,
    Variable,
    trace,
)
from interp_hooks.ground_truth.system import BOS, Edge, GroundTruth, task_of

LETTERS = ("a", "b", "c")


def reverse_program() -> Variable:
    """The words backwards."""
    length = SelectorWidth(Select(TOKENS, TOKENS, lambda key, query: True))
    target = SequenceMap(lambda n, i: n - i - 1, length, INDICES)
    return Aggregate(Select(INDICES, target, lambda key, query: key == query, always=True), TOKENS)


def histogram_program() -> Variable:
    """How often the word of each position occurs."""
    return SelectorWidth(Select(TOKENS, TOKENS, lambda key, query: key == query))


def fraction_previous_program(word: Value) -> Variable:
    """The fraction of the words up to each position (that one included) that are `word`."""
    is_word = Map(lambda token: float(token == word), TOKENS, to_numbers=True)
    return Aggregate(Select(INDICES, INDICES, lambda key, query: key <= query, always=True), is_word)


def sort_program() -> Variable:
    """The words in ascending order; equal ones keep their order."""
    keys = SequenceMap(lambda token, index: (token, index), TOKENS, INDICES)
    rank = SelectorWidth(Select(keys, keys, lambda key, query: key < query))
    return Aggregate(Select(rank, INDICES, lambda key, query: key == query, always=True), TOKENS)


def pair_balance_program(opens: Value, closes: Value) -> Variable:
    """The fraction of the words up to each position that are `opens`, minus the fraction that are `closes`."""
    return LinearMap(fraction_previous_program(opens), fraction_previous_program(closes), 1.0, -1.0)


def reverse(vocabulary: str | Sequence[Value] = LETTERS, max_length: int = 4) -> GroundTruth:
    """Give the words backwards: the lower layers count them and compute where to look, the last one copies."""
    return ground_truth_of(reverse_program(), vocabulary, max_length, "Says the words backwards.")


def histogram(vocabulary: str | Sequence[Value] = LETTERS, max_length: int = 4) -> GroundTruth:
    """Give how often each word occurs, in one layer."""
    return ground_truth_of(histogram_program(), vocabulary, max_length, "Says how often the word here occurs.")


def fraction_previous(
    word: Value = "x", vocabulary: str | Sequence[Value] = ("x", "y", "z"), max_length: int = 4
) -> GroundTruth:
    """Give the fraction of the words so far that are `word`: an MLP recognizes it, a head takes the mean."""
    note = f"Logit 0 is which part of the words so far is {word!r}."
    return ground_truth_of(fraction_previous_program(word), vocabulary, max_length, note)


def sort(vocabulary: str | Sequence[Value] = LETTERS, max_length: int = 4) -> GroundTruth:
    """Give the words in ascending order: heads count how many are smaller, and each is fetched by its rank."""
    return ground_truth_of(sort_program(), vocabulary, max_length, "Says the words in ascending order.")


def pair_balance(
    opens: Value = "(", closes: Value = ")", vocabulary: str | Sequence[Value] = ("(", ")", "x"), max_length: int = 4
) -> GroundTruth:
    """Give how much more of the words so far opens than closes: two heads take means, an MLP the difference."""
    note = f"Logit 0 is which part of the words so far is {opens!r}, minus which part is {closes!r}."
    return ground_truth_of(pair_balance_program(opens, closes), vocabulary, max_length, note)


PROGRAMS = {
    "reverse": reverse,
    "histogram": histogram,
    "fraction_previous": fraction_previous,
    "sort": sort,
    "pair_balance": pair_balance,
}


def ground_truth_of(
    program: Variable, vocabulary: str | Sequence[Value], max_length: int, notes: str, *, n: int = 32, seed: int = 0
) -> GroundTruth:
    """Compile a program, with a task of `n` pairs of random sequences of `max_length` words.

    Every word asks. The answers of a categorical program are its values in the two prompts of a pair. A numerical
    program answers with its number, which is logit 0; the task compares it with logit 1, which is always 0.

    Raises:
        BadInput: what `compile_program` refuses.
    """
    compiled = compile_program(program, vocabulary, max_length)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(vocabulary), (2, n, max_length), generator=generator).tolist()
    clean, corrupt = ([[vocabulary[word] for word in row] for row in rows] for rows in drawn)
    return GroundTruth(
        model=compiled.model,
        vocabulary=(BOS, *map(str, vocabulary)),
        outputs=tuple(map(str, compiled.outputs)),
        task=task_of(
            "program",
            compiled.encode(*clean),
            compiled.encode(*corrupt),
            _answers(compiled, clean, 0),
            _answers(compiled, corrupt, 1),
        ),
        circuit=compiled.circuit,
        patching_circuit=_differing(compiled, clean, corrupt),
        notes=f"{notes} Compiled; attention is bidirectional, and nothing is asked at BOS.",
    )


def _answers(compiled: Compiled, prompts: Sequence[Sequence[Value]], number: int) -> Tensor:
    """The right output at each word, after a 0 at BOS; `number` at every word if the program is numerical."""
    if compiled.program.numerical:
        return torch.tensor([[0, *([number] * len(words))] for words in prompts])
    said = (trace(compiled.program, words)[compiled.program] for words in prompts)
    return torch.tensor([[0, *map(compiled.outputs.index, row)] for row in said])


def _differing(
    compiled: Compiled, clean: Sequence[Sequence[Value]], corrupt: Sequence[Sequence[Value]]
) -> frozenset[Edge]:
    """The edges that carry a variable whose values differ in some pair of prompts."""
    pairs = [tuple(trace(compiled.program, words) for words in pair) for pair in zip(clean, corrupt, strict=True)]
    return frozenset(
        edge
        for edge, carried in compiled.edges.items()
        if any(ours[variable] != theirs[variable] for variable in carried for ours, theirs in pairs)
    )
