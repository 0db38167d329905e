"""Labels of the tokens of a corpus: a class for each, as probes and erasers need them.

by_document([0, 1, 1])            all tokens of a document have its class
by_token({262: 0, 290: 1})        what stands there
Labels("half", ("first", "second"), of=lambda seen: (seen.positions >= 50).long())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.corpus.units import Seen
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, is_integral, told, told_shape
from interp_hooks.model.tensor_files import hash_of


@dataclass(frozen=True)
class Labels:
    """A class for each token that a scan sees: `of(seen)` gives class numbers [token], -1 where a token has none.

    `classes` are the names of the classes. Labels are known by their `name`, for which the function stands in records.
    """

    name: str
    classes: tuple[str, ...]
    of: Callable[[Seen], Int[Tensor, " token"]]

    def __post_init__(self) -> None:
        named = isinstance(self.classes, tuple | list) and all(isinstance(one, str) for one in self.classes)
        if not isinstance(self.name, str) or not named or len(self.classes) < 2 or not callable(self.of):
            raise BadInput(
                "labels have a name, a tuple of two names of classes or more, and a function of what a scan sees, got "
                f"{told(self.name)}, {told(self.classes)} and {told(self.of)}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and (self.name, self.classes) == (other.name, other.classes)

    def __hash__(self) -> int:
        return hash((self.name, self.classes))

    def classes_of(self, seen: Seen) -> Int[Tensor, " token"]:
        """The class of each token, -1 where it has none.

        Raises:
            BadInput: the function gives something else.
        """
        found = self.of(seen)
        if not is_integral(found) or found.shape != seen.tokens.shape:
            expected = f"class numbers [token] = {list(seen.tokens.shape)}"
            raise BadInput(f"the labels {self.name!r} must be {expected}, got {told_shape(found)}")
        found = found.to(seen.values.device).long()
        if bool(((found < -1) | (found >= len(self.classes))).any()):
            raise BadInput(f"the labels {self.name!r} must be -1..{len(self.classes) - 1}, got {int(found.max())}")
        return found

    def told(self) -> dict[str, Any]:
        """What a record keeps of them: all but the function, for which the name stands."""
        return {"name": self.name, "classes": self.classes}


@checked
def by_document(classes: Sequence[int] | Tensor, names: Sequence[str] | None = None) -> Labels:
    """Labels of documents, in their order: every token has the class of its document; -1 for none.

    Raises:
        BadInput: no class numbers, or fewer names than classes.

    >>> from interp_hooks.corpus import by_document
    >>> by_document([0, 1, 1, -1]).classes
    ('0', '1')
    """
    of_documents = _numbers(classes)

    def of(seen: Seen) -> Tensor:
        if int(seen.documents.max()) >= len(of_documents):
            raise BadInput(f"there are labels for {len(of_documents)} documents, and the corpus has more")
        return of_documents.to(seen.documents.device)[seen.documents]

    return Labels(_name("document", of_documents), _names(of_documents, names), of)


@checked
def by_token(classes: Mapping[int, int], names: Sequence[str] | None = None) -> Labels:
    """Labels by what stands there: the class of each token id that is listed, and none for others.

    Raises:
        BadInput: an empty mapping, class numbers below 0, or fewer names than classes.

    >>> from interp_hooks.corpus import by_token
    >>> by_token({5: 0, 7: 1}, names=["article", "noun"]).classes
    ('article', 'noun')
    """
    if not classes or min(classes) < 0:
        raise BadInput(f"classes must map token ids to class numbers, got {told(dict(classes))}")
    of_ids = torch.full((max(classes) + 1,), -1)
    of_ids[list(classes)] = _numbers(list(classes.values()))

    def of(seen: Seen) -> Tensor:
        known = of_ids.to(seen.tokens.device)
        return torch.where(seen.tokens < len(known), known[seen.tokens.clamp(max=len(known) - 1)], -1)

    return Labels(_name("token", of_ids), _names(of_ids, names), of)


def _numbers(classes: Sequence[int] | Tensor) -> Int[Tensor, " _"]:
    found = torch.as_tensor(classes)
    if not is_integral(found) or found.ndim != 1 or not len(found) or int(found.min()) < -1:
        raise BadInput(f"classes must be numbers from 0 on, or -1 for none, got {told(classes)}")
    return found.long()


def _names(classes: Int[Tensor, " _"], names: Sequence[str] | None) -> tuple[str, ...]:
    count = int(classes.max()) + 1
    if names is not None and len(names) != count:
        raise BadInput(f"there are {count} classes, got {len(names)} names")
    return tuple(map(str, range(count))) if names is None else tuple(names)


def _name(of: str, classes: Int[Tensor, " _"]) -> str:
    return f"{of} {hash_of({'classes': classes}, '')[:12]}"
