"""A sweep that is killed goes on where it was, and loses at most the batch that it was at."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    KL,
    HookedTransformer,
    Intervention,
    LogitDiff,
    Result,
    Run,
    ablate,
    at,
    causal_trace,
    optimal_ablation,
    patch,
    patch_along,
    sweep,
)
from interp_hooks.errors import BadInput
from interp_hooks.experiments.results.folders import Parts
from interp_hooks.interventions import engine
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, model_of
from tests.tiny import assert_close, build

DIFF = LogitDiff([4, 11], [7, 2])
ONE_BY_ONE = dict(max_memory=1, progress=False)


class Killed(BaseException):
    """What no experiment catches."""


@pytest.fixture(autouse=True)
def every_call_is_a_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain functions are not called once beforehand, to see what they read."""
    monkeypatch.setattr(engine, "FEW_RUNS", 10**9)


class Killing:
    """A function of logits that counts its calls and ends the process, so to speak, after some."""

    __name__ = "first_logit"

    def __init__(self, after: int) -> None:
        self.calls, self.after = 0, after

    def __call__(self, logits: Tensor) -> Tensor:
        if self.calls == self.after:
            raise Killed
        self.calls += 1
        return logits[:, -1, 0] - logits[:, -1, 1]


RESUMABLE: dict[str, Callable[..., Result]] = {
    "sweep": lambda model, metric, **options: sweep(
        model,
        lambda head: Run(TOKENS, [Intervention(at("z", 1, head=head), Run(OTHER))]),
        metric,
        over={"head": range(4)},
        baselines={"original": Run(TOKENS)},
        **options,
    ),
    "patch": lambda model, metric, **options: patch(model, TOKENS, OTHER, metric, over=("layer", "pos"), **options),
    "patch_along": lambda model, metric, **options: patch_along(
        model, TOKENS, OTHER, metric, torch.eye(12)[:3], over=("layer",), **options
    ),
    "ablate": lambda model, metric, **options: ablate(model, TOKENS, metric, method="mean", **options),
    "optimal_ablation": lambda model, metric, **options: optimal_ablation(
        model,
        TOKENS,
        metric,
        "mlp_out",
        over=("layer",),
        minimize=True,
        reference=OTHER,
        reference_metric="kl",
        steps=2,
        **options,
    ),
    "causal_trace": lambda model, metric, **options: causal_trace(
        model, TOKENS, [1], metric, samples=2, generator=torch.Generator().manual_seed(1), **options
    ),
}


@pytest.mark.parametrize("name", RESUMABLE)
def test_finished_runs_are_not_computed_again(name: str, tmp_path: Path) -> None:
    model, experiment = model_of("gpt2"), RESUMABLE[name]
    counting = Killing(after=-1)
    whole = experiment(model, counting, **ONE_BY_ONE)
    for done in (1, 2):
        killed = Killing(after=done)
        with pytest.raises(Killed):
            experiment(model, killed, **ONE_BY_ONE, save_to=tmp_path / "sweep")
    with pytest.raises(BadInput, match=r"one that is not finished; Result\.resume"):
        Result.load(tmp_path / "sweep")
    rest = Killing(after=-1)
    result = experiment(model, rest, **ONE_BY_ONE, save_to=tmp_path / "sweep")
    assert counting.calls == 1 + 2 + rest.calls
    for one in (result, Result.load(tmp_path / "sweep")):
        assert torch.equal(one.values, whole.values)
        assert one.changed == whole.changed
        assert [float(scores.sum()) for scores in one.baselines.values()] == [
            float(scores.sum()) for scores in whole.baselines.values()
        ]
    assert not (tmp_path / "sweep" / "parts").exists()
    none = Killing(after=0)
    again = experiment(model, none, **ONE_BY_ONE, save_to=tmp_path / "sweep")
    assert torch.equal(again.values, whole.values)
    assert again.interventions().equals(whole.interventions())


