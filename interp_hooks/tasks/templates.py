"""Tasks in words. Every function draws pairs by seed and keeps those that fit the model's tokenizer.

ioi               "When Mary and John went to the store, John gave a ring to" -> " Mary"
greater_than      "The war lasted from the year 1732 to the year 17" -> any of "33" ... "99"
gendered_pronoun  "So Mary is a really great friend, isn't" -> " she"
docstring         the third argument of a function, where its documentation goes on -> " size"
acronyms          "The Central Hill Team (CH" -> "T"
capitals          "The capital of France is the city of" -> " Paris"
agreement         "The keys near the door" -> " are"
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.experiments.task import Task
from interp_hooks.interventions.metrics import ProbDiff
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, NAMES, OBJECTS, PLACES
from interp_hooks.tasks.task import Candidate, Piece, task_in_words

# ------------------------------------------------------------------------------------- indirect object identification

IOICorruption = Literal["S2->IO", "S2->RAND", "IO->RAND", "S1->RAND", "S->RAND", "IO<->S1", "ABC"]


def ioi(
    model: HookedTransformer,
    n: int = 32,
    *,
    corruption: IOICorruption = "S2->IO",
    templates: Sequence[int] | None = None,
    names: Sequence[str] = NAMES,
    seed: int = 0,
) -> Task:
    """Indirect object identification (Wang et al. 2022, arXiv 2211.00593): which of two people was named once.

    `corruption` says what the corrupt prompt has instead: another name at the second mention of the subject ("S2->IO"
    swaps the answer, "S2->RAND" leaves none), for one of the people, or three new names ("ABC"). Positions: "IO", "S1",
    "S2", "end".

    Raises:
        BadInput: an unknown corruption or template, or fewer than five names.
        TokenError: too few prompts fit the tokenizer.
    """
    if corruption not in IOICorruption.__args__:
        raise BadInput(f"corruption must be one of {', '.join(IOICorruption.__args__)}, got {corruption!r}")
    chosen = range(len(IOI_TEMPLATES)) if templates is None else templates
    if unknown := [template for template in chosen if not 0 <= template < len(IOI_TEMPLATES)]:
        raise BadInput(f"there is no template {unknown[0]}; there are 0 to {len(IOI_TEMPLATES) - 1}")
    if len(set(names)) < 5:
        raise BadInput(f"corrupt prompts need at least 5 different names, got {len(set(names))}")
    return task_in_words(model, "ioi", n, _ioi(random.Random(seed), corruption, list(chosen), sorted(set(names))))


def _ioi(rng: random.Random, corruption: str, templates: list[int], names: list[str]) -> Iterator[Candidate]:
    while True:
        io, s, *others = (" " + name for name in rng.sample(names, 5))
        template, first = rng.choice(templates), rng.random() < 0.5
        nouns = {"PLACE": " " + rng.choice(PLACES), "OBJECT": " " + rng.choice(OBJECTS)}
        swapped = {
            "S2->IO": (io, s, io),
            "S2->RAND": (io, s, others[0]),
            "IO->RAND": (others[0], s, s),
            "S1->RAND": (io, others[0], s),
            "S->RAND": (io, others[0], others[0]),
            "IO<->S1": (s, io, s),
            "ABC": (others[0], others[1], others[2]),
        }[corruption]

        def fill(io: str, s1: str, s2: str, template: int = template, first: bool = first, nouns: dict = nouns):
            a, b = (("IO", io), ("S1", s1)) if first else (("S1", s1), ("IO", io))
            words = {"A": Piece(*a), "B": Piece(*b), "S": Piece("S2", s2)}
            words |= {slot: Piece("", word) for slot, word in nouns.items()}
            parts = re.split(r"\{(\w+)\}", IOI_TEMPLATES[template])
            return [words[part] if place % 2 else Piece("", part) for place, part in enumerate(parts)]

        yield Candidate(fill(io, s, s), fill(*swapped), io, [s], 2 * template + first)


# ------------------------------------------------------------------------------------------------------- greater than

EVENTS = (
    "war", "reign", "famine", "siege", "project", "expedition", "drought", "epidemic", "truce", "strike",
    "marriage", "trial", "campaign", "voyage", "rebellion", "study", "dispute", "alliance", "crisis", "dynasty",
)  # fmt: skip


def greater_than(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """Greater-than (Hanna et al. 2023, arXiv 2305.00586): a period must end after the year it began in.

    The metric is the probability of all later two-digit endings less that of the others; the corrupt year ends in 01,
    so that nearly any ending is later. Years that are not two tokens of two digits are left out. Positions: "XX",
    "YY", "end". `answer` is the next year, `wrong` the year before.

    Raises:
        TokenError: the tokenizer does not split years so.
    """
    task = task_in_words(model, "greater-than", n, _greater_than(random.Random(seed)))
    endings = _two_digits(model)
    began = [int(year) for year in re.findall(r"\d\d(\d\d) to", "\n".join(map(str, task.clean)))]
    signs = torch.tensor([[1.0 if year > begin else -1.0 for year in endings] for begin in began])
    metric = ProbDiff(torch.tensor(list(endings.values())), signs)
    return replace(task, metric=metric)


def _greater_than(rng: random.Random) -> Iterator[Candidate]:
    while True:
        event, century, year = rng.choice(EVENTS), rng.randint(11, 17), rng.randint(2, 98)

        def fill(year: int, event: str = event, century: int = century) -> list[Piece]:
            return [
                Piece("", f"The {event} lasted from the year"),
                Piece("XX", f" {century}"),
                Piece("YY", f"{year:02}"),
                Piece("", " to the year"),
                Piece("", f" {century}"),
            ]

        yield Candidate(fill(year), fill(1), f"{year + 1:02}", [f"{year - 1:02}"])


def _two_digits(model: HookedTransformer) -> dict[int, int]:
    """The token of each two-digit ending of a year, as far as there is one."""
    before = model.to_tokens("the year 17", move_to_device=False)[0].tolist()
    found = {}
    for year in range(100):
        ids = model.to_tokens(f"the year 17{year:02}", move_to_device=False)[0].tolist()
        if ids[:-1] == before:
            found[year] = ids[-1]
    if len(found) < 50:
        raise TokenError(f"only {len(found)} two-digit endings of years are tokens of this tokenizer; needed are 50")
    return found


# ----------------------------------------------------------------------------------------------------------- pronouns

WOMEN = ("Mary", "Lisa", "Anna", "Sarah", "Amy", "Laura", "Emily", "Jessica", "Helen", "Nancy", "Linda", "Emma")
MEN = ("John", "Peter", "David", "Paul", "Mark", "Michael", "Tom", "James", "Robert", "Kevin", "George", "Daniel")
TAGS = (
    " is a really great friend, isn't",
    " is such a good cook, isn't",
    " is a very good athlete, isn't",
    " is a really nice person, isn't",
    " is such a funny person, isn't",
)


def gendered_pronoun(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """A tag question about somebody whose name tells the pronoun; the corrupt name is of the other gender.

    Positions: "name", "end".
    """
    return task_in_words(model, "gendered-pronoun", n, _pronouns(random.Random(seed)))


def _pronouns(rng: random.Random) -> Iterator[Candidate]:
    while True:
        people = [(" " + rng.choice(WOMEN), " she"), (" " + rng.choice(MEN), " he")]
        (name, answer), (other, wrong) = rng.sample(people, 2)
        template = rng.randrange(len(TAGS))
        ending = Piece("", TAGS[template])
        clean, corrupt = ([Piece("", "So"), Piece("name", one), ending] for one in (name, other))
        yield Candidate(clean, corrupt, answer, [wrong], template)


# ----------------------------------------------------------------------------------------------------------- docstring

WORDS = (
    "name", "size", "value", "file", "line", "test", "node", "user", "item", "time", "data", "list", "text", "page",
    "code", "group", "path", "port", "state", "field", "table", "color", "model", "event", "image", "order",
)  # fmt: skip


def docstring(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """The next argument in a Python docstring (Heimersheim and Janiak 2023): the third of three documented in order.

    Distractors are all other arguments; the metric is the margin over the best of them. In the corrupt prompt other
    names stand in the definition and in the documentation ("random_random" of the paper). Positions: "A_def", "B_def",
    "C_def", "A_doc", "B_doc", "end".
    """
    return task_in_words(model, "docstring", n, _docstring(random.Random(seed)))


def _docstring(rng: random.Random) -> Iterator[Candidate]:
    while True:
        words = [" " + word for word in rng.sample(WORDS, 19)]
        described = words[12:]

        def fill(names: list[str], documented: list[str], described: list[str] = described) -> list[Piece]:
            labels = ["", "", "A_def", "B_def", "C_def", ""]
            definition = [Piece("", "def f(self")]
            for label, name in zip(labels, names, strict=True):
                definition += [Piece("", ","), Piece(label, name)]
            lines = [Piece("", '):\n    """' + described[0].strip() + described[1] + "\n\n")]
            for place, (label, name) in enumerate(zip(("A_doc", "B_doc"), documented, strict=True)):
                lines += [Piece("", "    :param"), Piece(label, name)]
                lines += [Piece("", f":{described[2 * place + 2]}{described[2 * place + 3]}\n")]
            return [*definition, *lines, Piece("", "    :param")]

        names, others = words[:6], words[6:12]
        others_documented = [others[2], others[5]]
        clean, corrupt = fill(names, names[2:4]), fill(others, others_documented)
        yield Candidate(clean, corrupt, names[4], [name for name in names if name != names[4]])


