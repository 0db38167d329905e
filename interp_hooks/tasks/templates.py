"""Tasks in words. Every function draws pairs by seed and keeps those that fit the model's tokenizer.

greater_than      "The war lasted from the year 1732 to the year 17" -> any of "33" ... "99"
gendered_pronoun  "So Mary is a really great friend, isn't" -> " she"
docstring         the third argument of a function, where its documentation goes on -> " size"
acronyms          "The Central Hill Team (CH" -> "T"
capitals          "The capital of France is the city of" -> " Paris"
in_context        "hot: cold", "big: small" and other examples, a line each, then "fast:" -> " slow"
repeated_words    "Words: key book ring hat key book" -> " ring"
subject_verb_agreement   "The keys near the door" -> " are"
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from interp_hooks.errors import TokenError
from interp_hooks.errors.arguments import Count, Positive, Seed, checked, refuse_outside
from interp_hooks.experiments.task import Task
from interp_hooks.interventions.metrics import ProbDiff
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.tasks.in_words import Candidate, task_in_words
from interp_hooks.tasks.ioi_text import OBJECTS, PLACES

# ------------------------------------------------------------------------------------------------------- greater than

EVENTS = (
    "war", "reign", "famine", "siege", "project", "expedition", "drought", "epidemic", "truce", "strike",
    "marriage", "trial", "campaign", "voyage", "rebellion", "study", "dispute", "alliance", "crisis", "dynasty",
)  # fmt: skip


@checked
def greater_than(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
    """Greater-than (Hanna et al. 2023, arXiv 2305.00586): a period must end after the year it began in.

    The metric is the probability of all later two-digit endings less that of the others; the corrupt year ends in 01,
    so that nearly any ending is later. Years that are not two tokens of two digits are left out. Positions: "XX",
    "YY", "end". `answer` is the next year, `wrong` the year before.

    Tokenizers with a token for each digit are asked for the decade: the metric is the probability of all later digits
    less that of the earlier ones (the decade of the year itself may be right or wrong, and does not count); "YY" is
    that digit of the year, "XX" the last one of its century, `answer` the next decade, `wrong` the one before.

    Raises:
        TokenError: the tokenizer does neither.
    """
    endings = _endings(model)
    by_decade = len(endings) == 10
    drawn = (_decades if by_decade else _years)(random.Random(seed))
    task = task_in_words(model, "greater-than", n, drawn)
    began = [
        int(year) // (10 if by_decade else 1) for year in re.findall(r"\d\d(\d\d) to", "\n".join(map(str, task.clean)))
    ]
    own = 0.0 if by_decade else -1.0
    signs = torch.tensor(
        [[own if end == begin else 1.0 if end > begin else -1.0 for end in endings] for begin in began]
    )
    return replace(task, metric=ProbDiff(torch.tensor(list(endings.values())), signs))


def _years(rng: random.Random) -> Iterator[Candidate]:
    while True:
        event, century, year = rng.choice(EVENTS), rng.randint(11, 17), rng.randint(2, 98)

        clean, corrupt = (
            f"The {event} lasted from the year[XX: {century}][YY:{began:02}] to the year {century}"
            for began in (year, 1)
        )
        yield Candidate(clean, corrupt, f"{year + 1:02}", [f"{year - 1:02}"])


def _decades(rng: random.Random) -> Iterator[Candidate]:
    while True:
        event, century, decade, year = rng.choice(EVENTS), rng.randint(1, 7), rng.randint(1, 8), rng.randint(0, 9)

        clean, corrupt = (
            f"The {event} lasted from the year 1[XX:{century}][YY:{began // 10}]{began % 10} to the year 1{century}"
            for began in (10 * decade + year, 1)
        )
        yield Candidate(clean, corrupt, f"{decade + 1}", [f"{decade - 1}"])


def _endings(model: HookedTransformer) -> dict[int, int]:
    """The token of each two-digit ending of a year that has one; or of each digit, if years are made of these.

    Raises:
        TokenError: neither is so.
    """

    def ids_of(text: str) -> list[int]:
        return model.to_tokens(text, move_to_device=False)[0].tolist()

    before, found = ids_of("the year 17"), dict[int, int]()
    for year in range(100):
        *first, last = ids_of(f"the year 17{year:02}")
        if first == before:
            found[year] = last
    digits = [ids_of(f"the year 17{digit}") for digit in range(10)]
    one_by_one = all(ids[:-1] == before for ids in digits) and all(
        ids_of(f"the year 17{year}") == [*digits[year // 10], digits[year % 10][-1]] for year in range(10, 100)
    )
    if len(found) < 50 and one_by_one:
        return {digit: ids[-1] for digit, ids in enumerate(digits)}
    if len(found) < 50:
        raise TokenError(
            f"only {len(found)} two-digit endings of years are tokens of this tokenizer, of which 50 are needed, and "
            "years are not written digit by digit either"
        )
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


@checked
def gendered_pronoun(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
    """A tag question about somebody whose name tells the pronoun; the corrupt name is of the other gender.

    Positions: "name", "end".
    """
    return task_in_words(model, "gendered-pronoun", n, _pronouns(random.Random(seed)))


def _pronouns(rng: random.Random) -> Iterator[Candidate]:
    while True:
        people = [(" " + rng.choice(WOMEN), " she"), (" " + rng.choice(MEN), " he")]
        (name, answer), (other, wrong) = rng.sample(people, 2)
        template = rng.randrange(len(TAGS))
        clean, corrupt = (f"So[name:{one}]{TAGS[template]}" for one in (name, other))
        yield Candidate(clean, corrupt, answer, [wrong], template)


# ----------------------------------------------------------------------------------------------------------- docstring

WORDS = (
    "name", "size", "value", "file", "line", "test", "node", "user", "item", "time", "data", "list", "text", "page",
    "code", "group", "path", "port", "state", "field", "table", "color", "model", "event", "image", "order",
)  # fmt: skip


@checked
def docstring(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
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

        def filled(names: list[str], documented: list[str], described: list[str] = described) -> str:
            first, second, a, b, c, last = names
            title, one, two = ("".join(described[place : place + 2]) for place in (0, 2, 4))
            return (
                f"def f(self,{first},{second},[A_def:{a}],[B_def:{b}],[C_def:{c}],{last}):\n"
                f'    """{title.strip()}\n\n'
                f"    :param[A_doc:{documented[0]}]:{one}\n"
                f"    :param[B_doc:{documented[1]}]:{two}\n"
                "    :param"
            )

        names, others = words[:6], words[6:12]
        others_documented = [others[2], others[5]]
        clean, corrupt = filled(names, names[2:4]), filled(others, others_documented)
        yield Candidate(clean, corrupt, names[4], [name for name in names if name != names[4]])


