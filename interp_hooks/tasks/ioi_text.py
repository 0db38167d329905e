"""Indirect object identification (IOI) as text.

Two people are introduced, one of them (the subject, S) acts, and the sentence stops where the other one (the indirect
object, IO) has to be named: "When Mary and John went to the store, John gave a ring to" -> " Mary". Getting it right
takes noticing which name came twice and writing the other one. Naming IO instead of S at the second mention gives a
sentence with the same words everywhere else and the opposite answer, the counterfactual that patching needs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import Positive, Seed, checked
from interp_hooks.experiments.task import Task
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.tasks.in_words import Candidate, task_in_words, tokenizing

IOICorruption = Literal["S2->IO", "S2->RAND", "IO->RAND", "S1->RAND", "S->RAND", "IO<->S1", "ABC"]

# Each of these words, after a space, is one token for GPT-2 and for the bundled ioi-tiny model.
NAMES: tuple[str, ...] = (
    "Adam", "Alan", "Alice", "Amanda", "Amy", "Andrew", "Angela", "Anna", "Anthony", "Ben",
    "Bob", "Brian", "Carl", "Charlotte", "Claire", "Daniel", "David", "Diana", "Edward", "Emily",
    "Emma", "Eric", "Frank", "Fred", "George", "Helen", "Henry", "Jack", "James", "Jane",
    "Jason", "Jessica", "John", "Julia", "Karen", "Kate", "Kevin", "Laura", "Linda", "Lisa",
    "Lucy", "Luke", "Maria", "Martha", "Martin", "Mary", "Michael", "Nancy", "Nicole", "Patrick",
    "Paul", "Peter", "Rachel", "Ruth", "Sarah", "Simon", "Sophie", "Steve", "Susan", "Tom",
)  # fmt: skip
PLACES: tuple[str, ...] = (
    "store", "park", "school", "office", "hospital", "library",
    "station", "restaurant", "garden", "museum", "market", "church",
)  # fmt: skip
OBJECTS: tuple[str, ...] = (
    "drink", "ring", "book", "key", "letter", "ball", "gift", "necklace",
    "pen", "ticket", "coin", "map", "hat", "camera", "flower", "box",
)  # fmt: skip

# {A} and {B} introduce the two people, {S} is the second mention. A slot brings its own leading space.
IOI_TEMPLATES: tuple[str, ...] = (
    "When{A} and{B} went to the{PLACE},{S} gave a{OBJECT} to",
    "After{A} and{B} met at the{PLACE},{S} handed a{OBJECT} to",
    "While{A} and{B} were waiting outside the{PLACE},{S} passed a{OBJECT} to",
    "Then{A} and{B} had a long talk near the{PLACE}, and{S} offered a{OBJECT} to",
    "Once{A} had found{B} in the{PLACE},{S} lent a{OBJECT} to",
    "On the way to the{PLACE},{A} and{B} stopped to rest, and{S} showed a{OBJECT} to",
    "As soon as{A} and{B} reached the{PLACE},{S} sold a{OBJECT} to",
    "Since{A} and{B} both worked at the{PLACE},{S} often brought a{OBJECT} to",
    "Last week{A} ran into{B} at the{PLACE}, and{S} promised a{OBJECT} to",
    "The day{A} and{B} moved close to the{PLACE},{S} mailed a{OBJECT} to",
    "At the{PLACE},{A} sat down beside{B}, and a little later{S} threw a{OBJECT} to",
    "Inside the{PLACE} there was a{OBJECT} that{A} and{B} both liked, but{S} left it to",
    "Everyone saw{A} and{B} leave the{PLACE} together before{S} returned a{OBJECT} to",
    "During a party at the{PLACE},{A} danced with{B}, and at midnight{S} presented a{OBJECT} to",
    "Having found a{OBJECT} at the{PLACE},{A} and{B} argued until{S} gave it to",
    "Today{A} and{B} cleaned the{PLACE}, and{S} carried a lost{OBJECT} back to",
)


def ioi_prompt(
    template: int, io_first: bool, place: str, obj: str, clean: Sequence[str], corrupt: Sequence[str]
) -> Candidate:
    """A pair of prompts of one template; `clean` and `corrupt` are the names that stand at IO, at S1 and at S2."""

    def filled(io: str, s1: str, s2: str) -> str:
        first, second = f"[IO: {io}]", f"[S1: {s1}]"
        a, b = (first, second) if io_first else (second, first)
        return IOI_TEMPLATES[template].format(A=a, B=b, S=f"[S2: {s2}]", PLACE=f" {place}", OBJECT=f" {obj}")

    return Candidate(filled(*clean), filled(*corrupt), f" {clean[0]}", [f" {clean[1]}"], 2 * template + io_first)


@checked
def ioi(
    model: HookedTransformer,
    n: Positive = 32,
    *,
    corruption: IOICorruption = "S2->IO",
    templates: Sequence[int] | None = None,
    names: Sequence[str] = NAMES,
    seed: Seed = 0,
) -> Task:
    """Indirect object identification (Wang et al. 2022, arXiv 2211.00593): which of two people was named once.

    `corruption` says how the corrupt prompt differs: another name at the second mention of the subject ("S2->IO" swaps
    the answer, "S2->RAND" leaves none), another name for one of the two people, or three new names ("ABC").
    Positions: "IO", "S1", "S2", "end".

    Raises:
        BadInput: an unknown corruption or template, or fewer than five names.
        TokenError: too few prompts fit the tokenizer.
    """
    chosen = list(range(len(IOI_TEMPLATES)) if templates is None else templates)
    _check_templates(chosen)
    people = sorted(set(names))
    if len(people) < 5:
        raise BadInput(f"corrupt prompts need at least 5 different names, got {len(people)}")
    if marked := [name for name in people if set(name) & set("[]")]:
        raise BadInput(f"brackets mark the words of a prompt, so names cannot have any, got {marked[0]!r}")
    return task_in_words(model, "ioi", n, _of_ioi(random.Random(seed), corruption, chosen, people))


def _of_ioi(rng: random.Random, corruption: str, templates: list[int], names: list[str]) -> Iterator[Candidate]:
    while True:
        io, s, a, b, c = rng.sample(names, 5)
        template, io_first = rng.choice(templates), rng.random() < 0.5
        place, obj = rng.choice(PLACES), rng.choice(OBJECTS)
        corrupt = {
            "S2->IO": (io, s, io),
            "S2->RAND": (io, s, a),
            "IO->RAND": (a, s, s),
            "S1->RAND": (io, a, s),
            "S->RAND": (io, a, a),
            "IO<->S1": (s, io, s),
            "ABC": (a, b, c),
        }[corruption]
        yield ioi_prompt(template, io_first, place, obj, (io, s, s), corrupt)


@checked
def ioi_pairs(model: HookedTransformer, n: Positive = 32, *, seed: Seed = 0, template: int = 0) -> Task:
    """`n` IOI prompts of one template, all of the same number of tokens for this model's tokenizer.

    The corrupt prompt has the other name at the second mention, so that the clean prompt's wrong answer is right there.
    Answers are text (" Mary"), which a metric looks up in the vocabulary of the model that it is used with. Names that
    are several tokens for this model are not used. Positions: "IO", "S1", "S2", "end".

    >>> pairs = ioi_pairs(model, 8)
    >>> pairs.clean[0] + pairs.answer[0]
    'When...went to the...gave a...to ...'
    >>> result = patch(model, pairs.clean, pairs.corrupt, pairs.metric, "resid_pre", progress=False)
    >>> figure = heatmap(result, labels={"pos": pairs.labels})

    Raises:
        BadInput: there is no such template.
        TokenError: the tokenizer has fewer than two names of one token, or too few prompts fit it.
    """
    _check_templates([template])
    ids_of = tokenizing(model)
    names = [name for name in NAMES if len(ids_of(f"Then {name}")) == len(ids_of("Then")) + 1]
    if len(names) < 2:
        raise TokenError("this model's tokenizer has fewer than two of the names in tasks.ioi_text as single tokens")
    drawn = ioi_prompts(random.Random(seed), [template], names)
    return task_in_words(model, "ioi", n, drawn, same_length=True, answers_as_text=True)


def ioi_prompts(rng: random.Random, templates: Sequence[int], names: Sequence[str] = NAMES) -> Iterator[Candidate]:
    """Endlessly many pairs whose answers swap, drawn uniformly from templates, names and both orders of the names."""
    while True:
        io, s = rng.sample(names, 2)
        place, obj, template = rng.choice(PLACES), rng.choice(OBJECTS), rng.choice(templates)
        yield ioi_prompt(template, rng.choice((True, False)), place, obj, (io, s, s), (io, s, io))


def _check_templates(templates: Sequence[int]) -> None:
    if not templates:
        raise BadInput("templates must name at least one template, got none")
    if unknown := [template for template in templates if not 0 <= template < len(IOI_TEMPLATES)]:
        raise BadInput(f"there is no template {unknown[0]}; there are 0 to {len(IOI_TEMPLATES) - 1}")


PromptPairs = Task  # the name that the class of `ioi_pairs` had in 0.1
