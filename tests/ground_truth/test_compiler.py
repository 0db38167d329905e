"""Compiled models say what the interpreter says, on every input, along the edges that the program has."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, Run
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import GroundTruth, compile_program, programs
from interp_hooks.ground_truth.compiler import Compiled
from interp_hooks.ground_truth.rasp import (
    INDICES,
    TOKENS,
    Aggregate,
    LinearMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    Variable,
    interpret,
)
from interp_hooks.ground_truth.system import edges
from tests.ground_truth.edges import all_edges, those_that_matter

WORDS = ("a", "b", "c")
EQUAL = Select(TOKENS, TOKENS, lambda key, query: key == query)
PREVIOUS = Select(INDICES, INDICES, lambda key, query: key == query - 1)
SO_FAR = Select(INDICES, INDICES, lambda key, query: key <= query, always=True)
HAS_A = Select(TOKENS, TOKENS, lambda key, query: key == "a")
IS_A = Map(lambda token: float(token == "a"), TOKENS, to_numbers=True)
FRACTION = Aggregate(SO_FAR, IS_A)
BEFORE = Aggregate(PREVIOUS, TOKENS)
OWN = Aggregate(Select(INDICES, INDICES, lambda key, query: key == query, always=True), TOKENS)

PROGRAMS: dict[str, Variable] = {
    "reverse": programs.reverse_program(),
    "histogram": programs.histogram_program(),
    "fraction_previous": programs.fraction_previous_program("a"),
    "sort": programs.sort_program(),
    "pair_balance": programs.pair_balance_program("a", "b"),
    "tokens": TOKENS,
    "upper case": Map(str.upper, TOKENS),
    "previous": BEFORE,
    "before the previous": Aggregate(PREVIOUS, BEFORE),
    "own, then previous": Aggregate(PREVIOUS, OWN),
    "sorted, then previous": Aggregate(PREVIOUS, programs.sort_program()),
    "count of a": SelectorWidth(HAS_A),
    "missing for some": Map({"a": "A", "b": "B"}.get, BEFORE),
    "pairs": SequenceMap(lambda x, y: x + y, BEFORE, TOKENS),
    "numbers of pairs": SequenceMap(lambda x, y: 2.0 * (x == y) - 0.5, BEFORE, TOKENS, to_numbers=True),
    "twice the same": SequenceMap(lambda x, y: x + y, TOKENS, TOKENS),
    "majority": Map(lambda x: x > 0.45, FRACTION),
    "square": Map(lambda x: x * x - 3, FRACTION, to_numbers=True),
    "mean of squares": Aggregate(EQUAL, Map(lambda x: 7 * x * x - 3, FRACTION, to_numbers=True)),
    "of a difference": Map(lambda x: x > 0, programs.pair_balance_program("a", "b")),
    "weights": LinearMap(FRACTION, IS_A, -2.5, 0.25),
    "counts of counts": SelectorWidth(
        Select(SelectorWidth(EQUAL), SelectorWidth(EQUAL), lambda key, query: key > query)
    ),
    "after the first word": Aggregate(
        Select(
            SequenceMap(lambda word, index: (word, index), BEFORE, INDICES),
            SequenceMap(lambda word, index: (word, index), TOKENS, INDICES),
            lambda key, query: key == (query[0], 1) and query[1] > 1,
        ),
        TOKENS,
    ),
}


def sequences(length: int) -> list[tuple[str, ...]]:
    return list(itertools.product(WORDS, repeat=length))


def same(said: Sequence[Any], expected: Sequence[Any]) -> bool:
    return list(said) == (pytest.approx(expected, abs=1e-9) if isinstance(expected[0], float) else list(expected))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_model_says_what_the_interpreter_says_on_every_input(name: str) -> None:
    compiled = compile_program(PROGRAMS[name], WORDS, 4)
    for length in range(1, 5):
        words = sequences(length)
        logits = compiled.model(compiled.encode(*words)).detach()
        for row, said in zip(words, compiled.decode(logits), strict=True):
            assert same(said, interpret(PROGRAMS[name], row)), row
        rounded = logits[:, 1:].round()
        if PROGRAMS[name].numerical:
            assert not logits[..., 1].any()
        else:
            assert float((logits[:, 1:] - rounded).abs().max()) < 1e-9, "one-hot, or zero for no value"
            assert set(rounded.sum(-1).flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", PROGRAMS)
def test_removing_an_edge_matters_exactly_if_the_program_has_it(name: str) -> None:
    compiled = compile_program(PROGRAMS[name], WORDS, 4)
    assert set(compiled.circuit) <= set(all_edges(compiled.model))
    matter = set[tuple[str, str]]()
    for length in range(1, 5):
        tokens = compiled.encode(*sequences(length))
        matter |= those_that_matter(compiled.model, tokens, 0.0, lambda logits: logits[:, 1:])
    assert matter == compiled.circuit


TRUE = {  # worked out by hand
    "reverse": edges(
        *("input->a0.h0<v>,m0,m1,a2.h0<k>,a2.h0<v>", "a0.h0->m0"),
        *("m0->m1", "m1->a2.h0<q>", "a2.h0->logits"),
    ),
    "histogram": edges("input->a0.h0<q>,a0.h0<k>,a0.h0<v>,m0", "a0.h0->m0", "m0->logits"),
    "fraction_previous": edges("input->m0,a1.h0<q>,a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits"),
    "sort": edges(
        *("input->m0,a1.h0<k>,a1.h0<v>,m1,a2.h0<q>,a2.h0<v>", "m0->a1.h0<q>,a1.h0<k>", "a1.h0->m1"),
        *("m1->a2.h0<k>", "a2.h0->logits"),
    ),
    "pair_balance": edges(
        *("input->m0,a1.h0<q>,a1.h0<k>,a1.h1<q>,a1.h1<k>", "m0->a1.h0<v>,a1.h1<v>", "a1.h0->m1", "a1.h1->m1"),
        "m1->logits",
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_the_edges_are_those_worked_out_by_hand(name: str) -> None:
    assert compile_program(PROGRAMS[name], WORDS, 4).circuit == TRUE[name]
    assert programs.PROGRAMS[name]().circuit == TRUE[name]


KNOWN: dict[str, Callable[[], GroundTruth]] = {
    **programs.PROGRAMS,
    "longer reverse": lambda: programs.reverse("abcd", 6),
    "count of a": lambda: programs.ground_truth_of(SelectorWidth(HAS_A), WORDS, 4, "How many are a."),
    "sort numbers": lambda: programs.sort((3, 1, 2), 3),
}


@pytest.mark.parametrize("name", KNOWN)
def test_tasks_show_every_edge(name: str) -> None:
    known = KNOWN[name]()
    task = known.task
    assert those_that_matter(known.model, task.clean, 0.0, task.metric) == known.circuit
    assert those_that_matter(known.model, task.clean, Run(task.corrupt), task.metric) == known.patching_circuit


def test_answers_of_tasks_are_what_the_programs_say() -> None:
    known = programs.sort()
    asked = [[known.vocabulary[token] for token in row[1:]] for row in known.task.clean]
    answers = [[known.outputs[token] for token in row[1:]] for row in known.task.answer]
    assert answers == [sorted(row) for row in asked]
    assert len({*map(tuple, asked)}) > 20
    known = programs.fraction_previous()
    assert known.outputs == ("number", "nothing")
    fractions = known.model(known.tokens(["<bos>", "x", "y", "x", "x"]))[0, 1:, 0].tolist()
    assert fractions == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])


def test_nothing_stands_at_bos() -> None:
    """So that a head that finds nothing there adds nothing."""
    compiled: Compiled = compile_program(Aggregate(PREVIOUS, Map(lambda x: x - 3, FRACTION, to_numbers=True)), WORDS, 3)
    tokens = compiled.encode(*sequences(3))
    _, cache = compiled.model.run_with_cache(tokens)
    assert float(cache["pattern", -1].detach()[:, 0, 1, 0].min()) == pytest.approx(1), (
        "the first word has none before it"
    )
    assert float(compiled.model(tokens).detach()[:, 1, 0].abs().max()) < 1e-12


def test_a_compiled_model_is_saved_like_any_other(tmp_path: Path) -> None:
    known = programs.sort()
    known.model.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path), dtype=torch.float64)
    assert torch.equal(again(known.task.clean), known.model(known.task.clean))


def test_what_cannot_be_compiled_or_read_is_refused() -> None:
    compiled = compile_program(TOKENS, WORDS, 3)
    for call, message in (
        (lambda: compile_program(TOKENS, (), 3), "expected different words"),
        (lambda: compile_program(TOKENS, ("a", "a"), 3), "expected different words"),
        (lambda: compile_program(TOKENS, WORDS, 0), "at least 1 position"),
        (lambda: compile_program(Map({}.get, TOKENS), WORDS, 3), "a Map of the program never has a value"),
        (lambda: compiled.encode("abd"), "'d' is not in the vocabulary"),
        (lambda: compiled.encode("ab", "abc"), r"of one length, of 1 to 3 words, got lengths \[2, 3\]"),
        (lambda: compiled.encode("abca"), r"got lengths \[4\]"),
    ):
        with pytest.raises(BadInput, match=message):
            call()


def test_a_wrong_weight_is_noticed() -> None:
    compiled = compile_program(PROGRAMS["sort"], WORDS, 3)
    with torch.no_grad():
        mlp: Any = compiled.model.blocks[1].mlp
        mlp.W_out[4] = 0.0
    words = sequences(3)
    said = compiled.decode(compiled.model(compiled.encode(*words)).detach())
    assert said != [interpret(PROGRAMS["sort"], row) for row in words]
