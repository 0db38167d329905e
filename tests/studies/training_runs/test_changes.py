"""Phase changes: planted ones are found at their step, and none is where learning only slows down."""

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Result
from interp_hooks.errors import BadInput
from interp_hooks.loading.checkpoints import bundled
from interp_hooks.loading.keeping import log_steps
from interp_hooks.studies import (
    FourierShares,
    PhaseChange,
    PhaseChanges,
    WatchedTraining,
    phase_changes,
    usual_measures,
    watch_training,
)
from interp_hooks.studies.training_runs.changes import _moves
from interp_hooks.tasks import modular_addition
from tests.tiny import unchecked_types

STEPS = log_steps(20_000)
Curve = Callable[[np.ndarray], np.ndarray]


def training(steps: Sequence[int] = STEPS, rows: int = 1, spread: float = 0.0, **curves: Curve) -> WatchedTraining:
    """What a watch of such curves would give, each measured on rows that differ by a constant, and by noise."""
    generator = np.random.default_rng(0)
    results = {}
    for name, curve in curves.items():
        values = curve(np.array(steps, dtype=float))[:, None] + np.arange(rows)
        values = values + spread * generator.normal(size=values.shape)
        results[name] = Result(metric=name, axes={"step": list(steps)}, values=torch.tensor(values))
    return WatchedTraining(steps=list(steps), results=results)


def logistic(middle: float, width: float = 0.15, size: float = 1.0) -> Curve:
    """From 0 to `size`, half of it at step `middle`; `width` is the scale in units of log(1 + step)."""
    return lambda steps: size / (1 + np.exp(-(np.log1p(steps) - np.log1p(middle)) / width))


def exponential(steps: float) -> Curve:
    return lambda there: np.exp(-there / steps)


def power_law(steps: float, power: float) -> Curve:
    return lambda there: (1 + there / steps) ** -power


# ------------------------------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("middle", [20, 150, 1000, 6000])
@pytest.mark.parametrize("size", [3.0, -0.02])
def test_a_planted_change_is_found_at_its_step(middle: float, size: float) -> None:
    found = phase_changes(training(loss=logistic(middle, size=size)))
    (one,) = found.found
    assert (one.measure, one.cell, one.event) == ("loss", "", 1)
    assert one.at == pytest.approx(middle, rel=0.15)
    assert {one.begin, one.end} <= set(STEPS)
    assert one.begin < one.at < one.end <= 4 * one.begin
    assert one.move == pytest.approx(size * math.tanh(math.log(2) / 4 / 0.15), rel=0.1), "of a doubling"
    assert one.share == pytest.approx(abs(one.move / size), rel=1e-3)
    assert one.before == pytest.approx(size * 0.09, abs=abs(size) / 8)


def test_two_changes_of_a_curve_and_curves_that_change_together() -> None:
    def both(steps: np.ndarray) -> np.ndarray:
        return logistic(30)(steps) + 2 * logistic(2000)(steps) - 0.05 * np.log1p(steps)

    found = phase_changes(training(loss=both, score=logistic(2100), slow=logistic(900, width=2.0)))
    assert [[one.measure for one in event] for event in found.events()] == [["loss"], ["score", "loss"]]
    assert [event[0].at for event in found.events()] == pytest.approx([30, 2100], rel=0.15)
    assert [one.share for one in found.found] == sorted((one.share for one in found.found), reverse=True)
    table = found.table()
    assert table["event"].tolist() == [2, 2, 1]
    assert table["measure"].tolist() == ["score", "loss", "loss"]


def test_cells_are_curves_of_their_own() -> None:
    values = np.stack([logistic(middle)(np.array(STEPS)) for middle in (50, 50, 3000)] + [0 * np.array(STEPS)], axis=1)
    axes = {"step": STEPS, "layer": [0, 1], "head": [0, 1]}
    result = Result(metric="score", axes=axes, values=torch.tensor(values).reshape(-1, 2, 2, 1))
    found = phase_changes(WatchedTraining(steps=STEPS, results={"score": result}))
    assert [sorted(one.cell for one in event) for event in found.events()] == [["0 0", "0 1"], ["1 0"]]


