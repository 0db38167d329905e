"""One process at a time writes to a folder; what the disk refuses is told; what is damaged is not computed with."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp_hooks import ActivationCache, Circuit, LogitDiff, Result, ablate, eap, patch
from interp_hooks.errors import BadInput, DiskError, FolderInUse
from interp_hooks.experiments.results.folders import Parts
from interp_hooks.interventions import engine
from interp_hooks.model import tensor_files
from tests.children import in_a_child
from tests.experiments.by_hand import OTHER, TOKENS, model_of

DIFF = LogitDiff([4, 11], [7, 2])
SAVED = Path(__file__).parents[2] / "data" / "saved"
ONE_BY_ONE: dict[str, Any] = dict(max_memory=1, progress=False)
KINDS: dict[str, Callable[..., Result]] = {
    "patch": lambda **options: patch(
        model_of("gpt2"), TOKENS, OTHER, DIFF, "z", max_memory=1, progress=False, **options
    ),
    "noise": lambda **options: patch(
        model_of("gpt2"), TOKENS, OTHER, DIFF, "z", direction="noise", max_memory=1, progress=False, **options
    ),
    "ablate": lambda **options: ablate(model_of("gpt2"), TOKENS, DIFF, max_memory=1, progress=False, **options),
}


@pytest.fixture(autouse=True)
def every_call_is_a_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain functions are not called once beforehand, to see what they read."""
    monkeypatch.setattr(engine, "FEW_RUNS", 10**9)


class Waiting:
    """A metric that stops for good at one of its calls, having made a file to tell."""

    __name__ = "first_logit"

    def __init__(self, at: int, told: Path) -> None:
        self.at, self.told = at, told

    def __call__(self, logits: Tensor) -> Tensor:
        self.at -= 1
        if self.at == 0:
            self.told.touch()
            time.sleep(60)
        return logits[:, -1, 0]


def waits_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} was not made")


def by_function(metric: Any, folder: Path) -> Result:
    return ablate(model_of("gpt2"), TOKENS, metric, "z", max_memory=1, progress=False, save_to=folder)


# ------------------------------------------------------------------------------------------------------- one at a time


def test_who_comes_second_is_told_and_may_come_again(tmp_path: Path) -> None:
    """Whether for the same experiment or for another one; a killed process is in nobody's way."""
    folder, told = tmp_path / "sweep", tmp_path / "told"
    first = in_a_child(lambda: by_function(Waiting(5, told), folder))
    waits_for(told)
    for second in (lambda: by_function(Waiting(0, told), folder), lambda: KINDS["patch"](save_to=folder)):
        with pytest.raises(FolderInUse, match=rf"sweep is being written by process {first.id} on .* since "):
            second()
    with pytest.raises(FolderInUse, match=f"process {first.id}"):
        KINDS["patch"]().save(folder, overwrite=True)
    first.kill()
    assert len(Parts(folder, torch.device("cpu")).known) == 4
    with pytest.raises(BadInput, match="holds another experiment"):
        KINDS["patch"](save_to=folder)
    counting = Waiting(0, told)
    found = by_function(counting, folder)
    assert -counting.at == 3 * 4 + 1 - 4, "the runs that were finished are not computed again"
    assert torch.equal(found.values, by_function(Waiting(0, told), tmp_path / "other").values)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("call", "result") for kind in ("json", "safetensors")
    )


def test_threads_are_told_too(tmp_path: Path) -> None:
    begun, done = threading.Event(), threading.Event()

    def metric(logits: Tensor) -> Tensor:
        begun.set()
        done.wait(60)
        return logits[:, -1, 0]

    first = threading.Thread(target=lambda: by_function(metric, tmp_path / "sweep"))
    first.start()
    begun.wait(60)
    try:
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
            KINDS["patch"](save_to=tmp_path / "sweep")
    finally:
        done.set()
        first.join()
    assert Result.load(tmp_path / "sweep").metric == "metric"


class Dying:
    """A metric whose process ends at the first call and leaves a child behind."""

    __name__ = "first_logit"

    def __init__(self, told: Path | None) -> None:
        self.told = told

    def __call__(self, logits: Tensor) -> Tensor:
        if self.told is not None:
            self.told.write_text(str(in_a_child(lambda: time.sleep(30)).id))
            os._exit(9)
        return logits[:, -1, 0]


def test_a_child_of_the_process_keeps_no_lock(tmp_path: Path) -> None:
    """Workers that were forked while it computed may outlive it."""
    assert in_a_child(lambda: by_function(Dying(tmp_path / "told"), tmp_path / "sweep")).wait() == 9
    worker = int((tmp_path / "told").read_text())
    try:
        assert by_function(Dying(None), tmp_path / "sweep").metric == "first_logit"
    finally:
        os.kill(worker, signal.SIGKILL)  # it is still there


