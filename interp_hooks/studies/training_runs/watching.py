"""A training watched: the same measures of one checkpoint after the other, or of the model while it is trained.

watched = watch_training("induction-steps", measures)      afterwards, one model in memory at a time
watch = TrainingWatch(measures); watch(step, model)        meanwhile, in any loop; watch.watched() in the end

watched["induction"]      a Result with axes step and head
watched.table()           a row for each step
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Elsewhere, checked, told
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.tables import pd
from interp_hooks.loading.keeping import AtSteps
from interp_hooks.model.identity import weights_hash
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.training_runs.checkpoints import Checkpoint, training_checkpoints
from interp_hooks.studies.training_runs.measures import MeasureLike
from interp_hooks.studies.training_runs.store import Row, Store, rows_in, stacked

CheckpointsLike = str | Path | Mapping[int, Any] | Sequence[Checkpoint]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WatchedTraining(Kept):
    """What measures gave at the steps of a training: `watched["loss"]` is a Result whose first axis is `step`.

    Prints as its table; can be saved and loaded. `read` gives what was measured into a folder, `save_to=`, so far.
    """

    steps: Sequence[int]
    results: Mapping[str, Result]

    @classmethod
    @checked
    def read(cls, folder: str | Path) -> WatchedTraining:
        """All that `watch_training` or `TrainingWatch` has measured into a folder, whatever became of them.

        Raises:
            BadInput: nothing was, or a file is damaged.
        """
        return _watched(rows_in(Path(folder).expanduser()))

    def __getitem__(self, name: str) -> Result:
        """What a measure gave.

        Raises:
            BadInput: there is no such measure.
        """
        if name not in self.results:
            raise BadInput(
                f"there is no measure {name!r}; there are {', '.join(self.results)}.{nearest(name, self.results)}"
            )
        return self.results[name]

    def table(self) -> pd.DataFrame:
        """A row for each step; a column for each measure, of a grid that for the cell that moved most."""
        columns: dict[str, Any] = {"step": list(self.steps)}
        for name, result in self.results.items():
            labels, curves = curves_of(result)
            most = int((curves.amax(0) - curves.amin(0)).argmax())
            columns[f"{name} {labels[most]}".strip()] = curves[:, most].tolist()
        return pd.DataFrame(columns)

    def tidy(self) -> pd.DataFrame:
        """A row for each step, measure and cell of its grid: `step`, `measure`, `cell`, `value`, `standard_error`.

        The error is that of a mean over rows of tokens; nan for what is measured once.
        """
        tables = []
        for name, result in self.results.items():
            labels, curves = curves_of(result)
            n = len(labels)
            columns = {
                "step": [step for step in self.steps for _ in range(n)],
                "measure": name,
                "cell": list(labels) * len(self.steps),
                "value": curves.flatten().tolist(),
                "standard_error": result.standard_error.flatten().tolist(),
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def _fields(self) -> dict[str, Any]:
        fields = ("metric", "axes", "values")
        results = {name: {field: getattr(one, field) for field in fields} for name, one in self.results.items()}
        return {"steps": list(self.steps), "results": results}

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"results": {name: Result(**one) for name, one in fields["results"].items()}}


def curves_of(result: Result) -> tuple[list[str], Float[Tensor, "step cell"]]:
    """The cells of a result with an axis of steps as labels, and their means over prompts, float64 [step, cell].

    A result without other axes has one cell, whose label is ''.
    """
    axes = list(result.axes.values())[1:]
    labels = [" ".join(str(label) for label in cell) for cell in itertools.product(*axes)]
    return labels, result.mean.double().reshape(len(result.axes["step"]), -1)


@checked
def watch_training(
    checkpoints: Annotated[CheckpointsLike, Elsewhere()],
    measures: Annotated[Mapping[str, MeasureLike], Elsewhere()],
    *,
    save_to: str | Path | None = None,
    progress: bool = True,
) -> WatchedTraining:
    """Measure every checkpoint of a training, each loaded, measured and let go before the next.

    `checkpoints` are what `training_checkpoints` lists, or what it takes. `measures` are functions of a model by name,
    which give a number, numbers by name, or a Result: those of `usual_measures`, or your own. With `save_to` what was
    measured is kept in that folder, a file for each checkpoint; called again, after it was killed or with more
    checkpoints, it measures those that are new or were written since. (Of functions only the names are kept: one that
    was changed needs another folder.)

    Raises:
        BadInput: no checkpoints, two of one step, models of different architectures, a measure that gives other cells
            for one checkpoint than for another, or a folder with something else or with other measures.
        MetricError: a measure that gives nan or something infinite.
        CheckpointError: a checkpoint that cannot be loaded.
        FolderInUse: another process watches into that folder.

    >>> from interp_hooks.studies import WeightNorms, watch_training
    >>> watched = watch_training("mod-add", {"norm": WeightNorms(), "bias": lambda model: model.b_U.norm()})
    >>> watched["norm"].axes["weight"][0], len(watched.steps)
    ('embed.W_E', 11)
    """
    if isinstance(checkpoints, str | Path | Mapping):
        checkpoints = training_checkpoints(checkpoints)
    if (
        not isinstance(checkpoints, Sequence)
        or not checkpoints
        or not all(isinstance(one, Checkpoint) for one in checkpoints)
    ):
        raise BadInput(
            "checkpoints must be what training_checkpoints gives, or a name, a folder or a mapping from steps to "
            f"states, got {told(checkpoints)}"
        )
    ordered = sorted(checkpoints, key=lambda one: one.step)
    for one, other in itertools.pairwise(ordered):
        if one.step == other.step:
            raise BadInput(f"there are two checkpoints of step {one.step}: {one.label!r} and {other.label!r}")
    with Store.opened(measures, save_to) as store:
        for checkpoint in progress_bar(ordered, progress=progress, desc="checkpoints"):
            if not store.knows(checkpoint.step, checkpoint.key):
                store.add(checkpoint.step, checkpoint.label, checkpoint.load(), checkpoint.key)
        return _watched(store.rows)


class TrainingWatch(AtSteps):
    """Measures a model while it is trained: call it with each step and the model, or hand it to `train(each_step=)`.

    What it measures, at the steps `at` (default: evenly on a logarithmic axis), changes neither the model nor the
    random numbers that the training draws. With `save_to` it is kept in that folder, too, where `WatchedTraining.read`
    finds it if the training was killed; one that begins anew measures anew. `watched()` gives what there is so far.

    Raises:
        BadInput: as `watch_training`.

    >>> from interp_hooks.studies import TrainingWatch, WeightNorms
    >>> watch = TrainingWatch({"norm": WeightNorms()}, at=[0, 10])
    >>> for step in range(11):
    ...     watch(step, model)
    >>> watch.watched().steps
    [0, 10]
    """

    @checked
    def __init__(
        self,
        measures: Annotated[Mapping[str, MeasureLike], Elsewhere()],
        *,
        at: Collection[int] | None = None,
        save_to: str | Path | None = None,
    ) -> None:
        super().__init__(at)
        self.measures, self.save_to = measures, save_to
        with Store.opened(measures, save_to) as store:
            self._store = store

    def do(self, step: int, model: HookedTransformer) -> None:
        with Store.opened(self.measures, self.save_to) as store:
            store.rows = self._store.rows
            store.add(step, f"step {step}", model, lambda: weights_hash(model))

    def watched(self) -> WatchedTraining:
        """What was measured so far.

        Raises:
            BadInput: nothing was.
        """
        if not self._store.rows:
            raise BadInput("nothing was measured yet: call the watch with a step and the model")
        return _watched(self._store.rows)


def _watched(rows: Mapping[int, Row]) -> WatchedTraining:
    return WatchedTraining(steps=sorted(rows), results=stacked(rows))