SCRIPT = """
import os, signal, sys
from dataclasses import dataclass
import torch
torch.set_num_threads(1)
from interp_hooks import HookedTransformer, LogitDiff, patch

model = HookedTransformer.from_pretrained("ioi-tiny")
calls = 0

@dataclass(frozen=True, eq=False)
class Counted(LogitDiff):
    def score(self, logits):
        global calls
        calls += 1
        if calls == {after}:
            {death}
        return super().score(logits)

result = patch(
    model,
    ["When Mary and John went to the store, John gave a ring to"],
    ["When Mary and John went to the store, Mary gave a ring to"],
    Counted(" Mary", " John"),
    max_memory=1,
    progress=False,
    save_to=sys.argv[1],
)
print(calls)
"""


def test_a_process_that_is_killed_loses_one_batch(tmp_path: Path) -> None:
    def run(after: int) -> subprocess.CompletedProcess[str]:
        code = SCRIPT.format(after=after, death="os.kill(os.getpid(), signal.SIGKILL)")
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "sweep")], capture_output=True, text=True, check=False
        )

    killed = run(10)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    model = HookedTransformer.from_pretrained("ioi-tiny")
    parts = Parts(tmp_path / "sweep", model.device)
    assert len(parts.known) == 9, "all but the one at which it was killed"
    done = run(-1)
    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "sweep")
    assert int(done.stdout) == result.values.numel() + 2 - 9
    expected = patch(
        model,
        ["When Mary and John went to the store, John gave a ring to"],
        ["When Mary and John went to the store, Mary gave a ring to"],
        LogitDiff(" Mary", " John"),
        progress=False,
    )
    assert_close(result.values, expected.values, 1e-5)  # float32, in other batches
    assert run(1).stdout == "0\n", "nothing is computed where the result is"


# ------------------------------------------------------------------------------------------------------------- damage


def begun(folder: Path, done: int = 5, **options: Any) -> Path:
    with pytest.raises(Killed):
        RESUMABLE["patch"](model_of("gpt2"), Killing(done), **ONE_BY_ONE, save_to=folder, **options)
    return folder


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    folder = begun(tmp_path / "sweep")
    parts = sorted((folder / "parts").iterdir())
    assert len(parts) == 5
    parts[-1].write_bytes(parts[-1].read_bytes()[:-7])
    (folder / "parts" / "00000099.safetensors.partial").write_bytes(b"half")
    rest = Killing(after=-1)
    result = RESUMABLE["patch"](model_of("gpt2"), rest, **ONE_BY_ONE, save_to=folder)
    assert rest.calls == 3 * 5 + 2 - 4
    assert torch.equal(result.values, RESUMABLE["patch"](model_of("gpt2"), Killing(-1), **ONE_BY_ONE).values)


@pytest.mark.parametrize("left", ["call.safetensors", "call.json.partial"])
def test_killed_before_the_call_was_written(left: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / left).write_bytes(b"half")
    result = RESUMABLE["patch"](model_of("gpt2"), DIFF, **ONE_BY_ONE, save_to=folder)
    assert_close(Result.load(folder).values, result.values, RTOL)


