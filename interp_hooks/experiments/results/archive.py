"""Values of experiments as JSON and one file of tensors, and back.

    {"ref": 3}      an entry of `objects` (mapping, run, intervention, site, metric): what is one object stays one
    {"tensor": 5}   a tensor of the safetensors file, each stored once
    {"tuple": []}   and other kinds of plain data that JSON lacks; lists, text and finite numbers are themselves

Nothing that is read can run code: classes are looked up in a list, metrics among those that are defined. A function is
kept by its name alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_hooks import today
from interp_hooks.errors import BadInput
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import Intervention, Mean, Resample, Run
from interp_hooks.interventions.sites import Here, Site, Source
from interp_hooks.model.stream import norm_scale
from interp_hooks.model.tensor_files import Json, hash_of


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


class Recordable:
    """A dataclass of values that a record may hold as an argument, beside metrics and sources: a dictionary, say."""


SHARED = (Mapping, Metric, Source, Recordable, *CLASSES.values())  # what stays one object


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


def _defined(name: str) -> type[Metric | Source | Recordable] | None:
    """The class of that name that records may hold, if it is one of this package or defined in this process."""
    name = current_name(name)
    if name.startswith("interp_hooks."):
        with suppress(ModuleNotFoundError):
            importlib.import_module(name.rpartition(".")[0])
    waiting: list[type[Metric | Source | Recordable]] = [Metric, Source, Recordable]
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


class _Alone:
    """What is packed among other things, numbered as if it had been packed alone."""

    def __init__(self, objects: Sequence[Json], tensors: Mapping[str, Tensor]) -> None:
        self.packed, self.given = objects, tensors
        self.objects: list[Json] = []
        self.tensors: dict[str, Tensor] = {}
        self.of_recorded = False  # of recorded activations there may be more than this alone would keep
        self._places: dict[tuple[str, int], int] = {}

    def again(self, packed: Json) -> Json:
        if isinstance(packed, list):
            return [self.again(one) for one in packed]
        if not isinstance(packed, dict):
            return packed
        ((tag, written),) = packed.items()
        if tag not in ("tensor", "ref"):
            return {tag: self.again(written)}
        if (tag, written) not in self._places:
            self._places[tag, written] = self._tensor(written) if tag == "tensor" else self._object(written)
        return {tag: self._places[tag, written]}

    def _tensor(self, place: int) -> int:
        self.tensors[str(len(self.tensors))] = self.given[str(place)]
        return len(self.tensors) - 1

    def _object(self, place: int) -> int:
        ((name, written),) = self.packed[place].items()
        if name == "mapping":
            self.of_recorded |= any(isinstance(value, dict) and "tensor" in value for _, value in written)
            written = [[self.again(key), self.again(value)] for key, value in written]
        elif isinstance(written, dict):
            written = {field: self.again(one) for field, one in written.items()}
        self.objects.append({name: written})
        return len(self.objects) - 1


def is_digest(digest: str, packed: Json, objects: Sequence[Json], tensors: Mapping[str, Tensor]) -> bool:
    """Whether what was packed among other things has this digest, as far as that can be told."""
    alone = _Alone(objects, tensors)
    again = alone.again(packed)
    return alone.of_recorded or hash_of(alone.tensors, json.dumps([again, alone.objects])) == digest


# ------------------------------------------------------------------------------------------------------- what 0.1 saved

FORMER = {  # functions that 0.1 saved results of, which are now those that users call
    "circuits.discovery.edge_attributions": "circuits.discovery.eap_ig",
    "circuits.discovery.mask_gradients": "circuits.discovery.mask_gradient",
    "circuits.discovery.node_attributions": "circuits.discovery.node_attribution",
    "experiments.attribution.estimated": "experiments.attribution.attribution_patches",
    "experiments.gradients.gradients_along_path": "experiments.gradients.integrated_gradients",
}
PARTED = {"studies.lenses.attributed": "studies.logit_attribution.attributed"}  # from a module that kept its name


def as_today(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A call as it is made today, from one that 0.1 saved: functions that were two are one, others have moved."""
    name = current_name(f"interp_hooks.{name}").partition(".")[2]
    name = PARTED.get(name, name)
    if name not in FORMER:
        return name, arguments
    given, fractions = dict(arguments), arguments.get("fractions")
    if name.startswith("circuits.discovery."):
        given |= {"clean": given.pop("run"), "corrupt": None, "ablation": given.pop("source")}
    elif name.endswith("estimated"):
        denoises = given.pop("scale")[0] == "corrupt"
        runs = ("corrupt", "clean") if denoises else ("clean", "corrupt")
        given |= {runs[0]: given.pop("base"), runs[1]: given.pop("source")}
        given["direction"] = "denoise" if denoises else "noise"
    else:
        given["prompts"] = given.pop("run")
    new, by_steps = FORMER[name], dict[str, Any]()
    if "fractions" in given:
        del given["fractions"]
        if fractions in (None, [1.0]):
            new = new.replace("integrated_gradients", "gradient_x_input").replace("eap_ig", "eap")
            given.pop("baseline", None)
        else:
            by_steps["steps"] = len(fractions)
            if "clean" in given:
                by_steps["rule"] = "midpoint" if fractions[0] else "left"
    return new, given | by_steps