@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(KINDS, 2)), ids="-".join)
def test_pairs_that_start_together(pair: tuple[str, str], tmp_path: Path) -> None:
    """What is in the folder in the end is one experiment, with its own record."""
    folder = tmp_path / "sweep"
    told = [one.told() for one in [in_a_child(lambda kind=kind: KINDS[kind](save_to=folder).metric) for kind in pair]]
    assert "logit_diff" in told
    for words in told:
        assert words.startswith(("logit_diff", "FolderInUse: ", f"BadInput: {folder} holds another")), words
    result = Result.load(folder)
    assert torch.equal(result.rerun(model_of("gpt2"), **ONE_BY_ONE).values, result.values)
    assert not (folder / "lock").exists()


def _save(value: Any, folder: Path) -> str:
    value.save(folder, overwrite=True)
    return "saved"


@pytest.mark.parametrize("kind", ["result", "circuit", "cache", "model"])
def test_what_is_saved_together_is_one_of_both(kind: str, tmp_path: Path) -> None:
    """Two processes save to one place: one of them, or both in turn."""
    model, other = model_of("gpt2"), model_of("neox")
    values: list[Any] = {
        "result": lambda: [KINDS["patch"](), KINDS["noise"]()],
        "circuit": lambda: [eap(model, TOKENS, OTHER, DIFF), eap(model, OTHER, TOKENS, DIFF)],
        "cache": lambda: [model.run_with_cache(tokens)[1] for tokens in (TOKENS, OTHER)],
        "model": lambda: [model, other],
    }[kind]()
    save = _save if kind != "model" else (lambda value, folder: value.save_pretrained(folder) or "saved")
    place = tmp_path / "place"
    told = [one.told() for one in [in_a_child(lambda value=value: save(value, place)) for value in values]]
    assert all(one == "saved" or one.startswith("FolderInUse") for one in told), told
    if kind == "model":
        found = type(model).from_pretrained_no_processing(str(place), device="cpu")
        assert any(torch.equal(found(TOKENS), one(TOKENS)) for one in values)
    elif kind == "cache":
        assert any(torch.equal(ActivationCache.load(place)["z", 1], one["z", 1]) for one in values)
    elif kind == "circuit":
        circuit = Circuit.load(place)
        assert circuit.scores == circuit.rerun(model).scores
    else:
        result = Result.load(place)
        assert torch.equal(result.values, result.rerun(model, **ONE_BY_ONE).values)
    assert not [path.name for path in tmp_path.rglob("*") if "partial" in path.name or "lock" in path.name]


