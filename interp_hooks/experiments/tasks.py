"""Indirect object identification (IOI) as text.

Two people are introduced, one of them (the subject, S) acts, and the sentence stops where the other one (the indirect
object, IO) has to be named: "When Mary and John went to the store, John gave a ring to" -> " Mary". Getting it right
takes noticing which name came twice and writing the other one. Naming IO instead of S at the second mention gives a
sentence with the same words everywhere else and the opposite answer, the counterfactual that patching needs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Order = Literal["ABBA", "BABA"]

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


@dataclass(frozen=True, kw_only=True)
class IOIPrompt:
    """A sentence up to its answer, and its counterfactual.

    `clean` is answered by `io`, `corrupt` (the second mention of `s` replaced by `io`) by `s`; both names carry the
    leading space with which they appear in the text. `order` is "ABBA" where IO is introduced first.
    """

    clean: str
    corrupt: str
    io: str
    s: str
    template: int
    order: Order


def ioi_prompt(*, io: str, s: str, place: str, obj: str, template: int, order: Order) -> IOIPrompt:
    """The prompt with these words (given without leading space) in that template."""
    _check_template(template)
    _check_order(order)
    first, second = (io, s) if order == "ABBA" else (s, io)

    def fill(subject: str) -> str:
        words = {"A": first, "B": second, "S": subject, "PLACE": place, "OBJECT": obj}
        return IOI_TEMPLATES[template].format_map({slot: " " + word for slot, word in words.items()})

    return IOIPrompt(clean=fill(s), corrupt=fill(io), io=" " + io, s=" " + s, template=template, order=order)


def ioi_prompts(
    n: int,
    *,
    seed: int,
    templates: Sequence[int] | None = None,
    orders: Sequence[Order] = ("ABBA", "BABA"),
    names: Sequence[str] = NAMES,
) -> list[IOIPrompt]:
    """`n` prompts drawn independently and uniformly from the given templates (indices; all by default), orders, names.

    Within one template every prompt has the same number of tokens, as long as each name is one token.
    """
    templates = range(len(IOI_TEMPLATES)) if templates is None else templates
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not templates or not orders:
        raise ValueError("templates and orders must each offer at least one choice")
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"names must be at least 2 different names, got {list(names)}")
    for template in templates:
        _check_template(template)
    for order in orders:
        _check_order(order)

    rng = random.Random(seed)
    prompts = []
    for _ in range(n):
        io, s = rng.sample(names, 2)
        words = {"io": io, "s": s, "place": rng.choice(PLACES), "obj": rng.choice(OBJECTS)}
        prompts.append(ioi_prompt(**words, template=rng.choice(templates), order=rng.choice(orders)))
    return prompts


def _check_template(template: int) -> None:
    if not 0 <= template < len(IOI_TEMPLATES):
        raise ValueError(f"template {template} does not exist: IOI_TEMPLATES has 0 to {len(IOI_TEMPLATES) - 1}")


def _check_order(order: str) -> None:
    if order not in get_args(Order):
        raise ValueError(f"unknown order {order!r}: choose from {', '.join(get_args(Order))}")
