"""What scoring asks: texts in pairs, in one of which a unit fires, and how the answers are read.

Texts are shown in a random order, some at once, the last ones too if they are fewer. An answer is a list of 0 and 1 for
the texts of a request; any other is unread, for all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.experiments.ranking import area_under_roc
from interp_hooks.studies.explanations.answers import Answer, Request, parsed_json
from interp_hooks.studies.explanations.sources import Example, UnitExamples

Scorer = Literal["detection", "fuzzing"]
UNREAD = -1
ABOUT = "An explanation says when a unit of a neural network that reads text is active. You are given some texts. "
TASKS: Mapping[Scorer, str] = {
    "detection": "Say of each text whether the unit is active in it: 1 if it is, 0 if it is not.",
    "fuzzing": "In each text some tokens stand between << and >>. Say of each text whether these are the tokens at "
    "which the unit is active: 1 if they are, 0 if they are not.",
}
LAST_LINE = "Answer with a JSON list of {n} numbers, one for each text in its order, and with nothing else."
INTRUDER = (
    "A unit of a neural network reads texts. In all of the following texts but one, the tokens between << and >> are "
    "those at which the unit is active. In one of them, the intruder, it is not active, and other tokens are marked. "
    "Find the intruder. Answer with a JSON list that has its number, such as [3], and with nothing else."
)
PER_ITEM, SPARE = 4, 40  # tokens that an answer may have


class Item(NamedTuple):
    """A text as it is shown, the right answer (1 where the unit fires), and the tokens that a rule by word looks at."""

    text: str
    label: int
    tokens: frozenset[str]


class Outcome(NamedTuple):
    """What was said of each item, in their order (0, 1, or -1 for unread), and the probability of 1, nan if unknown."""

    said: Int[Tensor, " item"]
    probability: Float[Tensor, " item"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The items of one scorer and one unit, pair by pair, and the order in which they are shown."""

    scorer: Scorer
    unit: str
    items: Sequence[Item]
    order: Sequence[int]
    per_request: int
    most_frequent: str

    @classmethod
    def of(cls, scorer: Scorer, examples: UnitExamples, n: int, per_request: int, rng: random.Random) -> Trial:
        """`n` pairs of a unit's texts."""
        firing, silent = rng.sample(examples.test, n), rng.sample(examples.silent, n)
        marks = [one.firing(examples.threshold) for one in firing]
        items: list[Item] = []
        for one, other, of_one, of_other in zip(firing, silent, marks, like(marks, silent, rng), strict=True):
            items += [_item(scorer, one, 1, of_one), _item(scorer, other, 0, of_other)]
        return cls(
            scorer=scorer,
            unit=examples.name,
            items=items,
            order=rng.sample(range(2 * n), 2 * n),
            per_request=per_request,
            most_frequent=_most_frequent(examples),
        )

    @property
    def _groups(self) -> list[Sequence[int]]:
        return [self.order[start : start + self.per_request] for start in range(0, len(self.order), self.per_request)]

    def requests(self, explanation: str) -> list[Request]:
        """The questions, by an explanation."""
        return [
            Request(
                system=ABOUT + TASKS[self.scorer],
                user="\n".join(
                    [
                        f"Explanation: {explanation}",
                        *numbered([self.items[one].text for one in group]),
                        LAST_LINE.format(n=len(group)),
                    ]
                ),
                max_tokens=PER_ITEM * len(group) + SPARE,
                log_probs=True,
            )
            for group in self._groups
        ]

    def read(self, answers: Sequence[Answer]) -> Outcome:
        """What the answers to these questions say."""
        said = torch.full((len(self.items),), UNREAD)
        probability = torch.full((len(self.items),), torch.nan, dtype=torch.float64)
        for group, answer in zip(self._groups, answers, strict=True):
            numbers = listed(answer.text, len(group), (0, 1))
            if numbers is not None:
                said[list(group)] = torch.tensor(numbers)
                probability[list(group)] = torch.tensor(_probabilities(answer, numbers), dtype=torch.float64)
        return Outcome(said, probability)

    def by_rule(self) -> Outcome:
        """What one says who knows at which token the unit fires most often, and nothing else."""
        return self._without_asking([int(self.most_frequent in one.tokens) for one in self.items])

    def always(self) -> Outcome:
        """What one says who always says yes."""
        return self._without_asking([1] * len(self.items))

    def _without_asking(self, said: Sequence[int]) -> Outcome:
        return Outcome(torch.tensor(said), torch.full((len(said),), torch.nan, dtype=torch.float64))

    @property
    def labels(self) -> Int[Tensor, " item"]:
        return torch.tensor([one.label for one in self.items])


def like(marks: Sequence[Sequence[int]], texts: Sequence[Example], rng: random.Random) -> list[list[int]]:
    """Places for each of some texts: those of `marks`, each taken once; where a text is too short, others of it."""
    found = []
    for places, text in zip(rng.sample(marks, len(marks)), texts, strict=True):
        inside = [place for place in places if place < len(text.tokens)]
        free = [place for place in range(len(text.tokens)) if place not in inside]
        short = min(len(places) - len(inside), len(free))
        found.append(sorted([*inside, *rng.sample(free, short)]))
    return found


def numbered(texts: Sequence[str]) -> list[str]:
    """Texts on a line each, with their numbers from 1 on."""
    return [f"Text {number}: {text}" for number, text in enumerate(texts, 1)]


def listed(answer: str, n: int, allowed: Sequence[int]) -> list[int] | None:
    """The list of `n` numbers in an answer; None if it is something else."""
    try:
        found = parsed_json(answer)
        numbers = [int(one) for one in found]
    except (ValueError, TypeError, RecursionError):
        return None
    return numbers if len(numbers) == n and all(one in allowed for one in numbers) else None


def _item(scorer: Scorer, one: Example, label: int, marks: Sequence[int]) -> Item:
    if scorer == "detection":
        return Item(one.text, label, frozenset(one.tokens))
    return Item(one.marked(marks), label, frozenset(one.tokens[at] for at in marks))


def _most_frequent(examples: UnitExamples) -> str:
    """The token at which a unit fires most often in the examples that explain it."""
    counts = Counter(one.tokens[at] for one in examples.train for at in one.firing(examples.threshold))
    return counts.most_common(1)[0][0]


def _probabilities(answer: Answer, numbers: Sequence[int]) -> list[float]:
    """P(1) / (P(0) + P(1)) of each number in an answer; nan where the server gives no probabilities."""
    choices = [(_digit(token), by_token) for token, by_token in answer.choices or ()]
    digits = [(digit, by_token) for digit, by_token in choices if digit is not None][-len(numbers) :]
    if [digit for digit, _ in digits] != list(numbers):
        return [torch.nan] * len(numbers)
    found = []
    for _, by_token in digits:
        no, yes = (sum(p for token, p in by_token.items() if _digit(token) == digit) for digit in (0, 1))
        found.append(yes / (no + yes))
    return found


def _digit(token: str) -> int | None:
    """The 0 or 1 that a token of a list writes."""
    bare = token.strip(" ,[]\n\t")
    return int(bare) if bare in ("0", "1") else None


def roc_auc(probability: Float[Tensor, " item"], label: Int[Tensor, " item"]) -> float:
    """The area under the ROC curve: how often an item with label 1 is more probable than one with label 0, ties half.

    nan where there is none of either.
    """
    known = ~probability.isnan()
    return area_under_roc(probability[known], label[known] == 1)
