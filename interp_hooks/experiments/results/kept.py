"""Findings of studies on disk: frozen dataclasses of numbers, text, tensors, mappings and sources, in a folder each.

finding.json  finding.safetensors    the fields, and what is found in words
call.json     call.safetensors       the record of how, if there is one
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.archive import Packing, Unpacking, fields_of, name_of
from interp_hooks.experiments.results.folders import CALL, read, replacing, whole, write
from interp_hooks.experiments.results.record import Record, record_in
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.model.tensor_files import holds
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

FINDING = "finding"


class Kept(Shown, ABC):
    """A dataclass that has a table, prints and shows itself as it, and can be saved and loaded, with its `record`."""

    _printed = 40

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """What was found, as a table."""

    @checked
    def save(self, folder: str | Path, *, overwrite: bool = False, model: HookedTransformer | None = None) -> None:
        """Write it to a folder, which `load` reads. With `overwrite` one that is there is replaced.

        `model` is needed if there is a record and the model that was used is gone.

        Raises:
            BadInput: the folder holds something; a value that cannot be written; the model's weights, or a tensor among
                the recorded arguments, were changed since.
        """
        with replacing(folder, FINDING, overwrite) as beside:
            fields = self._fields()
            record: Record | None = fields.pop("record", None)
            if record is not None:
                write(beside, CALL, *record.kept(model).packed())
            packing = Packing()
            packed = {name: packing.pack(value) for name, value in fields.items()}
            document = {"kind": name_of(self), "fields": packed, "objects": packing.objects}
            write(beside, FINDING, document, packing.tensors)

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Self:
        """What `save` wrote, on the CPU.

        Raises:
            BadInput: there is none, it is of another kind, or damaged.
        """
        folder = Path(folder)
        if not holds(folder, f"{FINDING}.json"):
            raise BadInput(f"expected a {cls.__name__} in {folder}, as save() writes it, found none")
        document, tensors = read(folder, FINDING)
        with whole(folder):
            if document["kind"] != name_of(cls):
                kind = document["kind"].rpartition(".")[2]
                raise BadInput(f"expected {cls.__name__} in {folder}, found what {kind}.load reads")
            unpacking = Unpacking(document["objects"], tensors)
            fields = {name: unpacking.unpack(packed) for name, packed in document["fields"].items()}
            found = cls(**cls._read(fields))
            repr(found)  # what cannot be shown is damaged
        record = record_in(folder)
        return found if record is None else found._with(record)

    def _fields(self) -> dict[str, Any]:
        assert is_dataclass(self)
        return fields_of(self)

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields as they were, of which some are kept as text."""
        return fields

    def _with(self, record: Record) -> Self:
        assert is_dataclass(self)
        assert not isinstance(self, type)
        return replace(self, record=record)