# ------------------------------------------------------------------------------------------------------------ acronyms

INITIALS = (
    "Apple", "Bank", "Card", "Data", "Earth", "Fire", "Gold", "Home", "Island", "Jump", "King", "Light", "Moon",
    "North", "Open", "Park", "Queen", "River", "Star", "Tree", "Union", "Voice", "Water", "Year", "Zone",
)  # fmt: skip


@checked
def acronyms(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
    """The third letter of an acronym of three capitalised words (García-Carrasco et al. 2024).

    The corrupt prompt has another third word. Positions: "W1", "W2", "W3", "end".
    """
    return task_in_words(model, "acronyms", n, _acronyms(random.Random(seed)))


def _acronyms(rng: random.Random) -> Iterator[Candidate]:
    while True:
        first, second, third, other = (" " + word for word in rng.sample(INITIALS, 4))

        clean, corrupt = (f"The[W1:{first}][W2:{second}][W3:{last}] ({first[1]}{second[1]}" for last in (third, other))
        yield Candidate(clean, corrupt, third[1], [other[1]])


# --------------------------------------------------------------------------------------------------- facts and grammar

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Russia": "Moscow", "Japan": "Tokyo",
    "China": "Beijing", "England": "London", "Austria": "Vienna", "Egypt": "Cairo", "Greece": "Athens",
    "Cuba": "Havana", "Poland": "Warsaw", "Ireland": "Dublin", "Canada": "Ottawa", "Iran": "Tehran", "Iraq": "Baghdad",
    "Syria": "Damascus", "Kenya": "Nairobi", "Portugal": "Lisbon",
}  # fmt: skip
CAPITAL_TEMPLATES = (
    ("The[relation: capital] of", " is the city of"), ("Everyone in", " knows that its[relation: capital] is")
)  # fmt: skip


