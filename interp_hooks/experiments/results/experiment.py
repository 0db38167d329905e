"""What makes a function an experiment: its results keep how they came about, and may be kept while they are computed.

    @experiment   def patch(model, clean: Prompts, ...)        looks up, checks, draws, and calls
    @on_data      def sweep_runs(model, runs: list[Run], ...)  which can be called again from what is on disk

A folder that an experiment is computed into:

    call.json    call.safetensors      the record: what is computed, and with which model
    parts/000000.safetensors ...       finished runs, a batch each, until all are
    result.json  result.safetensors    then the values; the file says that the result is whole
"""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import check_arguments
from interp_hooks.experiments.results.archive import read_document, write
from interp_hooks.experiments.results.folders import CALL, PARTS, RESULT, refuse_foreign
from interp_hooks.experiments.results.provenance import EXPERIMENTS, Call, Record, asked
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.engine import Keeps
from interp_hooks.model.tensor_files import write_tensors

P = ParamSpec("P")
R = TypeVar("R")
OnData = TypeVar("OnData")  # a result, several by name, or what else has a record


def experiment(function: Callable[P, R]) -> Callable[P, R]:
    """What a user calls: results of `on_data` functions within it keep its name and its arguments, too.

    Experiments that it is made of are not noted. What its annotations rule out is refused, as by `checked`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        arguments = _arguments(signature, args, kwargs)
        check_arguments(function, arguments)
        call = Call.of(_name(function), arguments).told
        before = asked.set(asked.get() or (call,))
        try:
            return function(*args, **kwargs)
        finally:
            asked.reset(before)

    return called


def on_data(function: Callable[P, OnData]) -> Callable[P, OnData]:
    """What computes results from runs, sites and numbers alone, so that its arguments are all that has to be kept."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> OnData:
        arguments = _arguments(signature, args, kwargs)
        model = arguments["model"]
        record = Record.of(model, (Call.of(_name(function), arguments), *asked.get()))
        folder = None if arguments.get("save_to") is None else Path(arguments["save_to"])
        if folder is not None:
            record = record.kept(model)
            if _begin(folder, record):
                return _finished(folder)
        before = asked.set(())
        try:
            found = _recorded(function(*args, **kwargs), record)
        finally:
            asked.reset(before)
        if folder is not None:
            write(folder, RESULT, *found.packed())
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        return found

    EXPERIMENTS[_name(function)] = called
    return called


def _recorded(found: Any, record: Record) -> Any:
    """A result, or several by name, with its record."""
    if isinstance(found, Mapping):
        return {name: replace(one, record=replace(record, part=name)) for name, one in found.items()}
    return replace(found, record=record)


def _finished(folder: Path) -> Any:
    return Result.load(folder)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__.removeprefix('interp_hooks.')}.{function.__name__}"


def _arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


# ------------------------------------------------------------------------------------------------ while it is computed


def _begin(folder: Path, record: Record) -> bool:
    """Write down in a folder what is going to be computed; whether it was, already.

    Raises:
        BadInput: the folder holds something else, or another experiment, or one with another model.
    """
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document, tensors = record.packed()
    if not (folder / f"{CALL}.json").exists():
        write(folder, CALL, document, tensors)
        return False
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
    whole = (folder / f"{RESULT}.json").exists()
    if whole:
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return whole


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
