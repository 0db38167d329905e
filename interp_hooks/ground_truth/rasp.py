"""Programs of selections, means and maps over a sequence of words, which transformers can be compiled from.

    length = SelectorWidth(Select(TOKENS, TOKENS, lambda key, query: True))
    target = SequenceMap(lambda n, i: n - i - 1, length, INDICES)
    program = Aggregate(Select(INDICES, target, lambda key, query: key == query), TOKENS)      # the words backwards
    interpret(program, ["a", "b", "c"])                                                        # ["c", "b", "a"]

A `Variable` has one value at each position. A categorical one is any of finitely many values, or None where it has no
value; a numerical one is a number. (RASP: Weiss et al. 2021, arxiv.org/abs/2106.06981; in this form, with numerical
variables and an attention that finds nothing: Lindner et al. 2023, arxiv.org/abs/2301.05062.)
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from interp_hooks.errors import BadInput

Value = Hashable
MOST_VALUES = 1000  # of a numerical variable that is mapped


@dataclass(frozen=True, eq=False)
class Variable(ABC):
    """One value at each position of a sequence."""

    @property
    def numerical(self) -> bool:
        """Whether the values are numbers that are written as such, not one of finitely many things."""
        return False

    @property
    @abstractmethod
    def reads(self) -> tuple[Variable, ...]:
        """The variables that this one is computed from."""

    @abstractmethod
    def compute(self, *read: list[Any]) -> list[Any]:
        """The values at all positions, from those of `reads`."""

    @abstractmethod
    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        """All values that sequences of at most `length` can give, from those of `reads`."""


@dataclass(frozen=True, eq=False)
class Given(Variable):
    """What stands at a position, or its index from 0."""

    name: str

    @property
    def reads(self) -> tuple[Variable, ...]:
        return ()

    def compute(self, *read: list[Any]) -> list[Any]:
        raise BadInput(f"{self.name} are given, not computed")

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        raise BadInput(f"{self.name} are given, not computed")


TOKENS, INDICES = Given("tokens"), Given("indices")


@dataclass(frozen=True, eq=False)
class Select:
    """Which positions (keys) each position (query) looks at: those for which predicate(key, query) holds.

    Where either has no value, it does not hold. `always` promises that every query finds a key in every sequence.

    Raises:
        BadInput: keys or queries that are numerical.
    """

    keys: Variable
    queries: Variable
    predicate: Callable[[Any, Any], bool]
    always: bool = False

    def __post_init__(self) -> None:
        if self.keys.numerical or self.queries.numerical:
            raise BadInput(
                "keys and queries of a Select must be categorical; Map(f, x) makes a numerical x categorical"
            )

    def found(self, keys: list[Any], queries: list[Any]) -> list[list[int]]:
        """The positions that each position looks at."""
        found = [
            [place for place, key in enumerate(keys) if None not in (key, query) and self.predicate(key, query)]
            for query in queries
        ]
        if self.always and not all(found):
            raise BadInput(
                f"always=True, but position {found.index([])} selects nothing: keys {keys}, queries {queries}"
            )
        return found


@dataclass(frozen=True, eq=False)
class Aggregate(Variable):
    """The mean of a numerical variable, or the one value of a categorical one, over the selected positions.

    Over none it is 0, or no value. Selected categorical values must agree.
    """

    selector: Select
    values: Variable

    @property
    def numerical(self) -> bool:
        return self.values.numerical

    @property
    def reads(self) -> tuple[Variable, ...]:
        return self.selector.keys, self.selector.queries, self.values

    def compute(self, *read: list[Any]) -> list[Any]:
        keys, queries, values = read
        return [self._one([values[place] for place in places]) for places in self.selector.found(keys, queries)]

    def _one(self, selected: list[Any]) -> Any:
        if self.numerical:
            return math.fsum(selected) / len(selected) if selected else 0.0
        if len(set(selected)) > 1:
            raise BadInput(f"a categorical variable has no mean: {selected} are selected together")
        return selected[0] if selected else None

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.numerical:
            return read[2]
        sums, means, exact = {Fraction(0)}, {Fraction(0)}, [Fraction(value) for value in read[2]]
        for count in range(1, length + 1):
            sums = {total + value for total in sums for value in exact}
            means |= {total / count for total in sums}
            if len(means) > MOST_VALUES:
                raise BadInput(f"a mean that takes more than {MOST_VALUES} values is too much to map")
        return tuple(map(float, sorted(means)))


@dataclass(frozen=True, eq=False)
class SelectorWidth(Variable):
    """How many positions each position looks at."""

    selector: Select

    @property
    def reads(self) -> tuple[Variable, ...]:
        return self.selector.keys, self.selector.queries

    def compute(self, *read: list[Any]) -> list[Any]:
        return [len(places) for places in self.selector.found(*read)]

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(range(length + 1))


@dataclass(frozen=True, eq=False)
class Map(Variable):
    """function(x) at each position; `to_numbers` says whether what it gives is numerical.

    Of no value comes no value, or 0, and so where the function gives None.
    """

    function: Callable[[Any], Any]
    x: Variable
    to_numbers: bool = False

    @property
    def numerical(self) -> bool:
        return self.to_numbers

    @property
    def reads(self) -> tuple[Variable, ...]:
        return (self.x,)

    def compute(self, *read: list[Any]) -> list[Any]:
        return [_applied(self.function, self.numerical, value) for value in read[0]]

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        return _given(self.numerical, (_applied(self.function, self.numerical, value) for value in read[0]))


@dataclass(frozen=True, eq=False)
class SequenceMap(Variable):
    """function(x, y) at each position, of two categorical variables.

    Where either has no value or the function gives None, it has none, or is 0.

    Raises:
        BadInput: a numerical variable.
    """

    function: Callable[[Any, Any], Any]
    x: Variable
    y: Variable
    to_numbers: bool = False

    def __post_init__(self) -> None:
        if self.x.numerical or self.y.numerical:
            raise BadInput("a SequenceMap reads categorical variables; LinearMap combines numerical ones")

    @property
    def numerical(self) -> bool:
        return self.to_numbers

    @property
    def reads(self) -> tuple[Variable, ...]:
        return self.x, self.y

    def compute(self, *read: list[Any]) -> list[Any]:
        return [_applied(self.function, self.numerical, *pair) for pair in zip(*read, strict=True)]

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        pairs = itertools.product(*read)
        return _given(self.numerical, (_applied(self.function, self.numerical, *pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class LinearMap(Variable):
    """a x + b y at each position, of two numerical variables.

    Raises:
        BadInput: a categorical variable.
    """

    x: Variable
    y: Variable
    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (self.x.numerical and self.y.numerical):
            raise BadInput("a LinearMap reads numerical variables; SequenceMap combines categorical ones")

    @property
    def numerical(self) -> bool:
        return True

    @property
    def reads(self) -> tuple[Variable, ...]:
        return self.x, self.y

    def compute(self, *read: list[Any]) -> list[Any]:
        return [self.a * x + self.b * y for x, y in zip(*read, strict=True)]

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(read[0]) * len(read[1]) > MOST_VALUES:
            raise BadInput(f"a sum of {len(read[0])} and {len(read[1])} values is too much to map")
        return tuple(dict.fromkeys(self.a * x + self.b * y for x in read[0] for y in read[1]))


def _applied(function: Callable[..., Any], numerical: bool, *values: Any) -> Any:
    """What a function gives, or nothing of nothing: 0 of a numerical variable, None of a categorical one."""
    found = None if None in values else function(*values)
    return 0.0 if numerical and found is None else found


def _given(numerical: bool, values: Iterable[Any]) -> tuple[Any, ...]:
    """The different values; a number can always be 0, for want of a value."""
    return tuple(dict.fromkeys(value for value in ((0.0, *values) if numerical else values) if value is not None))


def in_order(program: Variable) -> list[Variable]:
    """The variables of a program, each once, after those that it reads; without the given ones."""
    seen: dict[Variable, None] = {}

    def visit(variable: Variable) -> None:
        if variable not in seen and not isinstance(variable, Given):
            for read in variable.reads:
                visit(read)
            seen[variable] = None

    visit(program)
    return list(seen)


def trace(program: Variable, words: Sequence[Value]) -> Mapping[Variable, list[Any]]:
    """The values of every variable of a program on one sequence.

    Raises:
        BadInput: several categorical values selected together, or a broken promise of a Select.
    """
    known: dict[Variable, list[Any]] = {TOKENS: list(words), INDICES: list(range(len(words)))}
    for variable in in_order(program):
        known[variable] = variable.compute(*(known[read] for read in variable.reads))
    return known


def interpret(program: Variable, words: Sequence[Value]) -> list[Any]:
    """What a program says at every position of a sequence; raises as `trace`."""
    return trace(program, words)[program]


def domains(program: Variable, vocabulary: Sequence[Value], length: int) -> Mapping[Variable, tuple[Any, ...]]:
    """All values that each variable can have on sequences of at most `length` words.

    Of numerical ones only those that a Map reads, or that such are computed from.

    Raises:
        BadInput: more values than can be listed.
    """
    known: dict[Variable, tuple[Any, ...]] = {TOKENS: tuple(vocabulary), INDICES: tuple(range(length))}
    order = in_order(program)
    wanted = set(_wanted(order))
    for variable in order:
        if variable in wanted:
            known[variable] = variable.domain(length, *(known.get(read, ()) for read in variable.reads))
    return known


def _wanted(order: Sequence[Variable]) -> Iterator[Variable]:
    """The categorical variables, and the numerical ones whose values must be listed."""
    needed: set[Variable] = set()
    for variable in reversed(order):
        if isinstance(variable, Map) or (variable in needed and variable.numerical):
            needed.update(read for read in variable.reads)
        if variable in needed or not variable.numerical:
            yield variable
