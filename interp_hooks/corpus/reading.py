"""A corpus as documents, one after the other: what a scan reads.

    "texts.txt"                    a document on every line that is not blank
    "texts.jsonl", "texts.parquet" a document in every row, in the column "text"
    "folder"                       all of these files in it, in the order of their names
    [text, ...], data set          texts, or mappings that have the text in that column; read as they come
    tensor [document, pos]         token ids; rows may be padded. Also a list of tensors [pos]

Files are read line by line or in small batches, so that only what is being worked on is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told
from interp_hooks.model.transformer import HookedTransformer

Corpus = str | Path | Tensor | Iterable[Any]
Document = str | Int[Tensor, " _"]


@checked
def documents(model: HookedTransformer, corpus: Corpus, column: str = "text") -> Iterator[Document]:
    """The documents of a corpus, by the table above; `model` tells padding in token ids.

    Raises:
        BadInput: no such file, a file of another kind, or an entry that is no text and no token ids.
        ImportError: parquet, and the package pyarrow is not installed.
    """
    if isinstance(corpus, str | Path):
        yield from _of_path(Path(corpus), column)
    elif isinstance(corpus, Tensor):
        yield from _of_tensor(model, corpus)
    elif not isinstance(corpus, Iterable):
        raise BadInput(f"a corpus is a file, a list of texts or token ids, or a stream of them, got {told(corpus)}")
    else:
        for number, entry in enumerate(corpus):
            yield _document(entry, column, f"document {number}")


def checked_file(path: str | Path) -> Path:
    """A corpus file, or a folder of some, that is there and of a kind that can be read.

    Raises:
        BadInput: it is not.
    """
    path = Path(path)
    kinds = ", ".join(filter(None, READERS))
    try:
        there, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # such as a text, which no file could be called
        there, folder = False, False
    if folder:
        if not any(one.suffix in READERS and one.is_file() for one in path.iterdir()):
            raise BadInput(f"the folder {path} holds no corpus file; expected {kinds}")
        return path
    if not there:
        raise BadInput(f"there is no file {str(path)[:300]}; expected a corpus file or folder, or a list of texts")
    if path.suffix not in READERS:
        raise BadInput(f"{path} is of an unknown kind; expected {kinds}")
    return path


def _of_path(path: Path, column: str) -> Iterator[str]:
    if not checked_file(path).is_dir():
        yield from READERS[path.suffix](path, column)
        return
    for file in sorted(one for one in path.iterdir() if one.suffix in READERS and one.is_file()):
        yield from _of_path(file, column)


def _lines(path: Path, _: str = "") -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no text in UTF-8: {error}") from error


def _json_lines(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"line {number} of {path} is no JSON: {error}") from error
        yield _text(row, column, f"line {number} of {path}")


def _parquet(path: Path, column: str) -> Iterator[str]:
    try:
        import pyarrow as arrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("parquet files are read with pyarrow: pip install 'interp-hooks[wiki]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise BadInput(f"{path} has no column {column!r}; it has {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for number, text in enumerate(batch.column(0).to_pylist()):
                    yield _text({column: text}, column, f"row {number} of {path}")
    except arrow.ArrowException as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


READERS: Mapping[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _lines,
    ".text": _lines,
    ".md": _lines,
    "": _lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def _of_tensor(model: HookedTransformer, tokens: Tensor) -> Iterator[Int[Tensor, " pos"]]:
    rows = model.checked_tokens(tokens)
    real = model.padding_of(rows).real
    for number, row in enumerate(rows):
        yield (row if real is None else row[real[number]]).cpu()


def _document(entry: Any, column: str, where: str) -> Document:
    if isinstance(entry, Tensor) or (isinstance(entry, Sequence) and entry and isinstance(entry[0], int)):
        ids = torch.as_tensor(entry)
        if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool or not len(ids):
            raise BadInput(f"{where} must be text or token ids [pos], got {told(entry)}")
        return ids.cpu().long()
    return entry if isinstance(entry, str) else _text(entry, column, where)


def _text(row: Any, column: str, where: str) -> str:
    if not isinstance(row, Mapping):
        raise BadInput(f"{where} must be text or a mapping with {column!r}, got {told(row)}")
    if column not in row:
        raise BadInput(f"{where} has no {column!r}; it has {', '.join(map(str, row))}")
    if not isinstance(row[column], str):
        raise BadInput(f"{column!r} of {where} must be text, got {told(row[column])}")
    return row[column]
