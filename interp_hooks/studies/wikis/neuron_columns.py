"""What a wiki knows of neurons: what they do to the vocabulary, and what is lost without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interp_hooks.experiments.gradients import integrated_gradients
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.runs import Mean
from interp_hooks.interventions.sites import at
from interp_hooks.studies.neurons.causes import ablation_effects
from interp_hooks.studies.neurons.contexts import Found, neuron
from interp_hooks.studies.neurons.truncation import minimal_example
from interp_hooks.studies.wikis.material import Column, Listing, Material, columns_from, lost_columns
from interp_hooks.studies.wikis.units import ENDS, PARTS, UnitKind, sides_of


def weight_columns(kind: UnitKind) -> Callable[[Material], list[Column]]:
    """What neurons' weights do to the vocabulary, and how what they read and write agree."""

    def columns(material: Material) -> list[Column]:
        if not material.has_vocabulary:
            return []
        table = material.neurons[material.neurons["part"] == PARTS[kind]]
        of_layer = {layer: table["layer"] == layer for layer in material.sizes[kind]}
        described = {name: told for name, told in NEURONS.items() if name in table}
        return columns_from(described, lambda name: {layer: table[name][of].tolist() for layer, of in of_layer.items()})

    return columns


def expert_columns(material: Material) -> list[Column]:
    """Of which expert each neuron is."""
    experts = material.model.cfg.experts
    assert experts is not None
    sizes = material.sizes["expert_neuron"].items()
    values = {layer: [float(unit // experts.d_expert) for unit in range(n)] for layer, n in sizes}
    about = "of which expert of its layer it is a neuron"
    return [Column(name="expert", unit="number", about=about, values=values)]


NEURONS = {
    "label": (
        "label",
        "the kind of its effect on logits (prediction, suppression, partition, entropy) if positive",
    ),
    "negative_label": ("label", "the same where its activation is negative"),
    "kurtosis": ("none", "kurtosis of its effect on logits over the vocabulary"),
    "skew": ("none", "skew of that effect"),
    "variance": ("logits squared", "variance of that effect for an activation of 1, but for the final norm's scale"),
    "norm": ("length of a vector in the residual stream", "norm of its output weights"),
    "null_share": ("share of the norm squared", "how much of its output weights hardly reaches logits"),
    "cos_in": ("cosine", "of what it reads and what it writes"),
    "cos_gate": ("cosine", "of what its gate reads and what it writes"),
    "top_mass": ("share of activation", "share of its positive activation in the highest octave that it reaches"),
}


def estimated_columns(material: Material) -> list[Column]:
    """What the loss on the sample gains if one neuron gives its mean, to the order of a gradient half way there."""
    model, run = material.model, material.run
    if not (material.has_effects and material.has_vocabulary):
        return []
    found = {
        layer: -integrated_gradients(
            model, run, Loss(), at("post", layer), baseline=Mean(run), steps=1, over=("neuron",), progress=False
        ).mean.cpu()
        for layer in material.sizes["neuron"]
    }
    about = "about how much the next-token loss on a sample of the corpus rises if the neuron gives its mean"
    return [Column(name="ablation_loss_estimate", unit="nats per token", about=about, values=found)]


def ablation_columns(kind: UnitKind) -> Callable[[Material], list[Column]]:
    """What is lost if one neuron gives its mean (0 in an expert): on its top contexts, where it may be negative on
    those in which it is smallest, and on random ones, for those examined."""

    def columns(material: Material) -> list[Column]:
        examined = material.examined(kind)
        if not (material.has_effects and examined):
            return []
        rows: dict[tuple[str, int, int], Any] = {}
        for side in sides_of(material.model):
            n_random = 16 if side == "largest" else 0  # random contexts are the same for both
            options: dict[str, Any] = dict(part=PARTS[kind], side=side, k=5, n_random=n_random)
            for row in ablation_effects(material.model, material.found, examined, **options).table().to_dict("records"):
                if row["contexts"] == "top" or n_random:
                    contexts = ENDS[side] if row["contexts"] == "top" else "random"
                    rows[contexts, row["layer"], row["neuron"]] = row
        ablated = "is 0" if kind == "expert_neuron" else "gives its mean"
        return lost_columns(rows, material.sizes[kind], f"the neuron {ablated}")

    return columns


def vocabulary_listings(kind: UnitKind) -> Callable[[Material], list[Listing]]:
    """The tokens whose logits a neuron raises and lowers most by its output weights."""

    def listings(material: Material) -> list[Listing]:
        if not material.has_vocabulary:
            return []
        effect, of = material.vocabulary, "where its activation is positive, by its output weights alone"
        entries: dict[str, dict[int, list[list[tuple[str, float | None]]]]] = {"raises": {}, "lowers": {}}
        for place, (layer, part, _) in enumerate(effect.neurons):
            if part != PARTS[kind]:
                continue
            for name, words, values in zip(
                entries, effect.words(place), (effect.top_values[place], effect.bottom_values[place]), strict=True
            ):
                entries[name].setdefault(layer, []).append(list(zip(words, values.tolist(), strict=True)))
        unit = "logit per activation"
        return [
            Listing(name=name, unit=unit, about=f"tokens that it {name} most {of}", entries=listed)
            for name, listed in entries.items()
        ]

    return listings


def minimal_listings(material: Material) -> list[Listing]:
    """A minimal prompt of every neuron that is examined."""
    found = Found(material.found)
    examined = material.examined("neuron")
    entries = {layer: [[] for _ in range(n)] for layer, n in material.sizes["neuron"].items()}
    for layer, number in examined:
        top = found.top[layer]
        document, position = (int(top[name][number, 0]) for name in ("documents", "positions"))
        if document < 0 or float(top["values"][number, 0]) <= 0:
            continue
        prompt = material.found.tokens(document)[max(0, position + 1 - material.model.cfg.n_ctx) : position + 1]
        short = minimal_example(material.model, neuron(layer, number), prompt[-LONGEST:])
        text = "".join(material.words(int(id)) for id in short.tokens)
        entries[layer][number] = [(text, short.kept)]
    about = "of its top example, tokens of which none can be left out without losing half of the activation"
    unit = "share of the activation"
    return [Listing(name="minimal prompt", unit=unit, about=about, entries=entries)] if examined else []


LONGEST = 32  # tokens of a prompt that is made minimal
