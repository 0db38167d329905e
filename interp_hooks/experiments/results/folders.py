"""The folders in which results are kept, or what else there is a record of.

    result.json  result.safetensors    what was found, by the name of what it is
    call.json    call.safetensors      the record of how
    parts/000000.safetensors ...       finished runs, a batch each, while a result is computed
    lock                               while a process computes there

A folder is written whole or not at all, by one process at a time. Files of tensors hold the digest of their tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput, InterpHooksError
from interp_hooks.interventions.engine import Keeps
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.tensor_files import (
    PARTIAL,
    Json,
    on_disk,
    read_with_digest,
    remove_partial,
    write_text,
    write_with_digest,
)

CALL, RESULT, PARTS = "call", "result", "parts"


# ------------------------------------------------------------------------------------------------------------ files


def write(folder: Path, name: str, document: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> None:
    """Write `name`.safetensors and then `name`.json, whose presence says that both are whole.

    Raises:
        DiskError: one of them cannot be written.
    """
    write_with_digest(folder / f"{name}.safetensors", tensors)
    write_text(folder / f"{name}.json", _lines(document))


def read(folder: Path, name: str) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """What `write` wrote.

    Raises:
        BadInput: it is damaged.
    """
    return read_document(folder, name), read_with_digest(folder / f"{name}.safetensors")


def read_document(folder: Path, name: str) -> dict[str, Json]:
    """The JSON of it; raises as `read` does."""
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Within the block, what goes wrong is that the files in a folder are not what was written there.

    Raises:
        BadInput: in place of the errors that data of other kinds lead to.
    """
    try:
        yield
    except InterpHooksError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"{folder} is damaged ({type(error).__name__}: {error!s:.200})") from error


def _lines(document: Mapping[str, Json]) -> str:
    """JSON that can be read: an entry, or an entry of an entry, on each line."""
    entries = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items())
            entries.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        elif key == "objects" and value:
            inner = ",\n".join(f"    {json.dumps(one)}" for one in value)
            entries.append(f"  {json.dumps(key)}: [\n{inner}\n  ]")
        else:
            entries.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


# ---------------------------------------------------------------------------------------------------------- folders


@contextmanager
def replacing(folder: str | Path, name: str, overwrite: bool) -> Iterator[Path]:
    """A new folder to write to; when all is written it takes the place of `folder`, of what there is of that `name`.

    Raises:
        BadInput: the folder holds something, and `overwrite` is off or it is something else.
        FolderInUse: another process saves there, or computes there.
        DiskError: it cannot be written; what was there still is.
    """
    folder = Path(folder).absolute()
    with on_disk(folder):
        refuse_foreign(folder, name)
    beside, old, lock = (folder.with_name(f".{folder.name}.{what}") for what in ("saving", "replaced", "lock"))
    with on_disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, folder), on_disk(folder):
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            raise BadInput(f"{folder} holds a {name} already; overwrite=True replaces it")
        if (folder / LOCK).exists():
            with locked(folder / LOCK, folder):
                pass  # it was left over
        for left in (beside, old) if folder.exists() else (beside,):
            shutil.rmtree(left, ignore_errors=True)
        beside.mkdir()
        try:
            yield beside
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(beside, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(folder: Path, what: str = RESULT) -> None:
    """Raises BadInput if a folder holds what no result, or nothing else of such a name, does."""
    if folder.is_file():
        raise BadInput(f"{folder} is a file; expected a folder, or nothing")
    known = {f"{name}.{kind}" for name in (CALL, what) for kind in ("json", "safetensors")}
    known |= {PARTS, LOCK}
    if foreign := [path.name for path in folder.glob("*") if path.name not in known and path.suffix != PARTIAL]:
        raise BadInput(f"{folder} holds something else than a {what}: {', '.join(sorted(foreign)[:3])}")


Packed = tuple[Mapping[str, Json], Mapping[str, Tensor]]
"""A record as JSON and tensors."""


def kept_in(folder: Path, record: Packed, found: Callable[[], Any], load: Callable[[Path], Any]) -> Any:
    """The result that is in a folder, or what is found now, which is kept there beside its record.

    Raises:
        BadInput: the folder holds something else, or another experiment, or one with another model.
        FolderInUse: another process computes there.
        DiskError: it cannot be written; what was finished before is still there.
    """
    with on_disk(folder):
        refuse_foreign(folder)
    document, tensors = record
    if not _is_whole(folder):
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK, folder):
            if not _is_whole(folder):
                remove_partial(folder)
                if not (folder / f"{CALL}.json").exists():
                    write(folder, CALL, document, tensors)
                _refuse_another(folder, document)
                result = found()
                write(folder, RESULT, *result.packed())
                shutil.rmtree(folder / PARTS, ignore_errors=True)
                return result
    _refuse_another(folder, document)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return load(folder)


def _is_whole(folder: Path) -> bool:
    return (folder / f"{RESULT}.json").exists()


def _refuse_another(folder: Path, document: Mapping[str, Json]) -> None:
    """Raises BadInput if a folder has the record of another experiment, or of one with another model."""
    there = read_document(folder, CALL)
    names = sorted({*there["digests"], *document["digests"]})
    other = [name for name in names if there["digests"].get(name) != document["digests"].get(name)]
    other += [f"the model's {name}" for name in ("weights", "dtype") if there["model"][name] != document["model"][name]]
    if [*there["calls"][0]] != [*document["calls"][0]]:
        other = ["the experiment"]
    if other:
        raise BadInput(
            f"{folder} holds another experiment ({', '.join(other)} differ), so nothing was computed; save to another "
            "folder. What is drawn without a seed differs from call to call: Result.resume(folder, model) goes on with "
            "what was drawn"
        )


class Parts(Keeps):
    """Finished runs as files in a folder, one for each batch. One that cannot be read was not finished."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        self.folder = Path(folder) / PARTS
        with on_disk(self.folder):
            self.folder.mkdir(exist_ok=True)
            remove_partial(self.folder)
        self._known: dict[int, tuple[Tensor, list[bool]]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                part = read_with_digest(path)
                changed = part["changed"].split(part["interventions"].tolist())
                scores = part["scores"].to(device)
            except (BadInput, KeyError, RuntimeError):
                with on_disk(path):
                    path.unlink()
                continue
            for place, score, did in zip(part["places"].tolist(), scores, changed, strict=True):
                self._known[place] = score, did.tolist()

    @property
    def known(self) -> Mapping[int, tuple[Tensor, list[bool]]]:
        return self._known

    def add(self, finished: Mapping[int, tuple[Tensor, list[bool]]]) -> None:
        changed = [did for _, did in finished.values()]
        part = {
            "places": torch.tensor(list(finished)),
            "scores": torch.stack([score.detach() for score, _ in finished.values()]).cpu(),
            "changed": torch.tensor([one for did in changed for one in did], dtype=torch.bool),
            "interventions": torch.tensor([len(did) for did in changed]),
        }
        write_with_digest(self.folder / f"{min(finished):08d}.safetensors", part)