@pytest.mark.parametrize(("scale", "shift"), [(-1.0, 0.0), (1e-4, 7.0), (1e5, -3.0)])
def test_units_do_not_matter(scale: float, shift: float) -> None:
    def noisy(steps: np.ndarray) -> np.ndarray:
        return logistic(300)(steps) + 0.01 * np.random.default_rng(1).normal(size=len(steps))

    plain, other = (
        phase_changes(training(loss=curve)).found[0] for curve in (noisy, lambda steps: shift + scale * noisy(steps))
    )
    assert (plain.begin, plain.end) == (other.begin, other.end)
    for name in ("at", "share", "sharpness", "z"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-6)
    assert other.before == pytest.approx(shift + scale * plain.before, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------- none


@pytest.mark.parametrize("steps", [STEPS, list(range(0, 3000, 100)), log_steps(5000, 1)], ids=["log", "even", "few"])
def test_learning_that_slows_down_is_no_change(steps: list[int]) -> None:
    """Exponential, by power laws, wide logistic, straight, and constant."""
    curves: dict[str, Curve] = {f"e{time}": exponential(time) for time in (5, 90, 700, 1e4)}
    curves |= {f"p{time} {power}": power_law(time, power) for time in (1, 40, 900) for power in (0.1, 1.0, 2.0)}
    curves |= {f"l{width}": logistic(400, width=width) for width in (0.6, 1.0, 2.0)}
    curves |= {"straight": lambda steps: steps, "log": np.log1p, "constant": lambda steps: 0 * steps + 5}
    found = phase_changes(training(steps, **curves))
    assert found.found == []
    assert repr(found) == f"no phase change in {len(steps)} checkpoints"
    assert found.table().empty
    assert found.events() == []


def test_the_sharpest_doubling_of_an_exponential_and_of_power_laws() -> None:
    """The numbers that the rule rests on: at most a quarter of the way, 1.25 times what its neighbours move."""
    fine = np.expm1(np.linspace(0, np.log(1e6), 3000))
    u = np.log2(1 + fine)
    for curve in (exponential(3000), power_law(300, 1.0), power_law(100, 0.3)):
        moves = _moves(u, torch.tensor(curve(fine))[:, None], 1e-9, 1e-9)
        assert max(abs(one.size) for one in moves) <= 0.2501
        large = [one for one in moves if abs(one.size) > 0.01]
        assert max(one.sharpness for one in large) <= 1.25
    largest = max(_moves(u, torch.tensor(exponential(3000)(fine))[:, None], 1e-9, 1e-9), key=lambda one: abs(one.size))
    assert abs(largest.size) == pytest.approx(0.25, abs=1e-4)
    assert 2**largest.start == pytest.approx(3000 * math.log(2), rel=0.01)


def test_no_doubling_between_those_that_are_tried_moves_more() -> None:
    steps = np.array([0, 1, 5, 7, 19, 40, 44, 130, 300, 500, 1100, 2000, 2300], dtype=float)
    u, y = np.log2(1 + steps), np.random.default_rng(3).normal(size=len(steps))
    tried = max(abs(one.size) for one in _moves(u, torch.tensor(y)[:, None], 1e-9, 1e-9))
    starts = np.linspace(u[0] + 0.5, u[-1] - 1.5, 4001)
    moves = np.interp(starts + 1, u, y) - np.interp(starts, u, y)
    assert np.abs(moves).max() <= tried + 1e-12


def test_noise_is_no_change_and_a_change_in_noise_is_one() -> None:
    """Of 300 curves that slow down, with any noise, hardly one has a change; of those with one, nearly all have it."""
    generator, false, missed = np.random.default_rng(5), 0, 0
    times = np.exp(generator.uniform(0, 9, size=300))
    for time in times:
        noise = 10 ** generator.uniform(-4, -0.5) * generator.normal(size=len(STEPS))
        false += bool(phase_changes(training(loss=lambda steps, t=time, n=noise: exponential(t)(steps) + n)).found)
    for middle in np.exp(generator.uniform(4, 8.5, size=60)):
        noise = 0.03 * generator.normal(size=len(STEPS))
        changes = phase_changes(training(loss=lambda steps, m=middle, n=noise: logistic(m)(steps) + n))
        missed += [abs(math.log(one.at / middle)) < 0.3 for one in changes.found] != [True]
    assert false <= 3
    assert missed <= 3


def test_rows_that_disagree_are_noise_too() -> None:
    """A step that few rows make is within the error of the mean."""

    def few(rows: int) -> Tensor:
        values = np.zeros((len(STEPS), rows))
        values[:, 0] = rows * logistic(300)(np.array(STEPS))
        return torch.tensor(values)

    def found(values: Tensor) -> PhaseChanges:
        result = Result(metric="loss", axes={"step": STEPS}, values=values)
        return phase_changes(WatchedTraining(steps=STEPS, results={"loss": result}))

    assert found(few(20)).found == []
    assert len(found(few(20).mean(1, keepdim=True).expand(-1, 20)).found) == 1


def test_what_cannot_be_told_is_not_found() -> None:
    """Checkpoints too far apart; a change at the end, after which nothing was seen, or at the begin."""
    step = logistic(3000, width=0.02)
    assert len(phase_changes(training(loss=step)).found) == 1
    assert phase_changes(training([0, 1, 8, 64, 512, 4096, 20_000], loss=step)).found == []
    assert phase_changes(training([one for one in STEPS if one < 3300], loss=step)).found == []
    assert phase_changes(training([one for one in STEPS if one > 2500], loss=step)).found == []


# ----------------------------------------------------------------------------------------------------------- besides


def test_thresholds() -> None:
    watched = training(loss=logistic(300, width=0.3), much=lambda steps: 100 * logistic(50)(steps))
    (first, second) = phase_changes(watched).found
    assert (first.measure, second.measure) == ("much", "loss")
    assert [one.measure for one in phase_changes(watched, sharpness=second.sharpness + 0.01).found] == ["much"]
    assert len(phase_changes(watched, sharpness=second.sharpness - 0.01).found) == 2
    assert len(phase_changes(watched, least=second.share + 0.01).found) == 1
    assert len(phase_changes(watched, z=first.z * 1.01).found) == 0
    assert [one.measure for one in phase_changes(watched, ["loss"]).found] == ["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sharpness=0.5), "sharpness must be at least 1"),
        (dict(z=0.0), "z above 0"),
        (dict(least=1.5), r"least within 0\.\.1"),
        (dict(measures=["los"]), "Did you mean loss"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        phase_changes(training(loss=logistic(30)), **options)


def test_few_checkpoints() -> None:
    with pytest.raises(BadInput, match="at least 6 checkpoints, got 5"):
        phase_changes(training(STEPS[:5], loss=logistic(3)))


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = phase_changes(training(loss=logistic(300, width=0.02), score=logistic(20)))
    found.save(tmp_path / "changes")
    again = PhaseChanges.load(tmp_path / "changes")
    assert again.found == list(found.found)
    assert isinstance(again.found[0], PhaseChange)
    assert again.table().equals(found.table())


# --------------------------------------------------------------------------------------------------- bundled trainings


@pytest.fixture(scope="module")
def induction() -> WatchedTraining:
    model = HookedTransformer.from_pretrained("induction-steps", device="cpu")
    return watch_training("induction-steps", usual_measures(model, n=8), progress=False)


def test_induction_forms_in_one_change(induction: WatchedTraining) -> None:
    """The loss falls together with the rise of induction and of K-composition, within one doubling."""
    events = phase_changes(induction).events()
    (event,) = [one for one in events if "repetition_loss" in {change.measure for change in one}]
    by_measure = {change.measure: change for change in reversed(event)}
    assert {"repetition_loss", "induction", "K_composition", "previous_token"} <= set(by_measure)
    loss, head, pair = (by_measure[name] for name in ("repetition_loss", "induction", "K_composition"))
    assert loss.move < -2
    assert head.move > 0.5
    assert head.cell.startswith("L1")
    assert pair.move > 0.05
    assert pair.cell.startswith("L0")
    assert all(300 < one.at < 620 for one in (loss, head, pair))
    assert {loss.begin, loss.end} <= set(induction.steps)


def test_the_card_of_the_bundled_training_says_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "training"))  # where a script finds its neighbours
    induction_steps = importlib.import_module("induction_steps")
    told = (bundled()["induction-steps"] / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(row[0]) for row in rows] == list(induction_steps.KEPT)
    for row in (rows[0], rows[13], rows[-1]):
        measured = induction_steps.figures(int(row[0]))
        assert [float(figure) for figure in row[1:]] == pytest.approx(measured, abs=0.002)


def test_all_that_is_stored_is_small() -> None:
    files = [file for file in bundled()["induction-steps"].rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 400_000


def test_grokking_is_a_change_of_held_out_accuracy() -> None:
    """`mod-add`: the sums that it was not trained on come right within a doubling; its waves grow for long before."""
    task = modular_addition(53)
    held_out = torch.randperm(53 * 53, generator=torch.Generator().manual_seed(1))[round(0.4 * 53 * 53) :]

    def accuracy(model: HookedTransformer) -> Tensor:
        return (model(task.clean[held_out])[:, -1].argmax(-1) == task.answer[held_out]).double().mean()

    watched = watch_training("mod-add", {"held_out": accuracy, "waves": FourierShares(p=53)}, progress=False)
    (change,) = [one for one in phase_changes(watched).found if one.measure == "held_out"]
    assert 4000 < change.at < 7000
    assert change.after - change.before > 0.5
    assert not [one for one in phase_changes(watched).found if one.measure == "waves" and one.move > 0]
