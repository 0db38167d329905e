"""What programs mean, by examples that are worked out by hand."""

import math
from collections.abc import Callable

import pytest

from interp_hooks.errors import BadInput
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
    domains,
    in_order,
    interpret,
    trace,
)

SAME = Select(TOKENS, TOKENS, lambda key, query: key == query)
BEFORE = Select(INDICES, INDICES, lambda key, query: key < query)
NEXT = Select(INDICES, INDICES, lambda key, query: key == query + 1)
IS_A = Map(lambda token: float(token == "a"), TOKENS, to_numbers=True)
FOLLOWING = Aggregate(NEXT, TOKENS)

EXAMPLES: dict[str, tuple[Variable, list[object]]] = {  # on "abba"
    "tokens": (TOKENS, ["a", "b", "b", "a"]),
    "indices": (INDICES, [0, 1, 2, 3]),
    "width": (SelectorWidth(SAME), [2, 2, 2, 2]),
    "width of none": (SelectorWidth(BEFORE), [0, 1, 2, 3]),
    "mean": (Aggregate(BEFORE, IS_A), [0.0, 1.0, 0.5, 1 / 3]),
    "one value": (FOLLOWING, ["b", "b", "a", None]),
    "of no value": (Map(str.upper, FOLLOWING), ["B", "B", "A", None]),
    "number of no value": (Map(lambda token: 5.0, FOLLOWING, to_numbers=True), [5.0, 5.0, 5.0, 0.0]),
    "function that gives none": (Map({"a": 1}.get, TOKENS), [1, None, None, 1]),
    "pairs": (SequenceMap(lambda here, there: here + there, TOKENS, FOLLOWING), ["ab", "bb", "ba", None]),
    "linear": (LinearMap(IS_A, Aggregate(BEFORE, IS_A), 2.0, -3.0), [2.0, -3.0, -1.5, 1.0]),
    "no value selects nothing": (
        SelectorWidth(Select(TOKENS, FOLLOWING, lambda key, query: True)),
        [4, 4, 4, 0],
    ),
    "no value is not selected": (
        SelectorWidth(Select(FOLLOWING, TOKENS, lambda key, query: True)),
        [3, 3, 3, 3],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_mean_what_they_say(name: str) -> None:
    program, expected = EXAMPLES[name]
    said = interpret(program, "abba")
    assert said == expected
    assert trace(program, "abba")[program] == expected


def test_variables_come_once_after_what_they_read() -> None:
    shared = SelectorWidth(SAME)
    program = SequenceMap(lambda x, y: x * y, shared, Map(abs, shared))
    order = in_order(program)
    assert order == [shared, program.y, program]
    assert in_order(TOKENS) == []


def test_domains_are_what_can_occur() -> None:
    fraction = Aggregate(BEFORE, IS_A)
    known = domains(Map(lambda x: round(3 * x), fraction), "ab", 4)
    assert known[IS_A] == (0.0, 1.0)
    assert known[fraction] == tuple(sorted({count / of for of in range(1, 5) for count in range(of + 1)}))
    assert set(known.values()) >= {("a", "b"), (0, 1, 2, 3)}
    assert fraction not in domains(fraction, "ab", 4), "nobody maps it, so its values need not be listed"
    difference = LinearMap(fraction, IS_A, 1.0, -1.0)
    assert set(domains(Map(abs, difference), "a", 2)[difference]) == {-1.0, -0.5, 0.0, 0.5, 1.0}
    partial = Map({"a": 1, "b": None}.get, TOKENS)
    assert domains(partial, "ab", 2)[partial] == (1,)


def test_what_has_no_meaning_is_refused() -> None:
    always = Aggregate(Select(INDICES, INDICES, lambda key, query: key == query + 1, always=True), TOKENS)
    numbers = Map(lambda token: math.pi * ord(token), TOKENS, to_numbers=True)
    several = Map(abs, Aggregate(BEFORE, Aggregate(BEFORE, numbers)))
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: interpret(Aggregate(BEFORE, TOKENS), "abb"), r"\['a', 'b'\] are selected together"),
        (lambda: interpret(always, "ab"), "always=True, but position 1 selects nothing"),
        (lambda: Select(IS_A, TOKENS, lambda key, query: True), "must be categorical"),
        (lambda: Select(TOKENS, IS_A, lambda key, query: True), "must be categorical"),
        (lambda: SequenceMap(max, TOKENS, IS_A), "LinearMap"),
        (lambda: LinearMap(IS_A, TOKENS), "SequenceMap"),
        (lambda: domains(several, "abcdefgh", 8), "more than 1000 values"),
        (lambda: TOKENS.compute(), "given, not computed"),
        (lambda: TOKENS.domain(3), "given, not computed"),
    ]
    for call, message in bad:
        with pytest.raises(BadInput, match=message):
            call()
