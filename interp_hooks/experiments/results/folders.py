"""Folders that hold a result, or what else there is a record of.

    result.json  result.safetensors    what was found, by the name of what it is
    call.json    call.safetensors      the record of how
    parts/                             finished runs, while a result is computed

They are written whole or not at all, and nothing else is ever replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp_hooks.errors import BadInput
from interp_hooks.experiments.results.archive import read
from interp_hooks.experiments.results.provenance import Record

CALL, RESULT, PARTS = "call", "result", "parts"


def record_in(folder: Path) -> Record | None:
    """The record in a folder, if there is one.

    Raises:
        BadInput: it is damaged.
    """
    return Record.unpacked(*read(folder, CALL)) if (folder / f"{CALL}.json").exists() else None


@contextmanager
def replacing(folder: str | Path, name: str, overwrite: bool) -> Iterator[Path]:
    """A new folder to write to; when all is written it takes the place of `folder`, of what there is of that `name`.

    Raises:
        BadInput: the folder holds something, and `overwrite` is off or it is something else.
    """
    folder = Path(folder).absolute()
    refuse_foreign(folder, name)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise BadInput(f"{folder} holds a {name} already; overwrite=True replaces it")
    beside, old = (folder.with_name(f".{folder.name}.{what}") for what in ("saving", "replaced"))
    for left in (beside, old) if folder.exists() else (beside,):
        shutil.rmtree(left, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(folder: Path, what: str = RESULT) -> None:
    """Raises BadInput if a folder holds what no result, or nothing else of such a name, does."""
    if folder.is_file():
        raise BadInput(f"{folder} is a file; expected a folder, or nothing")
    known = {f"{name}.{kind}" for name in (CALL, what) for kind in ("json", "safetensors")}
    known |= {PARTS, *(f"{name}.partial" for name in known)}
    if foreign := [path.name for path in folder.glob("*") if path.name not in known]:
        raise BadInput(f"{folder} holds something else than a {what}: {', '.join(sorted(foreign)[:3])}")
