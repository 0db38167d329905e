"""How a result came about: the calls that led to it, and the model that they were made with.

    asked       patch(clean="When Mary ...", corrupt=..., site="z")       as the user wrote it
    on data     sweep_runs(runs=[Run(tokens, [Intervention(...)]), ...])  the same with nothing left to look up or draw

The latter can be made again anywhere, by its function's name. What a record holds is alive and not copied; it becomes
data when it is saved.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import platform
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from interp_hooks import __version__
from interp_hooks.errors import BadInput, TokenError, nearest
from interp_hooks.errors.arguments import binding, check_arguments
from interp_hooks.experiments.results.archive import (
    Json,
    Packing,
    Randomness,
    Unkept,
    Unpacking,
    as_today,
    digest_of,
    everything_in,
    fields_of,
    is_digest,
    name_of,
)
from interp_hooks.experiments.results.folders import CALL, kept_in, read, whole
from interp_hooks.hooks.modes import keeps_gradient_mode
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import OF_TASK, Run, TaskLike, as_run
from interp_hooks.model.identity import Identity
from interp_hooks.model.transformer import HookedTransformer

P = ParamSpec("P")
R = TypeVar("R")
OnData = TypeVar("OnData")  # a result, several by name, or what else has a record

PROMPTS = ("clean", "prompts", "dataset")  # the arguments that may be a task
NEEDED = ("corrupt", "metric")  # the arguments that it brings, without which nothing can be done
NO_PART = ("model", "max_memory", "progress", "save_to")  # arguments on which no number depends
EXPERIMENTS: dict[str, Callable[..., Any]] = {}  # those that can be called again, by name


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """A function of this package, by its name within it, and its arguments but for the model and for what only speeds.

    Generators are kept in the state that they had.
    """

    function: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, function: str, arguments: Mapping[str, Any]) -> Call:
        kept = {name: value for name, value in arguments.items() if name not in NO_PART}
        return cls(
            function=function,
            arguments={
                name: Randomness.of(value) if isinstance(value, torch.Generator) else value
                for name, value in kept.items()
            },
        )

    @property
    def told(self) -> Call:
        """The same to be read but not called again: of functions, which may hold a model, only their names."""
        named = {
            name: Unkept(name=name_of(value)) if isinstance(value, FunctionType) else value
            for name, value in self.arguments.items()
        }
        return replace(self, arguments=named)

    def again(self, model: HookedTransformer, metric: Any, options: Mapping[str, Any]) -> Any:
        """What the function returns now.

        Raises:
            BadInput: its metric was not kept, there is no such function any more, or it has no such option.
        """
        module = f"interp_hooks.{self.function.rpartition('.')[0]}"
        importlib.import_module(module)
        if self.function not in EXPERIMENTS:
            raise BadInput(f"this version has no experiment {self.function}; the result says which version has")
        known = inspect.signature(EXPERIMENTS[self.function]).parameters
        given = [*options, *([] if metric is None else ["metric"])]
        if unknown := [name for name in given if name not in known]:
            raise BadInput(f"{self.function} has no argument {unknown[0]!r}.{nearest(unknown[0], known)}")
        arguments = {**self.arguments, **({} if metric is None else {"metric": metric}), **options}
        if lost := [value for value in arguments.values() if isinstance(value, Unkept)]:
            raise BadInput(f"{lost[0].name} is a function, of which only the name was kept; pass it as metric=")
        check_arguments(EXPERIMENTS[self.function], arguments)
        return EXPERIMENTS[self.function](model=model, **arguments)

    def on(self, device: torch.device) -> Call:
        """The same with its runs on a device."""
        runs = [one for one in everything_in(self.arguments) if isinstance(one, Run)]
        if all(run.tokens.device == device for run in runs):
            return self
        packing = Packing(self.arguments)
        packed = packing.pack(dict(self.arguments))
        moved = Unpacking(packing.objects, packing.tensors, device).unpack(packed)
        alive = {name: value for name, value in self.arguments.items() if name == "metric"}  # maybe a function
        return Call(function=self.function, arguments=moved | alive)


asked: ContextVar[tuple[Call, ...]] = ContextVar("asked", default=())  # the user's call that is being answered, or none


# ------------------------------------------------------------------------------------------------------------ the model


class Alive:
    """A model that was used, as long as it is there and as it was.

    (Weights edited through `.data` leave no trace, and count as they are when the result is saved.)
    """

    def __init__(self, model: HookedTransformer) -> None:
        self._model = weakref.ref(model)
        self._state = _state(model.parameters())

    def identity(self) -> Identity:
        """Which model it was.

        Raises:
            BadInput: it is gone, or its weights have changed since.
        """
        model = self._model()
        if model is None:
            raise BadInput("the model of this result is gone, so its weights are unknown; pass it again as model=")
        if _state(model.parameters()) != self._state:
            raise BadInput(
                "the model's weights were changed since this result was computed, so it cannot say what they were; "
                "pass a model with the old weights as model="
            )
        return Identity.of(model)

    def refuse_others(self, model: HookedTransformer) -> None:
        """Raises BadInput if the model computes something else, or if nothing to compare with is left."""
        if self._model() is not model or _state(model.parameters()) != self._state:
            self.identity().refuse_others(model)


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A model of which nothing is known any more, and why: what becomes of an `Alive` in another process."""

    why: str

    def identity(self) -> Identity:
        """Raises BadInput."""
        raise BadInput(self.why)

    def refuse_others(self, model: HookedTransformer) -> None:
        """Raises BadInput."""
        raise BadInput(f"{self.why}; any_model=True runs it with this one")


