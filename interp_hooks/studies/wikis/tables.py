"""A wiki's tables as parquet, and the wiki as it is read again.

    heads.parquet       layer, head, and a column for each metric      neurons.parquet     layer, neuron, and so on
    expert_neurons.parquet, shared_neurons.parquet    of layers with experts: layer, number, expert, and so on
    examples.parquet    unit ("head", "neuron", ...), layer, index, band, rank, document, position, activation
    listings.parquet    unit, layer, index, listing, rank, text, value: tokens that a unit raises, attends to, ...
    tokens.parquet      document, position, token_id, text: all documents that were read

Positions are those of `model.to_tokens(text)`: BOS, where there is one, is position 0. What a column means, and in
which unit it is, stands in the metadata of its field ("unit", "about").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.tables import pd
from interp_hooks.model.tensor_files import on_disk
from interp_hooks.studies.wikis.columns import Column, Listing
from interp_hooks.studies.wikis.examples import Examples, names_of_bands

ABOUT = "wiki.json"
ROWS = 2**20  # of a row group


def need_arrow() -> tuple[Any, Any]:
    """pyarrow and its module for parquet.

    Raises:
        ImportError: they are not installed.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("a wiki is written with pyarrow: pip install 'interp-hooks[wiki]'") from error
    return pyarrow, parquet


def plural(kind: str) -> str:
    """What a kind of units is called in names of tables and folders."""
    return f"{kind}s"


def write_units(path: Path, kind: str, sizes: Mapping[int, int], columns: Sequence[Column]) -> None:
    """The table of a kind of units: layer, the unit's number, and its columns."""
    arrow, parquet = need_arrow()
    fields = [
        _field(arrow, "layer", arrow.int32(), "number", "layer of the model"),
        _field(arrow, kind, arrow.int32(), "number", f"number of the {kind} in its layer"),
    ]
    arrays = [
        arrow.array([layer for layer, n in sizes.items() for _ in range(n)], arrow.int32()),
        arrow.array([unit for n in sizes.values() for unit in range(n)], arrow.int32()),
    ]
    for column in columns:
        of = arrow.string() if column.is_label else arrow.float64()
        fields.append(_field(arrow, column.name, of, column.unit, column.about))
        arrays.append(arrow.array([value for layer in sizes for value in column.of_layer(layer)], of))
    with on_disk(path):
        parquet.write_table(arrow.table(arrays, schema=arrow.schema(fields)), path)


def _field(arrow: Any, name: str, of: Any, unit: str, about: str) -> Any:
    return arrow.field(name, of, metadata={"unit": unit, "about": about})


EXAMPLE_FIELDS = {
    "unit": ("string", "name", "kind of the unit: head, neuron, ..."),
    "layer": ("int32", "number", "layer of the model"),
    "index": ("int32", "number", "number of the unit in its layer"),
    "band": ("string", "name", '"top", "bottom" (where it is smallest), or the band from which it was drawn'),
    "rank": ("int32", "number", "0 for the first; within a band the order says nothing"),
    "document": ("int64", "number", "which document of the corpus"),
    "position": ("int32", "token", "which token of it, of model.to_tokens(text)"),
    "activation": ("float32", "as the unit", "activation there; of a head the norm of what it writes"),
}
LISTING_FIELDS = {
    "unit": ("string", "name", "kind of the unit: head, neuron, ..."),
    "layer": ("int32", "number", "layer of the model"),
    "index": ("int32", "number", "number of the unit in its layer"),
    "listing": ("string", "name", "which list of the unit"),
    "rank": ("int32", "number", "0 for the first"),
    "text": ("string", "text", "a token, or a prompt"),
    "value": ("float32", "as the listing", "nan where there is none"),
}
TOKEN_FIELDS = {
    "document": ("int64", "number", "which document of the corpus"),
    "position": ("int32", "token", "which token of it, of model.to_tokens(text)"),
    "token_id": ("int32", "id", "the token in the model's vocabulary"),
    "text": ("string", "text", "the token's text"),
}


def _write(path: Path, fields: Mapping[str, tuple[str, str, str]], parts: Iterable[Mapping[str, Any]]) -> None:
    """A table of some parts, each a mapping from the fields to arrays."""
    arrow, parquet = need_arrow()
    schema = arrow.schema(
        [_field(arrow, name, getattr(arrow, of)(), unit, about) for name, (of, unit, about) in fields.items()]
    )
    with on_disk(path), parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            columns = [arrow.array(part[name], schema.field(name).type) for name in fields]
            writer.write_table(arrow.table(columns, schema=schema))