@checked
def capitals(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
    """The capital of a country; the corrupt prompt names another one.

    Positions: "country", which is the "subject" too, "relation" (the word capital), "end".
    """

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            template = rng.randrange(len(CAPITAL_TEMPLATES))
            before, after = CAPITAL_TEMPLATES[template]
            one, other = rng.sample(sorted(CAPITALS), 2)
            clean, corrupt = (f"{before}[country: {country}]{after}" for country in (one, other))
            yield Candidate(clean, corrupt, " " + CAPITALS[one], [" " + CAPITALS[other]], template)

    task = task_in_words(model, "capitals", n, drawn())
    return replace(task, positions={**task.positions, "subject": task.positions["country"]})


ANTONYMS = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "young", "up": "down", "left": "right", "day": "night",
    "good": "bad", "open": "closed", "high": "low", "rich": "poor", "hard": "soft", "light": "dark", "long": "short",
    "black": "white", "early": "late", "wet": "dry", "true": "false", "begin": "end", "buy": "sell", "win": "lose",
    "north": "south", "before": "after", "inside": "outside", "happy": "sad", "strong": "weak", "full": "empty",
    "first": "last", "love": "hate", "war": "peace",
}  # fmt: skip


@checked
def in_context(
    model: HookedTransformer,
    n: Positive = 32,
    *,
    pairs: Mapping[str, str] | None = None,
    shots: Count = 5,
    seed: Seed = 0,
) -> Task:
    """A function told by examples (Todd et al. 2024, arxiv.org/abs/2310.15213): "hot: cold" and others, then "big:".

    `pairs` are words and what the function makes of them (default: their antonyms); words that are more than one token
    are left out. Every prompt has `shots` examples, a line each; in the corrupt prompt their labels change places, so
    that no word has its own. The wrong answer is the last example's label. Positions: "label1", "label2", ..., "end".

    Raises:
        BadInput: fewer than two examples, or fewer pairs than examples and a question take.
        TokenError: too few words are one token.
    """
    known = list((ANTONYMS if pairs is None else pairs).items())
    refuse_outside("shots", shots, 2, len(known) - 1, "one less than there are pairs")

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            *examples, (asked, answer) = rng.sample(known, shots + 1)
            words, labels = zip(*examples, strict=True)
            clean, corrupt = (
                "".join(f"{word}:[label{i + 1}: {told[i]}]\n" for i, word in enumerate(words)) + f"{asked}:"
                for told in (labels, (*labels[1:], labels[0]))
            )
            yield Candidate(clean, corrupt, f" {answer}", [f" {labels[-1]}"])

    return task_in_words(model, "in-context", n, drawn(), same_length=True)


@checked
def repeated_words(model: HookedTransformer, n: Positive = 32, *, length: Count = 8, seed: Seed = 0) -> Task:
    """Induction in words: `length` different nouns, then the first of them again; the answer is the one that follows.

    In the corrupt prompt another noun stands in the answer's place. It is a wrong answer, and so are the other nouns of
    the prompt; the metric is the margin over the best of them. Positions: "first" (where the noun that ends the prompt
    stood before), "next" (the answer there), "end". `induction` asks the same in token ids.

    Raises:
        BadInput: fewer than two nouns, or more than there are.
        TokenError: too few nouns are one token.
    """
    nouns = sorted({*OBJECTS, *PLACES})
    refuse_outside("length", length, 2, len(nouns) - 1, "one less than there are nouns")

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            *told, other = (" " + noun for noun in rng.sample(nouns, length + 1))
            place = rng.randrange(length - 1)
            clean, corrupt = (
                "Words:"
                + "".join(told[:place])
                + f"[first:{told[place]}][next:{following}]"
                + "".join(told[place + 2 :])
                + "".join(told[: place + 1])
                for following in (told[place + 1], other)
            )
            yield Candidate(clean, corrupt, told[place + 1], [other, *told[: place + 1], *told[place + 2 :]])

    return task_in_words(model, "repeated-words", n, drawn())


NOUNS = ("key", "door", "book", "car", "tree", "dog", "picture", "boat", "flower", "student", "table", "window")


@checked
def subject_verb_agreement(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0) -> Task:
    """A verb that agrees with its subject across a noun of the other number; the corrupt subject has that number.

    Positions: "subject", "attractor", "end".
    """

    def drawn() -> Iterator[Candidate]:
        rng = random.Random(seed)
        while True:
            plural, place = rng.randrange(2), rng.choice((" near", " behind", " beside"))
            subject, attractor = rng.sample(NOUNS, 2)
            endings, verbs = ("", "s"), (" is", " are")
            clean, corrupt = (
                f"The[subject: {subject}{endings[number]}]{place} the[attractor: {attractor}{endings[not plural]}]"
                for number in (plural, 1 - plural)
            )
            yield Candidate(clean, corrupt, verbs[plural], [verbs[not plural]], plural)

    return task_in_words(model, "subject-verb-agreement", n, drawn())


agreement = subject_verb_agreement  # its name in 0.1; `experiments.agreement` compares estimates with patching
