"""Values of experiments as JSON and one file of tensors, and back.

    {"ref": 3}      an entry of `objects` (mapping, run, intervention, site, metric): what is one object stays one
    {"tensor": 5}   a tensor of the safetensors file, each stored once
    {"tuple": []}   and other kinds of plain data that JSON lacks; lists, text and finite numbers are themselves

Nothing that is read can run code: classes are looked up in a list, metrics among those that are defined. A function is
kept by its name alone.

A folder holds a result, or what else there is a record of. It is written whole or not at all:

    result.json  result.safetensors    what was found, by the name of what it is
    call.json    call.safetensors      the record of how
    parts/000000.safetensors ...       finished runs, a batch each, while a result is computed
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks import today
from interp_hooks.errors import BadInput, InterpHooksError
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.engine import Keeps
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import Intervention, Mean, Resample, Run
from interp_hooks.interventions.sites import Here, Site, Source
from interp_hooks.model.stream import norm_scale
from interp_hooks.model.tensor_files import write_tensors, write_text

Json = Any
CALL, RESULT, PARTS = "call", "result", "parts"


@dataclass(frozen=True, kw_only=True)
class Unkept(Source):
    """A function, or an object of a class that is unknown here, of which only the name was kept.

    It stands where it was, as a source too, so that a record can be read; but nothing can be computed with it.
    """

    name: str

    def put(self, here: Here) -> Tensor:
        raise BadInput(
            f"the source {self.name} is known by its name alone: define that class before the result is loaded (as a "
            "dataclass of values; of functions only names are kept)"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Randomness:
    """The state of a `torch.Generator` at some time, and the seed that it was given."""

    device: str
    seed: int
    state: Tensor

    @classmethod
    def of(cls, generator: torch.Generator) -> Randomness:
        return cls(device=str(generator.device), seed=generator.initial_seed(), state=generator.get_state())

    def generator(self) -> torch.Generator:
        """A generator that draws the same numbers."""
        generator = torch.Generator(self.device)
        generator.set_state(self.state)
        return generator


class _Kind(NamedTuple):
    """Plain data that JSON lacks: what it is written as, and what is made of that."""

    type: type
    written: Callable[[Any], Json]
    read: Callable[[Any], Any]


def _dtype(name: str) -> torch.dtype:
    """The dtype of that name, and nothing else that torch has."""
    if name not in DTYPES:
        raise BadInput(f"a record may hold dtypes of torch, got {name!r:.80}")
    return DTYPES[name]


def _range(parts: Sequence[int]) -> range:
    """A range that can be the entries of an axis; one that is too long would be listed and fill all memory."""
    read = range(*parts)
    if abs((read.stop - read.start) // read.step) > LONGEST:
        raise BadInput(f"a record may hold ranges of at most {LONGEST} entries, got {read}")
    return read


LONGEST = 2**24
DTYPES = {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
KINDS = {
    "float": _Kind(float, repr, float),
    "tuple": _Kind(tuple, list, tuple),
    "range": _Kind(range, lambda value: [value.start, value.stop, value.step], _range),
    "slice": _Kind(slice, lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts)),
    "dtype": _Kind(torch.dtype, str, _dtype),
    "function": _Kind(Unkept, lambda value: value.name, lambda name: Unkept(name=name)),
}
CLASSES = {cls.__name__: cls for cls in (Run, Intervention, Site, Mean, Resample, Randomness)}
SHARED = (Mapping, Metric, Source, *CLASSES.values())  # what stays one object


def current_name(name: str) -> str:
    """The name that a class or function has today, from the one, with its module, that it was saved under."""
    package, _, own = name.partition(".")
    module, _, last = own.rpartition(".")
    return f"{package}.{today(module)}.{last}" if package == "interp_hooks" else name


def fields_of(value: Any) -> dict[str, Any]:
    """What a dataclass was made of."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def name_of(value: Any) -> str:
    """The name, with its module, of a class or function, or of what an object is one of."""
    named = value if isinstance(value, type | FunctionType) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def everything_in(*values: Any) -> Iterator[Any]:
    """Every mapping, tensor and dataclass within some values, each once."""
    seen: set[int] = set()
    waiting: list[Any] = list(values)[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting.extend(reversed(value))
        elif isinstance(value, (Tensor, *SHARED)) and id(value) not in seen:
            seen.add(id(value))
            yield value
            if isinstance(value, Mapping):
                waiting.extend(value.values())
            elif dataclasses.is_dataclass(value):
                waiting.extend(fields_of(value).values())


class Packing:
    """Turns values into JSON, and gathers the objects and tensors that it refers to.

    Of recorded activations only those are kept that some intervention in `values` puts somewhere.
    """

    def __init__(self, *values: Any) -> None:
        self.objects: list[Json] = []
        self.tensors: dict[str, Tensor] = {}
        self._places: dict[int, tuple[int, Any]] = {}  # by identity, with the object, which so outlives this
        self._used: dict[int, set[str]] = {}
        for made in everything_in(*values):
            if isinstance(made, Intervention) and isinstance(made.source, Mapping):
                hook = get_act_name(made.site.hook)
                used = {hook, norm_scale(hook)}  # edges of heads read both
                self._used.setdefault(id(made.source), set()).update(used)

    def pack(self, value: Any) -> Json:
        """The JSON of a value.

        Raises:
            BadInput: a value of a kind that cannot be kept.
        """
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, list):
            return [self.pack(one) for one in value]
        for tag, kind in KINDS.items():
            if isinstance(value, kind.type):
                return {tag: self.pack(kind.written(value))}
        if isinstance(value, Tensor):
            return {"tensor": self._place(value, self._add_tensor)}
        if isinstance(value, SHARED):
            return {"ref": self._place(value, self._add_object)}
        if (to_json := getattr(value, "to_json", None)) is not None:
            return self.pack(to_json())
        if callable(value):
            return {"function": name_of(value)}
        raise BadInput(f"a {type(value).__name__} cannot be saved: {value!r:.80}; use numbers, text, lists or tensors")

    def _place(self, value: Any, add: Callable[[Any], int]) -> int:
        if id(value) not in self._places:
            self._places[id(value)] = add(value), value
        return self._places[id(value)][0]

    def _add_tensor(self, tensor: Tensor) -> int:
        place = len(self.tensors)
        self.tensors[str(place)] = tensor.detach()
        return place

    def _add_object(self, value: Any) -> int:
        packed = self._packed_object(value)
        self.objects.append(packed)
        return len(self.objects) - 1

    def _packed_object(self, value: Any) -> Json:
        if isinstance(value, Mapping):
            used = self._used.get(id(value))
            return {"mapping": [[self.pack(k), self.pack(v)] for k, v in value.items() if used is None or k in used]}
        if not dataclasses.is_dataclass(value):
            return {"function": name_of(value)}  # a metric or a source that may hold anything
        name = type(value).__name__ if type(value) in CLASSES.values() else name_of(value)
        return {name: {field: self.pack(one) for field, one in fields_of(value).items()}}


