"""What converts, told from the tables: the source of `interp-hooks families` and of the README's list."""

from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.guard import Family


def listing() -> str:
    """One line for each family: model type, the class that converts, what people call it."""
    rows = [(family.model_type, family.architecture, family.name) for family in _sorted(*FAMILIES.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{model_type:<{widths[0]}}  {architecture:<{widths[1]}}  {name}" for model_type, architecture, name in rows]
    return "\n".join([*lines, f"{len(rows)} model types"])


def markdown() -> str:
    """The same as two sentences."""
    causal = _sorted(*(family for family in FAMILIES.values() if family.head == "CausalLM"))
    masked = _sorted(*(family for family in FAMILIES.values() if family.head == "MaskedLM"))
    return (
        f"**{len(causal)} model types of transformers' causal language models**: {_named(causal)}.\n\n"
        f"**{len(masked)} encoders with a masked language model's head**: {_named(masked)}."
    )


def _sorted(*families: Family) -> list[Family]:
    return sorted(families, key=lambda family: family.model_type)


def _named(families: list[Family]) -> str:
    return ", ".join(f"`{family.model_type}`" for family in families)
