"""What is known of every unit: columns of numbers or labels, and lists of tokens.

`COLUMNS` and `LISTINGS` are the one place where metrics join the wiki: tables of functions, each of which makes some
columns (or listings) of the `Material` that a wiki is made from. Users add columns of their own with
`wiki(..., columns={"head": [Column(...)]})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interp_hooks.errors import BadInput
from interp_hooks.studies.wikis.feature_columns import (
    feature_effect_columns,
    feature_listings,
    feature_weight_columns,
)
from interp_hooks.studies.wikis.head_columns import (
    attended_tokens,
    attention_columns,
    causal_columns,
    head_weight_columns,
    role_columns,
)
from interp_hooks.studies.wikis.material import Column, Listing, Material, columns_from
from interp_hooks.studies.wikis.neuron_columns import (
    ablation_columns,
    estimated_columns,
    expert_columns,
    minimal_listings,
    vocabulary_listings,
    weight_columns,
)
from interp_hooks.studies.wikis.units import UnitKind


def activation_columns(kind: str) -> Callable[[Material], list[Column]]:
    """What the scan says of activations."""
    of = {"head": "norm of its output", "expert_neuron": "activation times the router's weight"}.get(kind, "activation")
    described = {
        "mean": ("mean_activation", "activation", f"mean {of} over the counted tokens of the corpus"),
        "std": ("std_activation", "activation", f"standard deviation of the {of} over these tokens"),
        "max": ("max_activation", "activation", f"largest {of} in the corpus"),
        "active": ("active_share", "share of tokens", "share of tokens at which the activation is above 0"),
    }
    chosen = {name: described[name] for name in ("mean", "std", "max")} if kind == "head" else described

    def columns(material: Material) -> list[Column]:
        found = material.statistics(kind)
        keys = {name: key for key, (name, *_) in chosen.items()}
        described = {name: (unit, about) for name, unit, about in chosen.values()}
        return columns_from(described, lambda name: {layer: one[keys[name]] for layer, one in found.items()})

    return columns


def finding_listings(kind: UnitKind) -> Callable[[Material], list[Listing]]:
    """What was found out about units, checked again."""

    def listings(material: Material) -> list[Listing]:
        entries: dict[int, list[list[tuple[str, float | None]]]] = {
            layer: [[] for _ in range(n)] for layer, n in material.sizes[kind].items()
        }
        for finding, holds in material.checked_findings:
            of, layer, number = finding.place
            if of == kind:
                text = f"{finding.claim} ({finding.evidence}; {finding.command})"
                entries[layer][number].append((text, float(holds)))
        about = "what was found out about it, with the evidence and what checks it; 1 holds here, 0 does not"
        there = any(map(any, entries.values()))
        return [Listing(name="findings", unit="holds", about=about, entries=entries)] if there else []

    return listings


Columns = Sequence[Callable[[Material], list[Column]]]
Listings = Sequence[Callable[[Material], list[Listing]]]

COLUMNS: Mapping[str, Columns] = {
    "head": (role_columns, attention_columns, head_weight_columns, activation_columns("head"), causal_columns),
    "neuron": (weight_columns("neuron"), activation_columns("neuron"), estimated_columns, ablation_columns("neuron")),
    "expert_neuron": (
        expert_columns,
        weight_columns("expert_neuron"),
        activation_columns("expert_neuron"),
        ablation_columns("expert_neuron"),
    ),
    "shared_neuron": (
        weight_columns("shared_neuron"),
        activation_columns("shared_neuron"),
        ablation_columns("shared_neuron"),
    ),
}
LISTINGS: Mapping[str, Listings] = {
    "head": (finding_listings("head"), attended_tokens),
    "neuron": (finding_listings("neuron"), vocabulary_listings("neuron"), minimal_listings),
    "expert_neuron": (vocabulary_listings("expert_neuron"),),
    "shared_neuron": (vocabulary_listings("shared_neuron"),),
}


def columns_for(kind: str) -> Columns:
    """What makes the columns of a kind; of features, whose kinds have any name, the same for all dictionaries."""
    if kind in COLUMNS:
        return COLUMNS[kind]
    return (feature_weight_columns(kind), activation_columns(kind), feature_effect_columns(kind))


def columns_of(material: Material, kind: str, own: Sequence[Column] = ()) -> list[Column]:
    """All columns of a kind of units, and the user's own.

    Raises:
        BadInput: two of one name, or one that has not a value for each unit.
    """
    made = [column for make in columns_for(kind) for column in make(material)] + list(own)
    for column in made:
        column.check(material.sizes[kind])
        if sum(one.name == column.name for one in made) > 1 or column.name in ("layer", kind):
            raise BadInput(f"there is a column {column.name!r} of every {kind} already; give yours another name")
    return made


def listings_of(material: Material, kind: str) -> list[Listing]:
    """All listings of a kind of units."""
    makers = LISTINGS[kind] if kind in LISTINGS else (feature_listings(kind),)
    return [listing for make in makers for listing in make(material)]
