"""Indirect object identification (IOI) as text.

Two people are introduced, one of them (the subject, S) acts, and the sentence stops where the other one (the indirect
object, IO) has to be named: "When Mary and John went to the store, John gave a ring to" -> " Mary". Getting it right
takes noticing which name came twice and writing the other one. Naming IO instead of S at the second mention gives a
sentence with the same words everywhere else and the opposite answer, the counterfactual that patching needs.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from interp_hooks.errors import TokenError

if TYPE_CHECKING:
    from interp_hooks.model.transformer import HookedTransformer

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


@dataclass(frozen=True, kw_only=True)
class PromptPairs:
    """Prompts that a model can be patched on: pair by pair of equal length, answers of one token.

    `clean[i]` is answered by `answer[i]`, `corrupt[i]` by `wrong[i]`. `labels` name the token positions, which all
    prompts share: the token itself where it is the same in every clean prompt, and its text in the first one, in
    angle brackets, where it varies.
    """

    clean: list[str]
    corrupt: list[str]
    answer: list[str]
    wrong: list[str]
    labels: list[str]


def ioi_pairs(model: HookedTransformer, n: int = 32, *, seed: int = 0, template: int = 0) -> PromptPairs:
    """`n` IOI prompts of one template, both orders, all of the same number of tokens for this model's tokenizer.

    Names that are several tokens for this model are not used.

    Raises:
        TokenError: the tokenizer has fewer than two names of one token.
    """
    names = [name for name in NAMES if len(model.to_str_tokens(" " + name, prepend_bos=False)) == 1]
    if len(names) < 2:
        raise TokenError("this model's tokenizer has fewer than two of the names in tasks.NAMES as single tokens")
    drawn = ioi_prompts(4 * n, seed=seed, templates=[template], names=names)
    pieces = [model.to_str_tokens(prompt.clean) for prompt in drawn]
    usual = statistics.mode(map(len, pieces))
    kept = [i for i, row in enumerate(pieces) if len(row) == usual][:n]
    columns = zip(*(pieces[i] for i in kept), strict=True)
    return PromptPairs(
        clean=[drawn[i].clean for i in kept],
        corrupt=[drawn[i].corrupt for i in kept],
        answer=[drawn[i].io for i in kept],
        wrong=[drawn[i].s for i in kept],
        labels=[column[0] if len(set(column)) == 1 else f"<{column[0]}>" for column in columns],
    )
