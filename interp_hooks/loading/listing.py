"""The list of what converts, made from the tables for `interp-hooks families` and for the manual.

A model type that the installed transformers does not have is left out.
"""

from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.guard import Family


def listing() -> str:
    """One line for each family: model type, the class that converts, what people call it."""
    rows = [(family.model_type, family.architecture, family.name) for family in _there()]
    first, second = (max(len(row[column]) for row in rows) for column in range(2))
    lines = [f"{kind:<{first}}  {architecture:<{second}}  {name}" for kind, architecture, name in rows]
    return "\n".join([*lines, f"{len(rows)} model types"])


def markdown() -> str:
    """The same list as the two sentences that are in the manual (docs/loading.md)."""
    causal = [family for family in _there() if family.head == "CausalLM"]
    masked = [family for family in _there() if family.head == "MaskedLM"]
    return (
        f"**{len(causal)} model types of transformers' causal language models**: {_named(causal)}.\n\n"
        f"**{len(masked)} encoders with a masked language model's head**: {_named(masked)}."
    )


def _there() -> list[Family]:
    there = (family for family in FAMILIES.values() if family.architecture != family.model_type)
    return sorted(there, key=lambda family: family.model_type)


def _named(families: list[Family]) -> str:
    return ", ".join(f"`{family.model_type}`" for family in families)
