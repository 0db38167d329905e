"""The units of a wiki as JSON that Neuronpedia and SAEDashboard read: a file per unit, `neurons/3/17.json`.

What a wiki does not have (alignment with neurons, correlated units, a histogram of logits) is there as empty lists.
Activations around an example are kept as they were read; of tokens outside of a document there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp_hooks.corpus.reducers.bands import N_BANDS, edges
from interp_hooks.corpus.scanning import Scan
from interp_hooks.model.tensor_files import on_disk
from interp_hooks.studies.wikis.examples import AROUND, BOTTOM, TOP, Examples
from interp_hooks.studies.wikis.pages import Contents, short
from interp_hooks.studies.wikis.tables import plural

EMPTY = (
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1"),
    *("correlated_features_indices", "correlated_features_pearson", "correlated_features_l1"),
    *("logits_hist_data_bar_values", "logits_hist_data_bar_heights"),
)
RAISES, LOWERS = "raises", "lowers"  # the listings that are a unit's effect on the vocabulary


def write_neuronpedia(folder: Path, wiki: Contents) -> None:
    """Write the file of every unit into a folder.

    Raises:
        DiskError: one cannot be written.
    """
    found, words = wiki.material.found, wiki.material.words
    common = {
        "dataset": wiki.about["corpus"],
        "n_prompts_total": found.n_documents,
        "n_tokens_in_prompt": 2 * AROUND + 1,
    }
    with on_disk(folder):
        for kind, layers in wiki.examples.items():
            effects = {one.name: one.entries for one in wiki.listings[kind] if one.name in (RAISES, LOWERS)}
            active, histograms = wiki.material.statistics(kind), found[f"{kind}_histogram"]
            for layer, one in layers.items():
                place = folder / plural(kind) / str(layer)
                place.mkdir(parents=True)
                shares, counts = active[layer]["active"].tolist(), histograms[layer]["counts"].numpy()
                lower = histograms[layer]["edges"].numpy()
                for unit in range(len(counts)):
                    feature = {"feature_index": unit, **common, **{name: [] for name in EMPTY}}
                    feature["frac_nonzero"] = shares[unit]
                    feature |= _logits(effects, layer, unit) | _histogram(counts[unit], lower)
                    feature["activations"] = _activations(one, unit, found, words)
                    (place / f"{unit}.json").write_text(json.dumps(feature), encoding="utf-8")


def _logits(effects: Mapping[str, Mapping[int, Any]], layer: int, unit: int) -> dict[str, Any]:
    entries = {name: of[layer][unit] if layer in of else [] for name, of in effects.items()}
    pairs = {"pos": entries.get(RAISES, []), "neg": entries.get(LOWERS, [])}
    return {
        f"{sign}_{what}": [short(one[1]) if what == "values" else one[0] for one in listed]
        for sign, listed in pairs.items()
        for what in ("str", "values")
    }


def _histogram(counts: np.ndarray, lower: np.ndarray) -> dict[str, Any]:
    """The octaves that have tokens: lower edges and counts."""
    bins = [bin for bin in counts.nonzero()[0].tolist() if np.isfinite(lower[bin])]
    return {
        "freq_hist_data_bar_values": lower[bins].tolist(),
        "freq_hist_data_bar_heights": counts[bins].tolist(),
    }


def _activations(one: Examples, unit: int, found: Scan, words: Callable[[int], str]) -> list[dict[str, Any]]:
    low, high = np.searchsorted(one.unit, [unit, unit + 1]).tolist()
    largest = float(np.max(one.activation[low:high], initial=0.0))
    smallest = float(np.min(one.activation[low:high], initial=0.0))
    listed = []
    for row in range(low, high):
        document, position, band = int(one.document[row]), int(one.position[row]), int(one.band[row])
        ids = found.tokens(document)
        first, last = max(0, position - AROUND), min(len(ids), position + AROUND + 1)
        values = one.around[row, first - position + AROUND : last - position + AROUND].astype(float)
        share = 0.0 if band < 0 else float(np.mean(one.band[low:high] == band))
        limits = _limits(band, smallest, largest)
        listed.append(
            {
                "bin_min": limits[0],
                "bin_max": limits[1],
                "bin_contains": share,
                "tokens": [words(id) for id in ids[first:last].tolist()],
                "values": [short(value) or 0.0 for value in values.tolist()],
                "qualifying_token_index": position - first,
                "dfa_values": [],
                "dfa_maxValue": 0.0,
                "dfa_targetIndex": -1,
            }
        )
    return listed


def _limits(band: int, smallest: float, largest: float) -> tuple[float, float]:
    """Between which activations the examples of a band are, or those of an end."""
    if band in (TOP, BOTTOM):
        return (largest, largest) if band == TOP else (smallest, smallest)
    starts = [0.0, *edges()[1:], np.inf]
    near, far = starts[band % N_BANDS], starts[band % N_BANDS + 1]
    return (near, min(far, largest)) if band < N_BANDS else (max(-far, smallest), -near)
