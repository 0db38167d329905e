"""Programs that a transformer can be compiled from: selections, means and maps over a sequence of words.

    length = SelectorWidth(Select(TOKENS, TOKENS, lambda key, query: True))
    target = SequenceMap(lambda n, i: n - i - 1, length, INDICES)
    program = Aggregate(Select(INDICES, target, lambda key, query: key == query), TOKENS)      # the words backwards
    interpret(program, ["a", "b", "c"])                                                        # ["c", "b", "a"]

A `Variable` has one value at each position. A categorical variable takes finitely many values, or None for no value; a
numerical variable is a number. (RASP: Weiss et al. 2021, arxiv.org/abs/2106.06981; in this form, with numerical
variables and an attention that finds nothing: Lindner et al. 2023, arxiv.org/abs/2301.05062.)
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
        """Whether the values are numbers, which one dimension of the stream holds, and not categories."""
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
    """What every program starts from: the word at each position, or its index from 0."""

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
    """Which positions (keys) each position (query) looks at: those where predicate(key, query) holds.

    It does not hold where the key or the query has no value. `always` promises that every query finds a key in every
    sequence.

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
        """List the positions that each position looks at."""
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
    """The mean of a numerical variable, or the value of a categorical variable, over the selected positions.

    Where nothing is selected it is 0, or has no value. Categorical values that are selected together must be equal.
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


class _Function(Variable):
    """A function of the values that other variables have at the same position.

    Where one of these has no value or the function gives None, this one has no value, or is 0 if it is numerical.
    """

    function: Callable[..., Any]
    to_numbers: bool

    @property
    def numerical(self) -> bool:
        return self.to_numbers

    def _value(self, values: tuple[Any, ...]) -> Any:
        found = None if None in values else self.function(*values)
        return 0.0 if self.numerical and found is None else found

    def compute(self, *read: list[Any]) -> list[Any]:
        return [self._value(values) for values in zip(*read, strict=True)]

    def domain(self, length: int, *read: tuple[Any, ...]) -> tuple[Any, ...]:
        found = [*([0.0] if self.numerical else []), *map(self._value, itertools.product(*read))]
        return tuple(dict.fromkeys(value for value in found if value is not None))


@dataclass(frozen=True, eq=False)
class Map(_Function):
    """function(x) at each position; `to_numbers` says whether the function gives numbers that are written as such."""

    function: Callable[[Any], Any]
    x: Variable
    to_numbers: bool = False

    @property
    def reads(self) -> tuple[Variable, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class SequenceMap(_Function):
    """function(x, y) at each position, of two categorical variables.

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
    def reads(self) -> tuple[Variable, ...]:
        return self.x, self.y


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


def in_order(program: Variable) -> list[Variable]:
    """The computed variables of a program, each once, and after the variables that it reads."""
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
    values: dict[Variable, list[Any]] = {TOKENS: list(words), INDICES: list(range(len(words)))}
    for variable in in_order(program):
        values[variable] = variable.compute(*(values[read] for read in variable.reads))
    return values


def interpret(program: Variable, words: Sequence[Value]) -> list[Any]:
    """The output of a program at every position of a sequence; raises as `trace`."""
    return trace(program, words)[program]


def domains(program: Variable, vocabulary: Sequence[Value], length: int) -> Mapping[Variable, tuple[Any, ...]]:
    """All values that each variable can have on sequences of at most `length` words.

    Numerical variables are listed only where a Map depends on them.

    Raises:
        BadInput: more values than can be listed.
    """
    found: dict[Variable, tuple[Any, ...]] = {TOKENS: tuple(vocabulary), INDICES: tuple(range(length))}
    order = in_order(program)
    wanted = set(_wanted(order))
    for variable in order:
        if variable in wanted:
            found[variable] = variable.domain(length, *(found.get(read, ()) for read in variable.reads))
    return found


def _wanted(order: Sequence[Variable]) -> Iterator[Variable]:
    """The categorical variables, and the numerical ones whose values must be listed."""
    needed: set[Variable] = set()
    for variable in reversed(order):
        if isinstance(variable, Map) or (variable in needed and variable.numerical):
            needed.update(read for read in variable.reads)
        if variable in needed or not variable.numerical:
            yield variable
