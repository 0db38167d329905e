"""What was measured of each checkpoint: in memory, and with a folder on disk, a small file for each.

    watch.json                      which measures
    steps/000000000300.safetensors  what they gave after step 300, and in its metadata what of
    lock                            while a process measures

Files are written whole or not at all. One that cannot be read, or that is of another state of the checkpoint than there
is now, is measured again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import fits, told
from interp_hooks.experiments.results.archive import digest_of, fields_of, name_of
from interp_hooks.experiments.results.folders import whole
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.identity import NO_MATTER, config_of
from interp_hooks.model.tensor_files import (
    PARTIAL,
    Json,
    on_disk,
    read_with_digest,
    remove_partial,
    write_text,
    write_with_digest,
)
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.training_runs.measures import MeasureLike

ABOUT, STEPS, OF = "watch.json", "steps", "of"
Results = Mapping[str, Result]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What the measures gave of one checkpoint, and the config of its model."""

    results: Results
    config: Mapping[str, Json]


@dataclass(eq=False)
class Store:
    """The rows of a training, by step; with a `folder` they are there, too."""

    measures: Mapping[str, MeasureLike]
    folder: Path | None = None
    rows: dict[int, Row] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, measures: Mapping[str, MeasureLike], folder: str | Path | None) -> Iterator[Store]:
        """A store that no other process writes to meanwhile.

        Raises:
            BadInput: no measures; the folder holds something else, or other measures.
            FolderInUse: another process measures there.
            DiskError: it cannot be written.
        """
        if not isinstance(measures, Mapping) or not measures:
            raise BadInput(f"measures must be functions of a model by name, at least one, got {told(measures)}")
        if wrong := [name for name, one in measures.items() if not callable(one)]:
            raise BadInput(f"measure {wrong[0]!r} must be a function of a model, got {told(measures[wrong[0]])}")
        if folder is None:
            yield cls(measures)
            return
        store = cls(measures, Path(folder).expanduser())
        with on_disk(store._steps):
            store._refuse_foreign()
            store._steps.mkdir(parents=True, exist_ok=True)
        with locked(store._path / LOCK, store._path):
            remove_partial(store._path)
            remove_partial(store._steps)
            store._describe()
            yield store

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder

    @property
    def _steps(self) -> Path:
        return self._path / STEPS

    def _file(self, step: int) -> Path:
        return self._steps / f"{step:012d}.safetensors"

    def _refuse_foreign(self) -> None:
        if self._path.is_file():
            raise BadInput(f"{self._path} is a file; expected a folder, or nothing")
        inside = [one for one in self._path.glob("*") if one.name not in (ABOUT, STEPS, LOCK)]
        if foreign := sorted(one.name for one in inside if one.suffix != PARTIAL):
            raise BadInput(f"{self._path} holds something else than a watched training: {', '.join(foreign[:3])}")

    def _describe(self) -> None:
        """Write which measures there are, or compare them with those that the folder has."""
        about = {name: said_of(measure) for name, measure in self.measures.items()}
        path = self._path / ABOUT
        if not path.exists():
            write_text(path, json.dumps({"measures": about}, indent=2) + "\n")
            return
        try:
            there = dict(json.loads(path.read_text(encoding="utf-8"))["measures"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{path} cannot be read: {error}") from error
        if other := sorted(name for name in {*there, *about} if there.get(name) != about.get(name)):
            raise BadInput(
                f"{self._path} holds other measures ({', '.join(other)} differ), so nothing was measured; watch into "
                "another folder"
            )

    # --------------------------------------------------------------------------------------------------------- rows

    def knows(self, step: int, key: Callable[[], str]) -> bool:
        """Whether a checkpoint was measured already; what the folder has of it is read."""
        if step in self.rows:
            return True
        if self.folder is None or not self._file(step).exists():
            return False
        with suppress(BadInput, KeyError, TypeError, ValueError):
            row, of = _read(self._file(step))
            if of == key():
                self._take(step, row)
                return True
        return False

    def add(self, step: int, label: str, model: HookedTransformer, key: Callable[[], str]) -> None:
        """Measure a model, and keep what was measured.

        Raises:
            BadInput: a model of another architecture than the others, or a measure that gives something else than a
                number, or another shape than before.
            MetricError: a measure that gives nan or something infinite.
        """
        config = {name: value for name, value in config_of(model).items() if name not in (*NO_MATTER, "dtype")}
        config = json.loads(json.dumps(config))
        self._refuse_other(label, config)
        row = Row(results=measured(model, self.measures, label), config=config)
        self._take(step, row, label)
        if self.folder is not None:
            _write(self._file(step), row, key())

    def _take(self, step: int, row: Row, label: str | None = None) -> None:
        if self.rows:
            first, one = next(iter(self.rows.items()))
            self._refuse_other(label or f"step {step}", row.config)
            for name, result in row.results.items():
                _refuse_unlike(name, result, label or f"step {step}", one.results[name], first)
        self.rows[step] = row

    def _refuse_other(self, label: str, config: Mapping[str, Json]) -> None:
        if not self.rows:
            return
        first, one = next(iter(self.rows.items()))
        for name in sorted({*config, *one.config}):
            if config.get(name) != one.config.get(name):
                raise BadInput(
                    f"the checkpoint {label!r} has {name}={config.get(name)!r}, that of step {first} "
                    f"{one.config.get(name)!r}: these are no states of one training. What was measured of the others "
                    f"is kept{'' if self.folder is not None else ' if there is save_to='}"
                )


def stacked(rows: Mapping[int, Row]) -> dict[str, Result]:
    """By measure what it gave at each step, lowest first, with an axis of steps in front."""
    steps = sorted(rows)
    found = {}
    for name, one in rows[steps[0]].results.items():
        values = torch.stack([rows[step].results[name].values for step in steps])
        found[name] = Result(metric=one.metric, axes={"step": steps, **one.axes}, values=values)
    return found


def rows_in(folder: Path) -> dict[int, Row]:
    """All that was measured into a folder, by step.

    Raises:
        BadInput: nothing was, or a file is damaged.
    """
    if not (paths := sorted((folder / STEPS).glob("*.safetensors"))):
        raise BadInput(f"nothing was measured into {folder}")
    with whole(folder):
        return {int(path.stem): _read(path)[0] for path in paths}


def said_of(measure: MeasureLike) -> Json:
    """A measure as text: its name, and a digest of the values that it is made of; of a function only the name."""
    if not dataclasses.is_dataclass(measure) or isinstance(measure, type):
        return name_of(measure)
    return f"{name_of(measure)} {digest_of(list(fields_of(measure).values()))}"


@no_gradients
def measured(model: HookedTransformer, measures: Mapping[str, MeasureLike], label: str) -> dict[str, Result]:
    """What each measure gives of a model. Random numbers that a measure draws are not missing afterwards."""
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        return {name: _checked(name, measure(model), label) for name, measure in measures.items()}


def _checked(name: str, given: Any, label: str) -> Result:
    """What a measure gave as a Result on the CPU, with its labels as plain lists."""
    result = _as_result(name, given)
    values = result.values.detach().cpu()
    sizes = [len(labels) for labels in result.axes.values()]
    if values.ndim != len(sizes) + 1 or list(values.shape[:-1]) != sizes or not values.numel():
        raise BadInput(f"measure {name!r} gave values {list(values.shape)} for axes of {sizes} entries and prompts")
    if not bool(values.isfinite().all()):
        cell = (~values.isfinite()).nonzero()[0].tolist()
        places = zip(result.axes.items(), cell, strict=False)
        where = "".join(f" at {axis} {labels[at]}" for (axis, labels), at in places)
        raise MetricError(
            f"measure {name!r} is {float(values[tuple(cell)])}{where} for the checkpoint {label!r}: leave this one out "
            "(steps=), or the measure. What was measured before is kept if there is save_to="
        )
    axes = {axis: [_plain(label) for label in labels] for axis, labels in result.axes.items()}
    return Result(metric=result.metric, axes=axes, values=values)


def _as_result(name: str, given: Any) -> Result:
    if isinstance(given, Result):
        return given
    numbers: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"": given}
    if numbers and all(fits(one, float) for one in numbers.values()):
        values = torch.tensor([float(one) for one in numbers.values()], dtype=torch.float64)
        axes = {"part": list(numbers)} if isinstance(given, Mapping) else {}
        return Result(metric=name, axes=axes, values=values[:, None] if axes else values)
    raise BadInput(
        f"measure {name!r} must give a number, numbers by name, or a Result (metric=, axes=, values= [*axes, prompt]), "
        f"got {told(given)}"
    )


def _plain(label: Any) -> int | float | str:
    if isinstance(label, int | float | str):
        return label
    return int(label) if hasattr(label, "__index__") else str(label)


def _refuse_unlike(name: str, result: Result, label: str, one: Result, first: int) -> None:
    """Raises BadInput unless two results of a measure have the same axes and as many prompts."""
    kinds = [({axis: list(labels) for axis, labels in each.axes.items()}, each.values.shape) for each in (result, one)]
    if kinds[0] != kinds[1]:
        shapes = [f"{list(each.values.shape)} with axes {list(each.axes)}" for each in (result, one)]
        raise BadInput(
            f"measure {name!r} gave {shapes[0]} for the checkpoint {label!r}, and {shapes[1]} for step {first}: it has "
            "to give the same cells and prompts for every checkpoint"
        )


# ------------------------------------------------------------------------------------------------------------- on disk


def _write(path: Path, row: Row, of: str) -> None:
    tensors = {name: result.values for name, result in row.results.items()}
    labels = {name: {"metric": one.metric, "axes": dict(one.axes)} for name, one in row.results.items()}
    document = {"config": row.config, "labels": labels, "key": of}
    write_with_digest(path, tensors, {OF: json.dumps(document)})


def _read(path: Path) -> tuple[Row, str]:
    """A row and the key of its checkpoint; raises BadInput, KeyError, TypeError or ValueError if it is damaged."""
    tensors = read_with_digest(path)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()[OF])
    results = {
        name: Result(metric=labels["metric"], axes=labels["axes"], values=tensors[name])
        for name, labels in document["labels"].items()
    }
    return Row(results=results, config=document["config"]), document["key"]
