"""The pages of a wiki: fixed files (static/), and data files that they load by script tags, as file:// allows.

    data/about.js                 model, corpus, what columns mean, how data are cut into shards
    data/heads.js, neurons.js     the columns of all units: what overview and strips are drawn from
    data/neurons/L03_0.js         examples, histograms and lists of 256 units of layer 3
    data/documents/12.js          the texts of the tokens of 32 documents
    data/search/07.js             by token text, the units that have it at the top

Each assigns JSON to a place in a variable. "<" is escaped in it, so that no text of a token ends a script, and the
pages put texts into the document as text alone. Numbers of many are 12 bits in two characters.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from interp_hooks.corpus.reducers.bands import N_BANDS
from interp_hooks.model.tensor_files import on_disk
from interp_hooks.studies.wikis.examples import AROUND, Examples, names_of_bands, needed
from interp_hooks.studies.wikis.material import Column, Listing, Material
from interp_hooks.studies.wikis.tables import plural

STATIC = Path(__file__).parent / "static"
SHARD, HEADS_SHARD = 256, 8  # units in a file; heads, whose examples have patterns
DOCUMENTS, SEARCH = 32, 64  # documents in a file; files of the search
MOST_FOUND = 200  # units that the search lists of one token
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STEPS = 2047  # of a value, from 0 to the largest
UNKNOWN = 4095  # in place of a value that there is not


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What is written of all units: by their kind columns and listings, and by kind and layer examples."""

    about: Mapping[str, Any]
    material: Material
    columns: Mapping[str, Sequence[Column]]
    listings: Mapping[str, Sequence[Listing]]
    examples: Mapping[str, Mapping[int, Examples]]


def write_pages(folder: Path, wiki: Contents) -> None:
    """Write all pages and their data into a folder.

    Raises:
        DiskError: a file cannot be written.
    """
    with on_disk(folder):
        for path in sorted(STATIC.iterdir()):
            shutil.copyfile(path, folder / path.name)
        write_data(folder, "about", dict(wiki.about) | _described(wiki))
        for kind, sizes in wiki.material.sizes.items():
            write_data(folder, plural(kind), {one.name: _flat(one, sizes) for one in wiki.columns[kind]})
            histograms, size = wiki.material.found[f"{kind}_histogram"], shard_of(kind)
            for layer, one in wiki.examples[kind].items():
                parts = [(listing.name, listing.entries.get(layer)) for listing in wiki.listings[kind]]
                units = _units(one, histograms[layer]["counts"].numpy(), parts)
                for number in range(0, len(units), size):
                    name = f"{plural(kind)}/L{layer:02d}_{number // size}"
                    write_data(folder, name, units[number : number + size])
        _write_documents(folder, wiki.material, needed(wiki.examples))
        _write_search(folder, wiki)


def shard_of(kind: str) -> int:
    """How many units of a kind are in a file."""
    return HEADS_SHARD if kind == "head" else SHARD


def write_data(folder: Path, name: str, value: Any) -> None:
    """A data file: `WIKI["name"] = value`, in ASCII and without any character that means something in HTML."""
    path = folder / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    path.write_text(f'(window.WIKI??={{}})["{name}"]={text};\n', encoding="ascii")


def _described(wiki: Contents) -> dict[str, Any]:
    """What the pages need to know of the data files."""
    kinds, found = wiki.material.kinds, wiki.material.found
    histograms = [one for kind in kinds for one in found[f"{kind}_histogram"].values()]
    return {
        "kinds": {
            name: {
                "plural": plural(name),
                "activation": kind.activation,
                "unit": kind.activation_unit,
                "layers": [[layer, n] for layer, n in wiki.material.sizes[name].items()],
                "shard": shard_of(name),
                "letter": kind.letter,
                "of_expert": kind.of_expert,
                "columns": [
                    {"name": one.name, "unit": one.unit, "about": one.about, "label": one.is_label}
                    for one in wiki.columns[name]
                ],
                "listings": [
                    {"name": one.name, "unit": one.unit, "about": one.about, "units": one.of_units}
                    for one in wiki.listings[name]
                ],
            }
            for name, kind in kinds.items()
        },
        "bands": {str(band): name for band, name in names_of_bands().items()},
        "octaves": N_BANDS,
        "edges": [short(edge) for edge in histograms[0]["edges"].tolist()],
        "around": AROUND,
        "documents": DOCUMENTS,
        "search": SEARCH,
        "most": MOST_FOUND,
    }


def _flat(column: Column, sizes: Mapping[int, int]) -> list[Any]:
    """A column of all units, layer by layer, with five digits."""
    values = [value for layer in sizes for value in column.of_layer(layer)]
    return values if column.is_label else [short(value) for value in values]