def test_killed_before_the_result_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are there; nothing has to be computed."""
    model, folder = model_of("gpt2"), tmp_path / "sweep"
    with monkeypatch.context() as patched:
        patched.setattr(Result, "packed", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            RESUMABLE["patch"](model, Killing(-1), **ONE_BY_ONE, save_to=folder)
    result = RESUMABLE["patch"](model, Killing(0), **ONE_BY_ONE, save_to=folder)
    assert torch.equal(Result.load(folder).values, result.values)


def test_batches_may_be_of_another_size(tmp_path: Path) -> None:
    folder = begun(tmp_path / "sweep")
    result = RESUMABLE["patch"](model_of("gpt2"), Killing(-1), progress=False, save_to=folder)
    assert_close(result.values, RESUMABLE["patch"](model_of("gpt2"), Killing(-1), progress=False).values, RTOL)


# ------------------------------------------------------------------------------------------------- another experiment


def other_weights() -> HookedTransformer:
    model = build()
    with torch.no_grad():
        model.blocks[2].mlp.b_out[3] += 1e-6
    return model


@pytest.mark.parametrize(
    ("experiment", "model", "metric", "differs"),
    [
        ("patch", other_weights, Killing(-1), "the model's weights"),
        ("patch", lambda: model_of("llama"), Killing(-1), "the model's weights"),
        ("patch", lambda: model_of("gpt2"), DIFF, "metric"),
        ("patch_along", lambda: model_of("gpt2"), Killing(-1), "axes, runs"),
        ("ablate", lambda: model_of("gpt2"), Killing(-1), "axes, baselines, runs, scale"),
    ],
)
def test_another_experiment_is_refused(experiment: str, model: Any, metric: Any, differs: str, tmp_path: Path) -> None:
    folder = begun(tmp_path / "sweep")
    files = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(BadInput, match=rf"holds another experiment \({differs} differ\)"):
        RESUMABLE[experiment](model(), metric, **ONE_BY_ONE, save_to=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == files


def test_other_tokens_are_another_experiment(tmp_path: Path) -> None:
    folder, model = begun(tmp_path / "sweep"), model_of("gpt2")
    other = OTHER.clone()
    other[1, 2] += 1
    with pytest.raises(BadInput, match=r"\(baselines, runs differ\)"):
        patch(model, TOKENS, other, Killing(-1), **ONE_BY_ONE, save_to=folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"something else than a result: notes\.txt"):
        RESUMABLE["patch"](model, Killing(-1), **ONE_BY_ONE, save_to=folder)


def test_what_was_drawn_without_a_seed(tmp_path: Path) -> None:
    """The same call draws other numbers, which is another experiment; `resume` goes on with the first ones."""
    model, folder = model_of("gpt2"), tmp_path / "trace"

    def trace(metric: Any) -> Result:
        return causal_trace(model, TOKENS, [1], metric, samples=2, **ONE_BY_ONE, save_to=folder)

    with pytest.raises(Killed):
        trace(Killing(4))
    with pytest.raises(BadInput, match=r"without a seed differs from call to call: Result\.resume"):
        trace(Killing(-1))
    with pytest.raises(BadInput, match="pass it as metric="):
        Result.resume(folder, model)
    rest = Killing(-1)
    result = Result.resume(folder, model, rest, **ONE_BY_ONE)
    assert rest.calls == 2 * 15 + 3 - 4
    assert result.record is not None
    assert result.record.calls[-1].function == "experiments.tracing.causal_trace"
    assert torch.equal(Result.load(folder).values, result.values)
    assert torch.equal(Result.resume(folder, model, Killing(0)).values, result.values)
    with pytest.raises(BadInput, match="nothing was begun"):
        Result.resume(tmp_path / "nowhere", model)


def test_resume_needs_the_same_model(tmp_path: Path) -> None:
    folder = begun(tmp_path / "sweep")
    with pytest.raises(BadInput, match="weights are not those"):
        Result.resume(folder, other_weights(), Killing(-1))


def test_a_metric_that_looks_things_up_is_kept_with_what_it_found(tmp_path: Path) -> None:
    model, folder = model_of("gpt2"), tmp_path / "kl"
    result = ablate(model, TOKENS, KL(TOKENS), progress=False, save_to=folder)
    again = Result.load(folder).rerun(model, progress=False)
    assert torch.equal(again.values, result.values)


def test_a_result_is_not_overwritten_by_resuming(tmp_path: Path) -> None:
    model, folder = model_of("gpt2"), tmp_path / "result"
    saved = RESUMABLE["patch"](model, DIFF, **ONE_BY_ONE)
    saved.save(folder)
    same = RESUMABLE["patch"](model, DIFF, **ONE_BY_ONE, save_to=folder)
    assert torch.equal(same.values, saved.values)
    with pytest.raises(BadInput, match="another experiment"):
        RESUMABLE["ablate"](model, DIFF, **ONE_BY_ONE, save_to=folder)
    shutil.rmtree(folder)
    RESUMABLE["ablate"](model, DIFF, **ONE_BY_ONE, save_to=folder)