# ------------------------------------------------------------------------------------------------------------ acronyms

INITIALS = (
    "Apple", "Bank", "Card", "Data", "Earth", "Fire", "Gold", "Home", "Island", "Jump", "King", "Light", "Moon",
    "North", "Open", "Park", "Queen", "River", "Star", "Tree", "Union", "Voice", "Water", "Year", "Zone",
)  # fmt: skip


def acronyms(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """The third letter of an acronym of three capitalised words (García-Carrasco et al. 2024).

    The corrupt prompt has another third word. Positions: "W1", "W2", "W3", "end".
    """
    return task_in_words(model, "acronyms", n, _acronyms(random.Random(seed)))


def _acronyms(rng: random.Random) -> Iterator[Candidate]:
    while True:
        first, second, third, other = (" " + word for word in rng.sample(INITIALS, 4))

        def fill(third: str, first: str = first, second: str = second) -> list[Piece]:
            words = [Piece(f"W{place}", word) for place, word in enumerate((first, second, third), start=1)]
            return [Piece("", "The"), *words, Piece("", " ("), Piece("", first[1]), Piece("", second[1])]

        yield Candidate(fill(third), fill(other), third[1], [other[1]])


# --------------------------------------------------------------------------------------------------- facts and grammar

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Russia": "Moscow", "Japan": "Tokyo",
    "China": "Beijing", "England": "London", "Austria": "Vienna", "Egypt": "Cairo", "Greece": "Athens",
    "Cuba": "Havana", "Poland": "Warsaw", "Ireland": "Dublin", "Canada": "Ottawa", "Iran": "Tehran", "Iraq": "Baghdad",
    "Syria": "Damascus", "Kenya": "Nairobi", "Portugal": "Lisbon",
}  # fmt: skip
CAPITAL_TEMPLATES = (("The capital of", " is the city of"), ("Everyone in", " knows that its capital is"))