def _state(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """What changes when tensors do: which memory is theirs, wherever it lies, and how often they were written to."""
    return [(tensor.untyped_storage()._cdata, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _tensors(call: Call) -> Iterator[Tensor]:
    return (one for one in everything_in(call.arguments) if isinstance(one, Tensor))


# -------------------------------------------------------------------------------------------------------------- records


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    installed = {name: version(name) for name in ("torch", "transformers")}
    return {"interp_hooks": __version__, **installed, "python": platform.python_version()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """The calls that led to a result: the one on data, then the user's; `part` is its key among several results.

    `seed` is that of torch's global generator. `made` is the time in ISO 8601. A record that is sent to another process
    is there what a saved one is when it is loaded; copies of a result share one.
    """

    calls: tuple[Call, ...]
    model: Alive | Identity | Unknown
    part: str | None
    made: str
    seed: int
    versions: Mapping[str, str]
    inputs: Sequence[tuple[int, int]] | None = None

    @classmethod
    def of(cls, model: HookedTransformer, calls: tuple[Call, ...]) -> Record:
        return cls(
            calls=calls,
            model=Alive(model),
            part=None,
            made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seed=torch.initial_seed(),
            versions=versions(),
            inputs=_state(_tensors(calls[0])),
        )

    def kept(self, model: HookedTransformer | None = None) -> Record:
        """The same with the model's identity, which `model` has if the one that was used is gone.

        Raises:
            BadInput: the model or a tensor among the arguments is no longer what it was.
        """
        self._refuse_changed()
        if model is not None:
            return replace(self, model=Identity.of(model))
        return self if isinstance(self.model, Identity) else replace(self, model=self.model.identity())

    @property
    def _unchanged(self) -> bool:
        """Whether all tensors among the arguments are still what they were."""
        return self.inputs is None or _state(_tensors(self.calls[0])) == list(self.inputs)

    def _refuse_changed(self) -> None:
        if not self._unchanged:
            raise BadInput("a tensor that this result was computed from was changed since; give experiments a copy")

    def again(
        self, model: HookedTransformer, metric: Any, options: Mapping[str, Any], *, any_model: bool = False
    ) -> Any:
        """The result of the call on data, made now.

        Raises:
            BadInput: another model, unless `any_model` allows it; tensors that were changed since; or what `Call.again`
                refuses.
        """
        self._refuse_changed()
        if not any_model:
            self.model.refuse_others(model)
        before = asked.set(self.calls[1:])
        try:
            found = self.calls[0].on(model.device).again(model, metric, options)
        finally:
            asked.reset(before)
        return found if self.part is None else found[self.part]

    @property
    def facts(self) -> dict[str, Json]:
        """When, with what, and on which model, once its identity is known."""
        assert isinstance(self.model, Identity)
        told = {"made": self.made, "seed": self.seed, "part": self.part, "versions": dict(self.versions)}
        return told | {"model": fields_of(self.model)}

    def packed(self) -> tuple[dict[str, Json], dict[str, Tensor]]:
        """As JSON and tensors, once the model's identity is known."""
        calls, packing = self._packed_calls()
        digests = {name: digest_of(value) for name, value in self.calls[0].arguments.items()}
        return self.facts | {"digests": digests, "calls": calls, "objects": packing.objects}, packing.tensors

    def _packed_calls(self) -> tuple[list[Json], Packing]:
        packing = Packing(*(call.arguments for call in self.calls))
        return [{call.function: packing.pack(dict(call.arguments))} for call in self.calls], packing

    @classmethod
    def unpacked(cls, document: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> Record:
        """From what `packed` gave.

        Raises:
            BadInput: an argument of the call on data is not the one whose digest was kept.
        """
        facts = {name: document[name] for name in ("part", "made", "seed", "versions")}
        calls, objects = document["calls"], document["objects"]
        record = cls._of_packed_calls(calls, objects, tensors, model=Identity(**document["model"]), **facts)
        ((reference,),) = (call.values() for call in calls[:1])
        for name, packed in objects[reference["ref"]]["mapping"]:
            if not is_digest(document["digests"][name], packed, objects, tensors):
                raise BadInput(f"{name} of the recorded call is not what it was when the record was written")
        return record

    @classmethod
    def _of_packed_calls(
        cls,
        packed: Sequence[Json],
        objects: Sequence[Json],
        tensors: Mapping[str, Tensor],
        unchanged: bool = True,
        **fields: Any,
    ) -> Record:
        unpacking = Unpacking(objects, tensors)
        named = [as_today(name, unpacking.unpack(one)) for call in packed for name, one in call.items()]
        calls = tuple(Call.of(name, arguments) for name, arguments in named)
        return cls(calls=calls, inputs=_state(_tensors(calls[0])) if unchanged else (), **fields)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = fields_of(self)
        del fields["calls"], fields["inputs"]
        if isinstance(self.model, Alive):
            try:
                fields["model"] = self.model.identity()
            except BadInput as error:
                fields["model"] = Unknown(why=str(error))
        calls, packing = self._packed_calls()
        received = functools.partial(Record._of_packed_calls, **fields)
        return received, (calls, packing.objects, packing.tensors, self._unchanged)

    def __copy__(self) -> Record:
        return self

    def __deepcopy__(self, memo: Any) -> Record:
        return self


def record_in(folder: Path) -> Record | None:
    """The record in a folder, if there is one.

    Raises:
        BadInput: it is damaged.
    """
    if not (folder / f"{CALL}.json").exists():
        return None
    document, tensors = read(folder, CALL)
    with whole(folder):
        return Record.unpacked(document, tensors)


# ------------------------------------------------------------------------------------------------------ experiments


def experiment(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function an experiment that users call: it takes a task, and its results keep how it was called.

    A task in place of `clean` (or `prompts`) stands for its prompts, and fills in `corrupt`, `metric` and whatever else
    is left to it (`OF_TASK`). What annotations rule out is refused, as by `checked`. Results of `on_data` functions
    within it keep its name and its arguments; experiments that it is made of are not noted.
    """
    signature = inspect.signature(function)

    @keeps_gradient_mode
    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with binding(function, kwargs):
            arguments = _of_task(signature, args, kwargs)
        check_arguments(function, arguments)
        call, outermost = Call.of(_name(function), arguments).told, not asked.get()
        before = asked.set(asked.get() or (call,))
        try:
            return function(**arguments)  # pyright: ignore[reportCallIssue]
        except (BadInput, TokenError) as error:
            if outermost and (name := _prompts_refused(arguments, error)) is not None:
                raise type(error)(f"{name}: {error}") from error
            raise
        finally:
            asked.reset(before)

    return called


def _prompts_refused(arguments: Mapping[str, Any], error: Exception) -> str | None:
    """Which of the arguments that are prompts an error is about: the one that is refused alike when it stands alone."""
    for name in (*PROMPTS, "corrupt", "reference"):
        if arguments.get(name) is not None:
            try:
                as_run(arguments["model"], arguments[name])
            except type(error) as own:
                if str(own) == str(error):
                    return name
    return None


def _of_task(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call, those that are left to a task included.

    Raises:
        BadInput: an argument that only a task could give, and no task.
    """
    arguments = signature.bind_partial(*args, **kwargs).arguments
    task = next((arguments[name] for name in PROMPTS if isinstance(arguments.get(name), TaskLike)), None)
    for name, parameter in signature.parameters.items():
        if task is not None and arguments.get(name) is task:
            arguments[name] = task.clean
        elif name not in arguments and (
            parameter.default is OF_TASK
            or (task is not None and name in NEEDED and parameter.default in (None, parameter.empty))
        ):
            if task is None and name in NEEDED:
                raise BadInput(f"{name} is needed: pass it, or a Task in place of the prompts, which brings its own")
            arguments[name] = None if task is None else getattr(task, name)
    if task is not None and isinstance(arguments.get("corrupt"), str):
        raise BadInput(
            f"a Task brings its own corrupt prompts and metric, so that what follows it is said by name "
            f"(site={arguments['corrupt']!r}, over=...); got {arguments['corrupt']!r} in place of corrupt prompts"
        )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    return bound.arguments


def on_data(function: Callable[P, OnData]) -> Callable[P, OnData]:
    """Make a function one whose results can be computed again from its arguments, which are kept with them.

    Prompts (`clean`, `corrupt`, `prompts`) reach it as runs, and the metric with its answers looked up, so that nothing
    that is kept depends on a tokenizer. With `save_to` its result is kept while it is computed, and in the end.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> OnData:
        with binding(function, kwargs):
            bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments.items()
        arguments: dict[str, Any] = {name: None if value is OF_TASK else value for name, value in given}
        model = arguments["model"]
        for name in (*PROMPTS, "corrupt"):
            if arguments.get(name) is not None:
                arguments[name] = as_run(model, arguments[name])
        if isinstance(arguments.get("metric"), Metric):
            arguments["metric"] = arguments["metric"].on(model)
        record = Record.of(model, (Call.of(_name(function), arguments), *asked.get()))

        def found(record: Record) -> OnData:
            before = asked.set(())
            try:
                return _recorded(function(**arguments), record)  # pyright: ignore[reportCallIssue]
            finally:
                asked.reset(before)

        if arguments.get("save_to") is None:
            return found(record)
        kept, kind = record.kept(model), inspect.signature(function, eval_str=True).return_annotation
        return kept_in(Path(arguments["save_to"]), kept.packed(), lambda: found(kept), kind.load)

    EXPERIMENTS[_name(function)] = called
    return called


def _recorded(found: Any, record: Record) -> Any:
    """A result, or several by name, with its record."""
    if isinstance(found, Mapping):
        return {name: replace(one, record=replace(record, part=name)) for name, one in found.items()}
    return replace(found, record=record)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__.removeprefix('interp_hooks.')}.{function.__name__}"
