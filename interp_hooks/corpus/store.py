"""The folder of a scan: what is done so far, so that a killed scan goes on, and workers' parts are put together.

    scan.json                     which model, which reducers, which options
    state.0-of-4.safetensors      the states of worker 0 of 4, and in its metadata how far it is
    tokens/00000012.safetensors   the token ids of a batch's documents
    activations/00000012.safetensors   values of units that are kept; index.json lists them
    lock.0-of-4                   while that worker scans

Files are written whole or not at all. Tokens come before the state that says they are done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from interp_hooks.corpus.labels import Labels
from interp_hooks.corpus.reducers.base import Merges, States
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.model.folder_lock import locked
from interp_hooks.model.identity import Identity
from interp_hooks.model.tensor_files import (
    Json,
    on_disk,
    read_with_digest,
    remove_partial,
    write_text,
    write_with_digest,
)
from interp_hooks.model.transformer import HookedTransformer

ABOUT, INDEX, TOKENS, ACTIVATIONS = "scan.json", "index.json", "tokens", "activations"


@dataclass
class Progress:
    """How far a worker is, and the states until there."""

    states: States = field(default_factory=dict)
    next_batch: int = 0
    documents: int = 0
    counted: int = 0
    read: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder that a worker writes its part of a scan to."""

    path: Path
    part: tuple[int, int]

    @classmethod
    @contextmanager
    def open(
        cls,
        path: str | Path,
        model: HookedTransformer,
        reducers: Mapping[str, Merges],
        keep: Sequence[Units],
        options: Mapping[str, Json],
        part: tuple[int, int],
    ) -> Iterator[Folder]:
        """The folder, made or found, while no other process does the same part.

        Raises:
            BadInput: it holds another scan, or something else.
            FolderInUse: another process scans there.
            DiskError: it cannot be written.
        """
        folder = cls(Path(path).absolute(), part)
        with on_disk(folder.path):
            folder._refuse_foreign()
            (folder.path / TOKENS).mkdir(parents=True, exist_ok=True)
        with locked(folder.path / f"lock.{folder._name}", folder.path):
            folder._describe(model, reducers, keep, options)
            if part[1] == 1:  # else another worker may be writing
                for place in (folder.path, folder.path / TOKENS):
                    remove_partial(place)
            yield folder

    @property
    def _name(self) -> str:
        return f"{self.part[0]}-of-{self.part[1]}"

    @property
    def state(self) -> Path:
        """The file of the worker's states."""
        return self.path / f"state.{self._name}.safetensors"

    def _refuse_foreign(self) -> None:
        if self.path.is_file():
            raise BadInput(f"{self.path} is a file; expected a folder, or nothing")
        if self.path.exists() and any(self.path.iterdir()) and not (self.path / ABOUT).exists():
            known = (ABOUT, TOKENS, ACTIVATIONS)
            foreign = [one.name for one in self.path.iterdir() if one.name not in known and one.name[0] not in ".l"]
            if foreign:
                raise BadInput(f"{self.path} holds something else than a scan: {', '.join(sorted(foreign)[:3])}")

    def _describe(
        self,
        model: HookedTransformer,
        reducers: Mapping[str, Merges],
        keep: Sequence[Units],
        options: Mapping[str, Json],
    ) -> None:
        """Write what is scanned, or compare it with what the folder says."""
        about = {
            "reducers": {name: told(reducer) for name, reducer in reducers.items()},
            "kept": [units.told() for units in keep],
            "options": dict(options),
            "workers": self.part[1],
        }
        about = json.loads(json.dumps(about))
        path = self.path / ABOUT
        if not path.exists():
            write_text(path, json.dumps({**about, "model": dataclasses.asdict(Identity.of(model))}, indent=2) + "\n")
            return
        there = read_about(self.path)
        for what, value in about.items():
            if there.get(what) != value:
                raise BadInput(
                    f"{self.path} holds a scan with other {what} ({there.get(what)!r:.200}, not {value!r:.200}); scan "
                    "into another folder"
                )
        if (unlike := Identity(**there["model"]).unlike(model, "the scan")) is not None:
            raise BadInput(f"{self.path}: {unlike}; scan into another folder")

    # ------------------------------------------------------------------------------------------------ what is done

    def progress(self) -> Progress:
        """How far the worker was when it last wrote.

        Raises:
            BadInput: the file is damaged.
        """
        return read_progress(self.state) if self.state.exists() else Progress()

    def write(self, done: Progress) -> None:
        """Write how far the worker is."""
        tensors = {
            f"{name}/{'' if layer is None else layer}/{what}": value
            for name, states in done.states.items()
            for layer, state in states.items()
            for what, value in state.items()
        }
        facts = {field.name: getattr(done, field.name) for field in dataclasses.fields(done) if field.name != "states"}
        write_with_digest(self.state, tensors or {"none/0/none": torch.zeros(1)}, {PROGRESS: json.dumps(facts)})

    def write_batch(self, number: int, texts: Mapping[int, Tensor], kept: Mapping[str, Tensor]) -> None:
        """Write the token ids of a batch's documents, and the values that are kept of it."""
        listed = {str(document): ids for document, ids in texts.items()}
        write_with_digest(self.path / TOKENS / f"{number:08d}.safetensors", listed)
        if not kept:
            return
        with on_disk(self.path):
            (self.path / ACTIVATIONS).mkdir(exist_ok=True)
        name = f"{number:08d}.safetensors"
        write_with_digest(self.path / ACTIVATIONS / name, kept)

    def list_activations(self) -> None:
        """Write what the files of activations hold: their names, and the shape and dtype of every tensor."""
        files = sorted((self.path / ACTIVATIONS).glob("*.safetensors"))
        listed: dict[str, Json] = {}
        for path in files:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in sorted(file.keys())}
                listed[path.name] = {name: [part.get_dtype(), part.get_shape()] for name, part in parts.items()}
        if files:
            about = "tensors [token, unit] by units and layer; documents and positions [token] say where in the corpus"
            write_text(self.path / ACTIVATIONS / INDEX, json.dumps({"about": about, "files": listed}, indent=2) + "\n")