# ------------------------------------------------------------------------------------------------------------- the disk


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may be larger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 300, 1500])
def test_what_the_disk_refuses_leaves_what_was_there(size: int, tmp_path: Path) -> None:
    model, refused = model_of("gpt2"), r"cannot be written: the file is larger than files may be there"
    result, circuit = KINDS["patch"](), eap(model, TOKENS, OTHER, DIFF)
    cache = model.run_with_cache(TOKENS)[1]
    for value, name in ((result, "result"), (circuit, "circuit"), (cache, "cache")):
        for overwrite in (False, True):
            with small_files(size), pytest.raises(DiskError, match=refused):
                value.save(tmp_path / name, overwrite=overwrite)
            assert sorted(path.name for path in tmp_path.iterdir()) == ([name] if overwrite else [])
            value.save(tmp_path / name, overwrite=overwrite)
        (shutil.rmtree if (tmp_path / name).is_dir() else os.unlink)(tmp_path / name)
    with small_files(size), pytest.raises(DiskError, match=refused):
        model.save_pretrained(tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_a_sweep_that_the_disk_stops_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        written.append(path)
        if len(written) > 4:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(tensor_files, "save_file", full)
        with pytest.raises(DiskError, match=r"parts/\d+\.safetensors cannot be written: the disk is full") as told:
            KINDS["patch"](save_to=tmp_path / "sweep")
    assert isinstance(told.value, OSError)
    assert len(list((tmp_path / "sweep" / "parts").iterdir())) == 3
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["call.json", "call.safetensors", "parts"]
    found = KINDS["patch"](save_to=tmp_path / "sweep")
    assert torch.equal(found.values, KINDS["patch"]().values)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_reasons_in_words(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *given: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for write in (
        lambda: KINDS["patch"](save_to=tmp_path / "x"),
        lambda: model_of("gpt2").save_pretrained(tmp_path / "x"),
    ):
        with pytest.raises(DiskError, match=f"x cannot be written: {tensor_files.REASONS[number]}"):
            write()


def test_a_place_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (
        lambda: KINDS["patch"](save_to=tmp_path / "file" / "x"),
        lambda: KINDS["patch"]().save(tmp_path / "file" / "x"),
        lambda: model_of("gpt2").save_pretrained(tmp_path / "file" / "x"),
        lambda: model_of("gpt2").run_with_cache(TOKENS)[1].save(tmp_path / "file" / "x"),
        lambda: model_of("gpt2").run_with_cache(TOKENS)[1].save(tmp_path / "none" / "x"),
    ):
        with pytest.raises(DiskError, match=r"x cannot be written: (a part of its path is a file|the folder that)"):
            write()


def test_a_process_that_is_killed_within_a_file_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"

    def killed() -> None:
        tensor_files._move = lambda partial, path: os._exit(9) if "00000002" in path.name else partial.replace(path)
        KINDS["patch"](save_to=folder)

    assert in_a_child(killed).wait() == 9
    assert [path for path in folder.rglob("*") if path.suffix == ".partial"], "it was killed within a file"
    assert torch.equal(KINDS["patch"](save_to=folder).values, KINDS["patch"]().values)
    assert not [path for path in folder.rglob("*") if path.suffix == ".partial"]


# --------------------------------------------------------------------------------------------------------------- damage


def flipped(path: Path, name: str | None = None) -> None:
    """Change one bit of the last tensor in a file, or of one of them, as a disk may do."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    places = {key: value["data_offsets"] for key, value in header.items() if key != "__metadata__"}
    start, end = places[name] if name else max(places.values())
    assert end > start
    content[8 + size + start] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["call", "result"])
def test_tensors_with_a_flipped_bit_are_refused(kind: str, tmp_path: Path) -> None:
    KINDS["ablate"](save_to=tmp_path / "sweep")
    files = load_file(tmp_path / "sweep" / f"{kind}.safetensors")
    for name in files:
        shutil.copytree(tmp_path / "sweep", tmp_path / name)
        flipped(tmp_path / name / f"{kind}.safetensors", name)
        with pytest.raises(BadInput, match=f"{kind}.safetensors cannot be read: its tensors are not those that were"):
            Result.load(tmp_path / name)


def test_a_part_with_a_flipped_bit_is_computed_again(tmp_path: Path) -> None:
    folder, told = tmp_path / "sweep", tmp_path / "told"
    first = in_a_child(lambda: by_function(Waiting(6, told), folder))
    waits_for(told)
    first.kill()
    flipped(folder / "parts" / "00000001.safetensors", "scores")
    found = by_function(counting := Waiting(0, told), folder)
    assert -counting.at == 3 * 4 + 1 - 4
    assert torch.equal(found.values, by_function(Waiting(0, told), tmp_path / "whole").values)


def test_tokens_of_a_circuit(tmp_path: Path) -> None:
    eap(model_of("gpt2"), TOKENS, OTHER, DIFF).save(tmp_path / "circuit")
    flipped(tmp_path / "circuit" / "call.safetensors")
    with pytest.raises(BadInput, match=r"call\.safetensors cannot be read"):
        Circuit.load(tmp_path / "circuit")


@pytest.mark.parametrize("name", ["patch", "eap", "integrated_gradients", "direct_logit_attribution"])
def test_damaged_tokens_of_version_0_1(name: str, tmp_path: Path) -> None:
    """Its files of tensors have no digest of their own; each argument of the recorded call has one."""
    load = Circuit.load if name == "eap" else Result.load
    for tensor in load_file(SAVED / name / "call.safetensors"):
        folder = tmp_path / tensor
        shutil.copytree(SAVED / name, folder)
        load(folder)
        flipped(folder / "call.safetensors", tensor)
        with pytest.raises(BadInput, match="of the recorded call is not what it was when the record was written"):
            load(folder)


@pytest.mark.parametrize(("kind", "field", "other"), [("Site", "hook", "blocks.0.hook_q"), ("LogitDiff", "pos", 0)])
def test_an_argument_that_was_written_over(kind: str, field: str, other: Any, tmp_path: Path) -> None:
    KINDS["ablate"](save_to=tmp_path / "sweep")
    path = tmp_path / "sweep" / "call.json"
    document = json.loads(path.read_text())
    written = next(one[name] for one in document["objects"] for name in one if name.endswith(kind))
    assert written[field] != other
    written[field] = other
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match="of the recorded call is not what it was"):
        Result.load(tmp_path / "sweep")


# --------------------------------------------------------------------------------------------------------- once more


@pytest.mark.parametrize("kind", ["patch", "ablate"])
@pytest.mark.parametrize("whence", ["computed", "loaded", "resumed"])
def test_what_was_saved_while_computed_is_not_saved_again(kind: str, whence: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    result = KINDS[kind](save_to=folder)
    if whence != "computed":
        result = Result.load(folder) if whence == "loaded" else Result.resume(folder, model_of("gpt2"), progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert torch.equal(result.rerun(model_of("gpt2"), max_memory=1, progress=False).values, result.values)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    shutil.rmtree(folder)
    result.rerun(model_of("gpt2"), progress=False)
    assert not folder.exists()


def test_a_record_names_no_folder_to_write_to(tmp_path: Path) -> None:
    """Not even one that somebody wrote into it."""
    KINDS["ablate"](save_to=tmp_path / "sweep")
    path = tmp_path / "sweep" / "call.json"
    document = json.loads(path.read_text())
    place = next(iter(document["calls"][0].values()))["ref"]
    document["objects"][place]["mapping"].append(["save_to", str(tmp_path / "elsewhere")])
    document["digests"]["save_to"] = "none"
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match="save_to of the recorded call"):
        Result.load(tmp_path / "sweep")
