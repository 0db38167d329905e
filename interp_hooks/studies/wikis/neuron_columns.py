"""What a wiki knows of neurons: what they do to the vocabulary, and what is lost without them."""

from __future__ import annotations

import math

from interp_hooks.experiments.gradients import integrated_gradients
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.runs import Mean
from interp_hooks.interventions.sites import at
from interp_hooks.studies.neurons.causes import ablation_effects
from interp_hooks.studies.neurons.contexts import Found, neuron
from interp_hooks.studies.neurons.tables import neuron_table
from interp_hooks.studies.neurons.truncation import minimal_example
from interp_hooks.studies.wikis.material import Column, Listing, Material


def neuron_columns(material: Material) -> list[Column]:
    """What neurons' weights do to the vocabulary, and how what they read and write agree."""
    if not material.has_plain_neurons:
        return []
    table = neuron_table(material.model, material.found, effect=material.vocabulary)
    return [
        Column(
            name=name,
            unit=unit,
            about=about,
            values={layer: table[name][table["layer"] == layer].tolist() for layer in material.sizes["neuron"]},
        )
        for name, (unit, about) in NEURONS.items()
        if name in table
    ]


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
    if not (material.has_effects and material.has_plain_neurons):
        return []
    found = {
        layer: -integrated_gradients(
            model, run, Loss(), at("post", layer), baseline=Mean(run), steps=1, over=("neuron",), progress=False
        ).mean.cpu()
        for layer in material.sizes["neuron"]
    }
    about = "about how much the next-token loss on a sample of the corpus rises if the neuron gives its mean"
    return [Column(name="ablation_loss_estimate", unit="nats per token", about=about, values=found)]


def ablation_columns(material: Material) -> list[Column]:
    """What is lost if one neuron gives its mean, on its top contexts and on random ones, for those examined."""
    if not (material.has_effects and material.examined):
        return []
    effects = ablation_effects(material.model, material.found, material.examined, k=5, n_random=16)
    rows = {(row["contexts"], row["layer"], row["neuron"]): row for row in effects.table().to_dict("records")}
    columns = []
    for contexts in ("top", "random"):
        for name, what in (("loss_change_nats", "loss"), ("kl_nats", "kl")):
            values = {layer: [math.nan] * n for layer, n in material.sizes["neuron"].items()}
            for layer, unit in material.examined:
                values[layer][unit] = float(rows[contexts, layer, unit][name])
            told = "next-token loss rises" if what == "loss" else "predictions diverge"
            about = f"by how much {told} on {contexts} contexts if the neuron gives its mean (of those examined)"
            columns.append(Column(name=f"{contexts}_{what}_if_ablated", unit="nats", about=about, values=values))
    return columns


def vocabulary_listings(material: Material) -> list[Listing]:
    """The tokens whose logits a neuron raises and lowers most by its output weights."""
    if not material.has_plain_neurons:
        return []
    effect, of = material.vocabulary, "where its activation is positive, by its output weights alone"
    entries: dict[str, dict[int, list[list[tuple[str, float | None]]]]] = {"raises": {}, "lowers": {}}
    for place, (layer, _, _) in enumerate(effect.neurons):
        for name, words, values in zip(
            entries, effect.words(place), (effect.top_values[place], effect.bottom_values[place]), strict=True
        ):
            entries[name].setdefault(layer, []).append(list(zip(words, values.tolist(), strict=True)))
    unit = "logit per activation"
    return [
        Listing(name=name, unit=unit, about=f"tokens that it {name} most {of}", entries=listed)
        for name, listed in entries.items()
    ]


def minimal_listings(material: Material) -> list[Listing]:
    """A minimal prompt of every neuron that is examined."""
    found = Found(material.found)
    entries = {layer: [[] for _ in range(n)] for layer, n in material.sizes["neuron"].items()}
    for layer, number in material.examined:
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
    return [Listing(name="minimal prompt", unit=unit, about=about, entries=entries)] if material.examined else []


LONGEST = 32  # tokens of a prompt that is made minimal