def short(value: float | None) -> float | None:
    """A number with five digits; None if it is none, or not finite."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.5g}")


# --------------------------------------------------------------------------------------------------------------- units


def packed(values: np.ndarray) -> np.ndarray:
    """Whole numbers 0..4095, [row, n], as one text of 2 n characters for each row."""
    letters = np.frombuffer(DIGITS.encode(), dtype=np.uint8)
    rows = np.stack((letters[values >> 6], letters[values & 63]), axis=-1).reshape(len(values), -1)
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}")[:, 0].astype(str) if rows.size else np.zeros(0, str)


def _units(one: Examples, counts: np.ndarray, listings: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """What the pages show of each unit of a layer."""
    bounds = np.searchsorted(one.unit, np.arange(len(counts) + 1))
    largest = np.array([_largest(one.around[low:high]) for low, high in pairwise(bounds)])
    scaled = one.around.astype(np.float32) / np.where(largest > 0, largest, 1)[one.unit, None] * STEPS + STEPS
    codes = np.where(np.isnan(scaled), UNKNOWN, np.nan_to_num(scaled).round().clip(0, 2 * STEPS)).astype(np.int64)
    around, attention = packed(codes), None
    if one.attention is not None:
        levels = (one.attention.astype(np.float32) * 4095).round().clip(0, 4095).astype(np.int64)
        attention = packed(levels.reshape(len(one), -1))
    listed = (column.tolist() for column in (one.band, one.document, one.position, one.activation))
    band, document, position, activation = listed
    units = []
    for unit, (low, high) in enumerate(pairwise(bounds.tolist())):
        bins = counts[unit].nonzero()[0]
        shown: dict[str, Any] = {
            "largest": short(float(largest[unit])),
            "histogram": [bins.tolist(), counts[unit][bins].tolist()],
            "examples": [
                [band[row], document[row], position[row], short(activation[row])]
                + [str(around[row])]
                + ([] if attention is None else [str(attention[row])])
                for row in range(low, high)
            ],
            "listings": {
                name: [[text, short(value)] for text, value in entries[unit]]
                for name, entries in listings
                if entries is not None
            },
        }
        units.append(shown)
    return units


def _largest(around: np.ndarray) -> float:
    return float(np.abs(np.nan_to_num(around.astype(np.float32))).max(initial=0.0))


# --------------------------------------------------------------------------------------------------- documents, search


def _write_documents(folder: Path, material: Material, documents: Sequence[int]) -> None:
    shards: dict[int, dict[str, list[str]]] = defaultdict(dict)
    for document in documents:
        texts = [material.words(id) for id in material.found.tokens(document).tolist()]
        shards[document // DOCUMENTS][str(document)] = texts
    for number, texts in shards.items():
        write_data(folder, f"documents/{number}", texts)


def search_key(text: str) -> str:
    """What a token is found by: its text without spaces around it, in small letters; of spaces alone, as it is."""
    return text.strip().lower() or text


def search_shard(key: str) -> int:
    """The file in which a key is."""
    return sum(map(ord, key)) % SEARCH


def _write_search(folder: Path, wiki: Contents) -> None:
    """By key and kind, flat: unit, top examples at such a token, entries of lists with it; the best first."""
    shards: list[dict[str, dict[str, Any]]] = [{} for _ in range(SEARCH)]
    for kind in wiki.material.kinds:
        counts: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for column, (unit, text) in _mentions(wiki, kind):
            counts[search_key(text)][unit][column] += 1
        for key, units in counts.items():
            best = sorted(units.items(), key=lambda one: (-one[1][0], -one[1][1], one[0]))
            flat = [number for unit, (top, listed) in best[:MOST_FOUND] for number in (unit, top, listed)]
            shards[search_shard(key)].setdefault(key, {})[kind] = [len(best), flat]
    for number, words_of in enumerate(shards):
        write_data(folder, f"search/{number}", words_of)


def _mentions(wiki: Contents, kind: str) -> Iterator[tuple[int, tuple[int, str]]]:
    """Every token at an example of an end (0) and in a list (1), with the number of the unit among all."""
    first, words, found = 0, wiki.material.words, wiki.material.found
    for layer, n in wiki.material.sizes[kind].items():
        one = wiki.examples[kind][layer]
        for row in np.nonzero(one.band < 0)[0].tolist():
            id = int(found.texts[int(one.document[row])][int(one.position[row])])
            yield 0, (first + int(one.unit[row]), words(id))
        for listing in (listing for listing in wiki.listings[kind] if not listing.of_units):
            for unit, entries in enumerate(listing.entries.get(layer, ())):
                for text, _ in entries:
                    yield 1, (first + unit, text)
        first += n