def write_examples(path: Path, examples: Mapping[str, Mapping[int, Examples]]) -> None:
    names = names_of_bands()
    texts = np.asarray([names[band] for band in sorted(names)], dtype=object)
    _write(
        path,
        EXAMPLE_FIELDS,
        (
            {
                "unit": np.full(len(one), kind, dtype=object),
                "layer": np.full(len(one), layer),
                "index": one.unit,
                "band": texts[one.band - min(names)],
                "rank": one.rank,
                "document": one.document,
                "position": one.position,
                "activation": one.activation,
            }
            for kind, layers in examples.items()
            for layer, one in layers.items()
        ),
    )


def write_listings(path: Path, listings: Mapping[str, Sequence[Listing]]) -> None:
    rows = (
        [
            (kind, layer, index, listing.name, rank, text, np.nan if value is None else value)
            for index, entries in enumerate(units)
            for rank, (text, value) in enumerate(entries)
        ]
        for kind, listed in listings.items()
        for listing in listed
        for layer, units in listing.entries.items()
    )
    _write(
        path, LISTING_FIELDS, (dict(zip(LISTING_FIELDS, zip(*part, strict=True), strict=True)) for part in rows if part)
    )


def write_tokens(path: Path, found: Scan, words: Callable[[int], str]) -> None:
    def parts() -> Iterable[Mapping[str, Any]]:
        waiting: list[tuple[int, np.ndarray]] = []
        for document in found.texts:
            waiting.append((document, found.tokens(document).numpy()))
            if sum(len(ids) for _, ids in waiting) >= ROWS:
                yield together(waiting)
                waiting = []
        if waiting:
            yield together(waiting)

    def together(listed: Sequence[tuple[int, np.ndarray]]) -> Mapping[str, Any]:
        ids = np.concatenate([ids for _, ids in listed])
        return {
            "document": np.concatenate([np.full(len(ids), document) for document, ids in listed]),
            "position": np.concatenate([np.arange(len(ids)) for _, ids in listed]),
            "token_id": ids,
            "text": [words(id) for id in ids.tolist()],
        }

    _write(path, TOKEN_FIELDS, parts())


# ------------------------------------------------------------------------------------------------------------- reading


class Wiki:
    """A wiki that was written to a folder: its tables, as pandas DataFrames.

    Raises:
        BadInput: the folder holds no wiki.

    >>> from interp_hooks.studies import Wiki, wiki
    >>> made = wiki(model, [*clean, *corrupt], "my-wiki", causal=False, progress=False)
    >>> Wiki("my-wiki").heads.shape[0]
    12
    """

    about: dict[str, Any]
    """Of which model and corpus it is, and with which options it was made."""

    @checked
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.about = read_about(self.path)

    def __repr__(self) -> str:
        return f"Wiki({str(self.path)!r})"

    @property
    def heads(self) -> pd.DataFrame:
        """A row for each head."""
        return self.table("heads")

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron."""
        return self.table("neurons")

    @property
    def examples(self) -> pd.DataFrame:
        """A row for each example of a unit."""
        return self.table("examples")

    @property
    def tokens(self) -> pd.DataFrame:
        """A row for each token of the corpus that was read."""
        return self.table("tokens")

    @property
    def listings(self) -> pd.DataFrame:
        """A row for each entry of a unit's lists."""
        return self.table("listings")

    @property
    def page(self) -> Path:
        """The page to open first."""
        return self.path / "index.html"

    def table(self, name: str) -> pd.DataFrame:
        """A table by its name.

        Raises:
            BadInput: it is not there, or damaged.
            ImportError: pyarrow is not installed.
        """
        arrow, parquet = need_arrow()
        path = self.path / f"{name}.parquet"
        try:
            return parquet.read_table(path).to_pandas()
        except (OSError, arrow.ArrowException) as error:
            raise BadInput(f"{path} cannot be read: {error}") from error

    def columns(self, name: str) -> dict[str, dict[str, str]]:
        """What the columns of a table mean: by name, `unit` and `about`."""
        _, parquet = need_arrow()
        schema = parquet.read_schema(self.path / f"{name}.parquet")
        return {
            field.name: {
                key.decode(): text.decode()
                for key, text in (field.metadata or {}).items()
                if key != b"PARQUET:field_id"
            }
            for field in schema
        }


def read_about(folder: Path) -> dict[str, Any]:
    """What a folder says of its wiki.

    Raises:
        BadInput: it holds none.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {**about, "model": dict(about["model"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no wiki: {ABOUT} cannot be read ({error})") from error