PROGRESS = "progress"  # in the metadata of a file of states


def told(reducer: Merges) -> Json:
    """A reducer as JSON: its class and the values that it is made of."""
    if not dataclasses.is_dataclass(reducer):
        raise BadInput(f"a reducer that is kept must be a dataclass of plain values, got a {type(reducer).__name__}")
    values = {field.name: getattr(reducer, field.name) for field in dataclasses.fields(reducer)}
    plain = {name: one.told() if isinstance(one, Units | Labels) else one for name, one in values.items()}
    try:
        return json.loads(json.dumps({"kind": type(reducer).__qualname__, **plain}))
    except TypeError as error:
        raise BadInput(f"{type(reducer).__name__} holds what JSON cannot say: {error}") from error


def read_about(folder: Path) -> dict[str, Json]:
    """What a folder says of its scan.

    Raises:
        BadInput: it holds none.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {**about, "model": dict(about["model"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{folder} holds no scan: {ABOUT} cannot be read ({error})") from error


def read_progress(path: Path) -> Progress:
    """A file of states.

    Raises:
        BadInput: it is damaged.
    """
    tensors = read_with_digest(path)
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()[PROGRESS])
        done = Progress(**facts)
        for key, value in tensors.items():
            name, layer, what = key.rsplit("/", 2)
            if name != "none":
                states = done.states.setdefault(name, {})
                of_layer: dict[str, Tensor] = states.setdefault(int(layer) if layer else None, {})  # pyright: ignore
                of_layer[what] = value
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({type(error).__name__}: {error})") from error
    return done


class TextsOnDisk(Mapping[int, Tensor]):
    """The token ids of the documents in a scan's folder, read when they are asked for; some batches stay in memory.

    Reading raises `BadInput` where a file is damaged.
    """

    def __init__(self, folder: Path, per_batch: int) -> None:
        self.folder, self.per_batch = folder / TOKENS, per_batch
        self._batch = lru_cache(KEPT)(self._read)

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:08d}.safetensors"

    def _read(self, batch: int) -> dict[int, Tensor]:
        return {int(document): ids for document, ids in read_with_digest(self._path(batch)).items()}

    def __getitem__(self, document: int) -> Tensor:
        if document not in self:
            raise KeyError(document)
        return self._batch(document // self.per_batch)[document]

    def __contains__(self, document: object) -> bool:
        if not isinstance(document, int) or not self._path(batch := document // self.per_batch).exists():
            return False
        return document in self._batch(batch)

    def __iter__(self) -> Iterator[int]:
        for path in sorted(self.folder.glob("*.safetensors")):
            yield from sorted(self._batch(int(path.stem)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


KEPT = 1024  # batches of documents that stay in memory once they are read
