"""All that is known of every neuron, as a table: a row for each, a column for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Part, neurons
from interp_hooks.errors.arguments import Count
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import Found
from interp_hooks.studies.neurons.illusions import top_mass
from interp_hooks.studies.neurons.vocabulary import MOMENTS, Thresholds, VocabularyEffect, vocabulary_effect
from interp_hooks.studies.neurons.weights import neurons_of

OF_STATISTICS = ("mean", "std", "min", "max", "active")


@study
def neuron_table(
    model: HookedTransformer,
    scan: Scan | None = None,
    layers: Sequence[int] | None = None,
    *,
    k: Count = 10,
    thresholds: Thresholds | None = None,
    effect: VocabularyEffect | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """A row for each neuron of some layers (default: all), and in each column a metric:

        layer, part, neuron     which one; `part` is "mlp", "experts" or "shared"
        mean, std, min, max     of its activation (`post`) over the scan's tokens
        active                  the share of tokens at which it is above 0
        top_mass                the share of its positive activation in the highest octave that it reaches
        norm                    of its output weights, as the stream sees them
        null_share              the share of the square of that norm which hardly reaches logits
        variance, skew, kurtosis    of its effect on logits over the vocabulary, for an activation of 1: in logits
                                squared but for the final norm's scale, and without units
        label, negative_label   prediction, suppression, partition, entropy or "", where its activation is positive,
                                and where it is negative
        cos_in, cos_gate        the cosine of what it reads (through W_in, and W_gate where there is one) and writes
        raises, lowers          the `k` tokens whose logits it raises and lowers most where it is positive

    Columns of activations are there if a scan is given that has `Statistics(neurons())` or `Histogram(neurons())`
    (`neurons(part="experts")` for those of experts), and nan for neurons that it did not measure. `effect` is the
    `vocabulary_effect` of the same layers, if it is known.

    Raises:
        BadInput: a model without neurons, or a layer that does not exist.

    >>> from interp_hooks.corpus import scan
    >>> from interp_hooks.studies import neuron_reducers, neuron_table
    >>> found = scan(model, clean, neuron_reducers(k=3), progress=False)
    >>> neuron_table(model, found, [2], k=3).columns[:5].tolist()
    ['layer', 'part', 'neuron', 'mean', 'std']
    """
    effect = effect or vocabulary_effect(model, layers, k=k, thresholds=thresholds, progress=progress)
    columns: dict[str, Any] = {
        name: [one[axis] for one in effect.neurons] for axis, name in enumerate(("layer", "part", "neuron"))
    }
    columns |= {} if scan is None else _activations(scan, effect.neurons)
    columns |= {name: getattr(effect, name).tolist() for name in MOMENTS}
    columns |= {"label": effect.labels(), "negative_label": effect.labels("negative")}
    columns |= _congruence(model, effect.neurons)
    words = [effect.words(place) for place in range(len(effect.neurons))]
    columns |= {"raises": [up for up, _ in words], "lowers": [down for _, down in words]}
    return pd.DataFrame(columns)


def _activations(scan: Scan, listed: Sequence[tuple[int, str, int]]) -> dict[str, list[float]]:
    """The columns of activations that a scan has, nan for neurons that it did not measure."""
    by_part = {part: Found(scan, neurons(part=part).name) for part in get_args(Part)}
    columns: dict[str, list[float]] = {}
    if any(found.measures("statistics") for found in by_part.values()):
        columns |= {name: [float("nan")] * len(listed) for name in OF_STATISTICS}
    if any(found.measures("histogram") for found in by_part.values()):
        columns["top_mass"] = [float("nan")] * len(listed)
    for row, (layer, part, neuron) in enumerate(listed):
        found = by_part[part]
        if not found.measured(layer, neuron):
            continue
        place = found.place(layer, neuron)
        for name, column in columns.items():
            if name == "top_mass":
                column[row] = top_mass(found.histogram[layer], place)
            else:
                column[row] = float(found.statistics[layer][name][place])
    return columns


def _congruence(model: HookedTransformer, listed: Sequence[tuple[int, str, int]]) -> dict[str, list[float]]:
    """The cosines of what neurons read and write."""
    found: dict[str, list[Tensor]] = {}
    groups = list(dict.fromkeys(one[:2] for one in listed))
    for layer, part in groups:
        group = next(one for one in neurons_of(model, layer) if one.part == part)
        for name, rows in group.reads.items():
            found.setdefault(f"cos_{name}", []).append(_cosines(rows, group.writes))
    return {name: torch.cat(values).tolist() for name, values in sorted(found.items(), reverse=True)}


def _cosines(one: Float[Tensor, "neuron d_model"], other: Float[Tensor, "neuron d_model"]) -> Float[Tensor, " neuron"]:
    return torch.nn.functional.cosine_similarity(one, other, dim=1)
