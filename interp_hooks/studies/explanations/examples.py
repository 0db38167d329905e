"""The examples of a unit: texts in which it fires, to explain it by and to test on, and texts in which it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import check_arguments

LEVELS = 10  # of activation, in words


@dataclass(frozen=True, kw_only=True)
class Example:
    """A piece of a document: its tokens as text, and a unit's activations there (nan where they do not count).

    `start` is where it begins in the document, `band` the band of its largest activation. `attended` are, of a head,
    the tokens that the strongest one attends to most: text, how many tokens before it, share of attention.
    """

    document: int
    start: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    band: str = ""
    attended: tuple[tuple[str, int, float], ...] = ()

    @property
    def text(self) -> str:
        """The text, on a single line."""
        return _on_a_line("".join(self.tokens))

    def marked(self, which: Iterable[int]) -> str:
        """The text, on a single line, with some tokens between << and >>."""
        marks, parts, inside = set(which), list[str](), False
        for place, token in enumerate(self.tokens):
            if (place in marks) != inside:
                parts.append(">>" if inside else "<<")
                inside = not inside
            parts.append(token)
        return _on_a_line("".join(parts) + ">>" * inside)

    def firing(self, threshold: float) -> list[int]:
        """The places of tokens at which the unit fires."""
        return [place for place, value in enumerate(self.activations) if value >= threshold]


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitExamples:
    """The examples of a unit; activations are minus its own if it is looked at where it is smallest.

    Raises:
        BadInput: a document or a text stands in two of the lists, a silent text in which it fires, or an empty list.
    """

    name: str
    kind: str
    largest: float
    threshold: float
    train: Sequence[Example] = field(repr=False)
    test: Sequence[Example] = field(repr=False)
    silent: Sequence[Example] = field(repr=False)

    def __post_init__(self) -> None:
        check_arguments(type(self).__init__, vars(self))
        lists = {"train": self.train, "test": self.test, "silent": self.silent}
        if empty := [name for name, examples in lists.items() if not examples]:
            raise BadInput(f"{self.name} has no {empty[0]} examples")
        for what in ("document", "text"):
            seen: dict[Any, str] = {}
            for name, examples in lists.items():
                for one in {getattr(example, what) for example in examples}:
                    if one in seen:
                        raise BadInput(
                            f"{self.name} has a {what} among the {seen[one]} and the {name} examples: {one!r:.60}"
                        )
                    seen[one] = name
        if any(one.firing(self.threshold) for one in self.silent):
            raise BadInput(f"{self.name} fires in one of its silent examples")

    def level(self, activation: float) -> int:
        """An activation on a scale from 1 to 10, the largest one; 0 where it is none."""
        share = round(activation / self.largest, 6)  # so that rounding errors make no level
        return min(LEVELS, math.ceil(LEVELS * share)) if activation > 0 else 0


def _on_a_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