class Unpacking:
    """Turns JSON into values again, runs on a device."""

    def __init__(
        self, objects: Sequence[Json], tensors: Mapping[str, Tensor], device: torch.device | None = None
    ) -> None:
        self.packed, self.tensors, self.device = objects, tensors, device
        self._objects: dict[int, Any] = {}
        self._moved: dict[int, Tensor] = {}

    def unpack(self, packed: Json) -> Any:
        """The value that was packed."""
        if isinstance(packed, list):
            return [self.unpack(one) for one in packed]
        if not isinstance(packed, dict):
            return packed
        ((tag, written),) = packed.items()
        if tag == "tensor":
            return self.tensors[str(written)]
        if tag == "ref":
            if written not in self._objects:
                self._objects[written] = self._object(self.packed[written])
            return self._objects[written]
        return KINDS[tag].read(self.unpack(written))

    def _object(self, packed: Json) -> Any:
        ((name, written),) = packed.items()
        if name == "mapping":
            return {self.unpack(key): self.unpack(value) for key, value in written}
        if name == "function":
            return Unkept(name=written)
        fields = {field: self.unpack(one) for field, one in written.items()}
        if name == "Run":
            fields |= {field: self._on_device(fields[field]) for field in ("tokens", "attention_mask")}
        cls = CLASSES.get(name) or _defined(name)
        return Unkept(name=name) if cls is None else cls(**fields)

    def _on_device(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or self.device is None:
            return tensor
        return self._moved.setdefault(id(tensor), tensor.to(self.device))


def _defined(name: str) -> type[Metric | Source] | None:
    """The metric or source of that name, if it is one of this package or defined in this process."""
    name = current_name(name)
    if name.startswith("interp_hooks."):
        with suppress(ModuleNotFoundError):
            importlib.import_module(name.rpartition(".")[0])
    waiting: list[type[Metric | Source]] = [Metric, Source]
    while waiting:
        cls = waiting.pop()
        if name_of(cls) == name:
            return cls
        waiting += cls.__subclasses__()
    return None


# ---------------------------------------------------------------------------------------------------------- digests


def digest_of(value: Any) -> str:
    """The same for two values if and only if they are saved as the same."""
    packing = Packing(value)
    packed = packing.pack(value)
    return hash_of(packing.tensors, json.dumps([packed, packing.objects]))


def hash_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The sha256 of a text and of the tensors' names, dtypes, shapes and numbers."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ files


def write(folder: Path, name: str, document: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> None:
    """Write `name`.safetensors and then `name`.json, whose presence says that both are whole."""
    write_tensors(folder / f"{name}.safetensors", tensors)
    write_text(folder / f"{name}.json", _lines(document))


def read(folder: Path, name: str) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """What `write` wrote.

    Raises:
        BadInput: it is damaged.
    """
    path = folder / f"{name}.safetensors"
    try:
        return read_document(folder, name), load_file(path)
    except (OSError, SafetensorError) as error:
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


def read_document(folder: Path, name: str) -> dict[str, Json]:
    """The JSON of it; raises as `read` does."""
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


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


class Parts(Keeps):
    """Finished runs as files in a folder, one for each batch. One that cannot be read was not finished."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        self.folder = Path(folder) / PARTS
        self.folder.mkdir(exist_ok=True)
        self._known: dict[int, tuple[Tensor, list[bool]]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                part = load_file(path)
            except (OSError, SafetensorError):
                path.unlink()
                continue
            changed = part["changed"].split(part["interventions"].tolist())
            scores = part["scores"].to(device)
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
        write_tensors(self.folder / f"{min(finished):08d}.safetensors", part)
