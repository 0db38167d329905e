"""Trainings watched: rows that are what direct evaluation gives, whatever the order, and after being killed."""

import json
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Result
from interp_hooks.errors import BadInput, FolderInUse, MetricError
from interp_hooks.loading.keeping import CheckpointSaver
from interp_hooks.model import HookedTransformerTrainConfig, train
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.studies import (
    NextTokenLoss,
    TrainingWatch,
    WatchedTraining,
    WeightNorms,
    training_checkpoints,
    usual_measures,
    watch_training,
)
from tests.tiny import build, random_tokens, unchecked_types

TOKENS = random_tokens(4, 7, 23)
FIELDS = dict(d_vocab_out=23)
MODELS = {step: build(seed=step, **FIELDS) for step in (0, 3, 10, 40, 200)}


def mean_weight(model: HookedTransformer) -> float:
    return float(model.W_E.detach().mean())


def by_layer(model: HookedTransformer) -> Result:
    values = torch.stack([block.mlp.b_in.detach()[:2] for block in model.blocks])
    return Result(metric="bias", axes={"layer": range(3)}, values=values)


MEASURES = {
    "loss": NextTokenLoss(tokens=TOKENS),
    "norm": WeightNorms(),
    "mean": mean_weight,
    "bias": by_layer,
    "two": lambda model: {"in": model.W_E.norm(), "out": float(model.W_U.norm())},
}


def watched(source: Any = MODELS, measures: Mapping[str, Any] = MEASURES, **options: Any) -> WatchedTraining:
    return watch_training(source, measures, progress=False, **options)


def assert_same(one: WatchedTraining, other: WatchedTraining) -> None:
    assert one.steps == other.steps
    assert list(one.results) == list(other.results)
    for name, result in one.results.items():
        assert result.axes == other[name].axes
        assert torch.equal(result.values, other[name].values), name


# ------------------------------------------------------------------------------------------------------------ numbers


def test_every_row_is_what_the_measures_give_of_that_model() -> None:
    found = watched()
    assert found.steps == sorted(MODELS)
    for place, model in enumerate(MODELS.values()):
        for name in ("loss", "norm", "bias"):
            assert torch.equal(found[name].values[place], MEASURES[name](model).values)
        assert float(found["mean"].mean[place]) == mean_weight(model)
        assert found["two"].mean[place].tolist() == [float(model.W_E.detach().norm()), float(model.W_U.detach().norm())]
    assert found["two"].axes == {"step": found.steps, "part": ["in", "out"]}
    assert found["bias"].axes == {"step": found.steps, "layer": [0, 1, 2]}


def test_the_last_row_of_a_bundled_training_is_the_model() -> None:
    model = HookedTransformer.from_pretrained_no_processing("induction-steps", device="cpu")
    measures = usual_measures(model, n=4)
    found = watched(training_checkpoints("induction-steps", steps=[0, 1024], device="cpu"), measures)
    for name, measure in measures.items():
        assert torch.equal(found[name].values[-1], measure(model).values)
        assert not torch.equal(found[name].values[0], found[name].values[1])


def test_the_order_of_checkpoints_does_not_matter() -> None:
    checkpoints = training_checkpoints(MODELS)
    shuffled = random.Random(0).sample(checkpoints, len(checkpoints))
    assert [one.step for one in shuffled] != [one.step for one in checkpoints]
    assert_same(watched(shuffled), watched(dict(reversed(MODELS.items()))))