def capitals(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """The capital of a country; the corrupt prompt names another one. Positions: "country", "end"."""

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            template = rng.randrange(len(CAPITAL_TEMPLATES))
            before, after = CAPITAL_TEMPLATES[template]
            one, other = rng.sample(sorted(CAPITALS), 2)
            clean, corrupt = (
                [Piece("", before), Piece("country", " " + country), Piece("", after)] for country in (one, other)
            )
            yield Candidate(clean, corrupt, " " + CAPITALS[one], [" " + CAPITALS[other]], template)

    return task_in_words(model, "capitals", n, drawn())


NOUNS = ("key", "door", "book", "car", "tree", "dog", "picture", "boat", "flower", "student", "table", "window")


def agreement(model: HookedTransformer, n: int = 32, *, seed: int = 0) -> Task:
    """A verb that agrees with its subject across a noun of the other number; the corrupt subject has that number.

    Positions: "subject", "attractor", "end".
    """

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            template, place = rng.randrange(2), rng.choice((" near", " behind", " beside"))
            subject, attractor = rng.sample(NOUNS, 2)
            forms = [f" {subject}", f" {subject}s"], [f" {attractor}", f" {attractor}s"], [" is", " are"]
            plural, other = template, 1 - template
            clean, corrupt = (
                [
                    Piece("", "The"),
                    Piece("subject", forms[0][number]),
                    Piece("", place + " the"),
                    Piece("attractor", forms[1][other]),
                ]
                for number in (plural, other)
            )
            yield Candidate(clean, corrupt, forms[2][plural], [forms[2][other]], template)

    return task_in_words(model, "agreement", n, drawn())