def test_the_straight_way_between_two_models() -> None:
    """Weights are linear on it, whoever of the two is the first; at its ends are the models."""
    first, last = MODELS[0].state_dict(), MODELS[200].state_dict()
    parts = [0, 1, 2, 3, 4]

    def way(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        return {part: {name: one[name] + part / 4 * (other[name] - one[name]) for name in one} for part in parts}

    options = dict(cfg=MODELS[0].cfg, device="cpu")
    there, back = (watched(training_checkpoints(way(*ends), **options)) for ends in ((first, last), (last, first)))
    means = there["mean"].mean
    expected = mean_weight(MODELS[0]) + torch.arange(5).double() / 4 * (
        mean_weight(MODELS[200]) - mean_weight(MODELS[0])
    )
    torch.testing.assert_close(means, expected, rtol=1e-12, atol=1e-14)
    for name in MEASURES:
        torch.testing.assert_close(there[name].values, back[name].values.flip(0), rtol=1e-9, atol=1e-12)
    for place, model in ((0, MODELS[0]), (4, MODELS[200])):
        torch.testing.assert_close(there["loss"].values[place], MEASURES["loss"](model).values, rtol=1e-12, atol=0)


def test_tables() -> None:
    found = watched()
    table = found.table()
    assert table["step"].tolist() == found.steps
    assert table["loss"].tolist() == found["loss"].mean.tolist()
    most = int((found["bias"].mean.amax(0) - found["bias"].mean.amin(0)).argmax())
    assert table[f"bias {most}"].tolist() == found["bias"].mean[:, most].tolist()
    tidy = found.tidy()
    assert len(tidy) == 5 * (1 + len(found["norm"].axes["weight"]) + 1 + 3 + 2)
    row = tidy.query("step == 10 and measure == 'bias' and cell == '1'").iloc[0]
    assert row["value"] == float(found["bias"].mean[2, 1])
    assert row["standard_error"] == pytest.approx(float(found["bias"].standard_error[2, 1]))
    assert tidy.query("measure == 'mean'")["standard_error"].isna().all()
    with pytest.raises(BadInput, match=r"no measure 'los'; .* Did you mean loss"):
        found["los"]


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = watched()
    found.save(tmp_path / "watched")
    assert_same(WatchedTraining.load(tmp_path / "watched"), found)


# ------------------------------------------------------------------------------------------------ one model in memory


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("to_disk", [False, True])
def test_one_model_is_in_memory_at_a_time(to_disk: bool, tmp_path: Path) -> None:
    made: list[weakref.ref[HookedTransformer]] = []

    def load(seed: int) -> HookedTransformer:
        assert [one() for one in made if one() is not None] == [], "the one before is gone before the next is made"
        model = build(seed=seed, **FIELDS)
        made.append(weakref.ref(model))
        return model

    loads: dict[int, Callable[[], HookedTransformer]] = {step: lambda step=step: load(step) for step in range(4)}
    found = watched(loads, save_to=tmp_path / "w" if to_disk else None)
    assert len(made) == 4
    assert [one() for one in made] == [None] * 4
    assert found["loss"].mean.shape == (4,)


# ------------------------------------------------------------------------------------------------------ killed, resumed


class Counted:
    """Checkpoints that note which of them was loaded; at one of them the process is killed."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.loaded: list[int] = []
        self.killed_at = killed_at

    def checkpoints(self) -> dict[int, Callable[[], HookedTransformer]]:
        return {step: lambda step=step: self._load(step) for step in MODELS}

    def _load(self, step: int) -> HookedTransformer:
        if step == self.killed_at:
            raise KeyboardInterrupt
        self.loaded.append(step)
        return MODELS[step]


@pytest.mark.parametrize("killed_at", [0, 10, 200])
def test_a_watch_that_was_killed_goes_on_where_it_was(killed_at: int, tmp_path: Path) -> None:
    first, second = Counted(killed_at), Counted()
    with pytest.raises(KeyboardInterrupt):
        watched(first.checkpoints(), save_to=tmp_path / "w")
    (tmp_path / "w" / "steps" / ".x.partial").mkdir()  # what a killed writer leaves
    found = watched(second.checkpoints(), save_to=tmp_path / "w")
    assert first.loaded == [step for step in MODELS if step < killed_at]
    assert second.loaded == [step for step in MODELS if step >= killed_at]
    assert_same(found, watched())
    third = Counted()
    assert_same(watched(third.checkpoints(), save_to=tmp_path / "w"), found)
    assert third.loaded == []
    assert sorted(one.name for one in (tmp_path / "w").iterdir()) == ["steps", "watch.json"]


KILLED = """
import os, signal
from pathlib import Path
from interp_hooks.studies import watch_training
from tests.tiny import build

def norm(model):
    if (Path(%r) / "steps" / "000000000003.safetensors").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return float(model.W_E.detach().norm())

norm.__module__ = %r
watch_training({step: build(seed=step, d_vocab_out=23) for step in (0, 3, 10, 40)}, {"norm": norm}, save_to=%r)
"""


def norm(model: HookedTransformer) -> float:
    return float(model.W_E.detach().norm())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_that_was_killed_outright_loses_nothing(tmp_path: Path) -> None:
    place, root = str(tmp_path / "w"), Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED % (place, __name__, place)], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert WatchedTraining.read(place).steps == [0, 3]
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "w" / "steps").glob("*.safetensors")}
    models = {step: MODELS[step] for step in (0, 3, 10, 40)}
    assert_same(watched(models, {"norm": norm}, save_to=place), watched(models, {"norm": norm}))
    for name, written in files.items():
        assert (tmp_path / "w" / "steps" / name).stat().st_mtime_ns == written, "it was not measured again"


def test_new_changed_and_damaged_checkpoints_are_measured(tmp_path: Path) -> None:
    states = {step: dict(MODELS[step].state_dict()) for step in (0, 3, 10)}
    cfg = MODELS[0].cfg

    def measure() -> tuple[list[int], WatchedTraining]:
        seen: list[int] = []
        found = watched(
            training_checkpoints(states, cfg=cfg, device="cpu"),
            {"mean": mean_weight, "noted": lambda model: seen.append(1) or 1.0},
            save_to=tmp_path / "w",
        )
        return seen, found

    assert len(measure()[0]) == 3
    states[40] = dict(MODELS[40].state_dict())
    states[3] = dict(MODELS[200].state_dict())
    path = tmp_path / "w" / "steps" / "000000000010.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    seen, found = measure()
    assert len(seen) == 3, "one is new, one was changed, one is damaged"
    assert found["mean"].mean.tolist() == [mean_weight(MODELS[step]) for step in (0, 200, 10, 40)]
    del states[40]
    assert measure()[1].steps == [0, 3, 10], "what is no longer among the checkpoints is left out"


def test_checkpoints_in_files_are_recognised(tmp_path: Path) -> None:
    for step in (0, 10):
        MODELS[step].save_pretrained(tmp_path / "run" / f"step{step}")
    seen: list[int] = []
    measures = {"mean": lambda model: seen.append(1) or mean_weight(model)}
    watched(tmp_path / "run", measures, save_to=tmp_path / "w")
    MODELS[200].save_pretrained(tmp_path / "run" / "step10")
    found = watched(tmp_path / "run", measures, save_to=tmp_path / "w")
    assert len(seen) == 3
    assert found["mean"].mean.tolist() == [mean_weight(MODELS[0]), mean_weight(MODELS[200])]


def test_what_was_measured_is_read_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        watched(Counted(killed_at=40).checkpoints(), save_to=tmp_path / "w")
    there = WatchedTraining.read(tmp_path / "w")
    assert_same(there, watched({step: MODELS[step] for step in (0, 3, 10)}))
    path = tmp_path / "w" / "steps" / "000000000003.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadInput, match="cannot be read"):
        WatchedTraining.read(tmp_path / "w")
    with pytest.raises(BadInput, match="nothing was measured into"):
        WatchedTraining.read(tmp_path / "nowhere")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    watched(save_to=tmp_path / "w")
    about = (tmp_path / "w" / "watch.json").read_text()
    other = MEASURES | {"loss": NextTokenLoss(tokens=TOKENS.flip(0))}
    with pytest.raises(BadInput, match=r"holds other measures \(loss differ\)"):
        watched(measures=other, save_to=tmp_path / "w")
    with pytest.raises(BadInput, match=r"holds other measures \(more differ\)"):
        watched(measures=MEASURES | {"more": mean_weight}, save_to=tmp_path / "w")
    assert (tmp_path / "w" / "watch.json").read_text() == about
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday").touch()
    with pytest.raises(BadInput, match="holds something else than a watched training: monday"):
        watched(save_to=tmp_path / "diary")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        watched(save_to=tmp_path / "file")
    (tmp_path / "w" / "watch.json").write_text("{")
    with pytest.raises(BadInput, match=r"watch\.json cannot be read"):
        watched(save_to=tmp_path / "w")
    (tmp_path / "w" / "watch.json").write_text(about)
    with locked(tmp_path / "w" / LOCK, tmp_path / "w"), pytest.raises(FolderInUse):
        watched(save_to=tmp_path / "w")
    assert json.loads(about)["measures"]["mean"].endswith("test_watching.mean_weight")


# ------------------------------------------------------------------------------------------------------------ bad input


def test_another_architecture_in_the_middle(tmp_path: Path) -> None:
    models, seen = MODELS | {10: build(n_layers=2, **FIELDS)}, []
    with pytest.raises(BadInput, match="'step 10' has n_layers=2, that of step 0 3"):
        watched(models, {"seen": lambda model: seen.append(model.cfg.n_layers) or 1.0})
    assert seen == [3, 3], "it was not measured"
    with pytest.raises(BadInput, match="'step 10' has n_layers=2"):
        watched(models, {"mean": mean_weight}, save_to=tmp_path / "w")
    counted = Counted()
    sources: dict[int, Any] = counted.checkpoints() | {0: MODELS[0], 3: MODELS[3]}
    found = watched(sources, {"mean": mean_weight}, save_to=tmp_path / "w")
    assert found["mean"].mean.tolist() == [mean_weight(model) for model in MODELS.values()]
    assert len(list((tmp_path / "w" / "steps").iterdir())) == 5


def of_step(**given: Any) -> Callable[[HookedTransformer], Any]:
    """A measure that gives `late` for the model of step 10 and `early` for all others."""
    return lambda model: given["late"] if torch.equal(model.W_E, MODELS[10].W_E) else given["early"]


def grid(*shape: int, names: str = "xyz") -> Result:
    axes = {name: list(range(size)) for name, size in zip(names, shape[:-1], strict=False)}
    return Result(metric="m", axes=axes, values=torch.zeros(shape))


@pytest.mark.parametrize(
    ("measure", "error", "message"),
    [
        (of_step(early=grid(2, 1), late=grid(3, 1)), BadInput, r"gave \[3, 1\] .* 'step 10', and \[2, 1\] .* step 0"),
        (of_step(early=grid(2, 1), late=grid(2, 1, names="ab")), BadInput, r"axes \['a'\] .* axes \['x'\]"),
        (of_step(early=grid(2, 1), late=grid(2, 4)), BadInput, r"gave \[2, 4\]"),
        (of_step(early=1.0, late=float("nan")), MetricError, "measure 'it' is nan for the checkpoint 'step 10'"),
        (
            of_step(early={"a": 1.0, "b": 2.0}, late={"a": 1.0, "b": float("inf")}),
            MetricError,
            "is inf at part b for the checkpoint 'step 10'",
        ),
        (of_step(early=1.0, late="much"), BadInput, "must give a number, .* got 'much'"),
        (of_step(early=1.0, late=torch.zeros(2)), BadInput, r"got a torch.float32 tensor \[2\]"),
        (of_step(early=1.0, late={}), BadInput, "must give a number"),
        (of_step(early=1.0, late=1 + 2j), BadInput, "must give a number"),
        (lambda model: Result(metric="m", axes={"x": [0]}, values=torch.zeros(2, 1)), BadInput, r"values \[2, 1\]"),
    ],
)
def test_measures_that_give_something_else(measure: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with unchecked_types(), pytest.raises(error, match=message):
        watched(measures={"mean": mean_weight, "it": measure}, save_to=tmp_path / "w")
    kept = {one.stem for one in (tmp_path / "w" / "steps").iterdir()}
    assert kept <= {"000000000000", "000000000003"}, "nothing of the checkpoint that failed"
    assert not (tmp_path / "w" / LOCK).exists()


def test_an_error_of_ones_own_keeps_what_was_measured(tmp_path: Path) -> None:
    def fails(model: HookedTransformer) -> float:
        if torch.equal(model.W_E, MODELS[10].W_E):
            raise ZeroDivisionError
        return 1.0

    with pytest.raises(ZeroDivisionError):
        watched(measures={"it": fails}, save_to=tmp_path / "w")
    assert len(list((tmp_path / "w" / "steps").iterdir())) == 2


@pytest.mark.parametrize(
    ("checkpoints", "measures", "message"),
    [
        (MODELS, {}, "by name, at least one, got dict"),
        (MODELS, {"loss": 3}, "measure 'loss' must be a function of a model, got int 3"),
        ([], MEASURES, "checkpoints must be what training_checkpoints gives"),
        ([MODELS[0]], MEASURES, "checkpoints must be what training_checkpoints gives"),
        (3, MEASURES, "to states, got int 3"),
        (MODELS, [len], r"got list \[<built-in"),
        (training_checkpoints(MODELS) * 2, MEASURES, "two checkpoints of step 0"),
    ],
)
def test_bad_input(checkpoints: Any, measures: Any, message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        watched(checkpoints, measures)


# -------------------------------------------------------------------------------------------------- while it is trained


def test_watching_a_training_changes_nothing_and_sees_what_is_saved(tmp_path: Path) -> None:
    data, settings = list(random_tokens(12, 6, 23)), dict(num_epochs=2, batch_size=4, print_every=None)
    config, ends = HookedTransformerTrainConfig(**settings), []

    def draws(model: HookedTransformer) -> float:
        return float(torch.rand(()))

    measures = {**MEASURES, "loss": NextTokenLoss(tokens=TOKENS[:, :6]), "draws": draws}
    watch, saver = TrainingWatch(measures, at=[0, 1, 4, 6], save_to=tmp_path / "w"), CheckpointSaver(tmp_path / "run")
    for each in (None, watch, saver):
        model = build(seed=5, **FIELDS)
        torch.manual_seed(3)
        train(model, config, data, each_step=each)
        ends.append((model.state_dict(), torch.rand(())))
    for state, random_number in ends[1:]:
        assert all(torch.equal(state[name], ends[0][0][name]) for name in state)
        assert torch.equal(random_number, ends[0][1])
    own, of_files = watch.watched(), watched(tmp_path / "run", {"loss": measures["loss"]})
    assert own.steps == [0, 1, 4, 6]
    assert of_files.steps == [0, 1, 2, 3, 4, 6]
    assert torch.equal(own["loss"].values, of_files["loss"].values[[0, 1, 4, 5]])
    assert len(list((tmp_path / "w" / "steps").iterdir())) == 4


def test_a_watch_without_anything() -> None:
    watch = TrainingWatch({"mean": mean_weight})
    with pytest.raises(BadInput, match="nothing was measured yet"):
        watch.watched()
    for step in range(10):
        watch(step, MODELS[0])
    assert watch.watched().steps == [0, 1, 2, 3, 4, 6, 8]


def test_a_training_that_begins_anew_is_measured_anew(tmp_path: Path) -> None:
    watch = TrainingWatch({"mean": mean_weight}, at=[0, 8, 16], save_to=tmp_path / "w")
    for step, model in ((8, MODELS[0]), (16, MODELS[3]), (0, MODELS[10]), (8, MODELS[40])):
        watch(step, model)
    found = watch.watched()
    assert found.steps == [0, 8, 16]
    assert found["mean"].mean.tolist() == [mean_weight(MODELS[one]) for one in (10, 40, 3)]
