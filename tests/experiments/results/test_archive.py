"""What is written is what is read: kinds of data, identity, and nothing that runs code."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    KL,
    Accuracy,
    ActivationCache,
    HookedTransformer,
    Intervention,
    LogitDiff,
    LogProb,
    Loss,
    Mean,
    Metric,
    Prob,
    Rank,
    Readout,
    Resample,
    Run,
    at,
)
from interp_hooks.errors import BadInput
from interp_hooks.experiments.results import archive as module
from interp_hooks.experiments.results.archive import (
    Packing,
    Randomness,
    Unkept,
    Unpacking,
    digest_of,
    fields_of,
)
from interp_hooks.experiments.results.folders import read, write
from interp_hooks.model import tensor_files

TOKENS = torch.arange(10).reshape(2, 5)


def there_and_back(value: Any, folder: Path) -> Any:
    """Through the files."""
    packing = Packing(value)
    write(folder, "value", {"value": packing.pack(value), "objects": packing.objects}, packing.tensors)
    document, tensors = read(folder, "value")
    return Unpacking(document["objects"], tensors).unpack(document["value"])


def same(ours: Any, theirs: Any) -> bool:
    """Of the same types and, bit by bit, values."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, Tensor):
        bits = [one.contiguous().reshape(-1).view(torch.uint8) for one in (ours, theirs)]
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(*bits)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict):
        return same(list(ours.items()), list(theirs.items()))
    if isinstance(ours, (*module.CLASSES.values(), Metric)):
        return same(fields_of(ours), fields_of(theirs))
    return ours == theirs or (ours != ours and theirs != theirs)


PLAIN = [
    None,
    True,
    0,
    2**70,
    -1.5,
    0.1 + 0.2,
    float("nan"),
    float("-inf"),
    "",
    "ä\n\u2028",
    [1, [2.0, "3"]],
    (1, (2, [3])),
    {"a": 1, 2: "b", (3, 4): [float("inf")]},
    range(3, 9, 2),
    slice(None, -1, 2),
    torch.bfloat16,
    {},
    [],
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data(value: Any, tmp_path: Path) -> None:
    assert same(there_and_back(value, tmp_path), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 3),
        torch.tensor([float("nan"), -0.0, float("inf")]),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(3).expand(4, 3),
        torch.arange(100, dtype=torch.bfloat16)[7:9],
        torch.tensor([True, False]),
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=str,
)
def test_tensors_keep_every_bit(tensor: Tensor, tmp_path: Path) -> None:
    assert same(there_and_back(tensor, tmp_path), tensor.detach())


def test_views_of_one_memory_are_written_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    views = [whole, whole.view(2, 3), whole[:2], whole[4:], torch.zeros(0), torch.zeros(0)]
    assert same(there_and_back(views, tmp_path), views)


def test_what_is_one_object_stays_one(tmp_path: Path) -> None:
    """Runs are recognised by the identity of their tensors, so that sources are recorded once."""
    pos, mask, along = torch.tensor([1, 2]), torch.ones(2, 5), torch.eye(3)[:2]
    source = Run(TOKENS, [Intervention(at("z", 0, pos=pos), 0.0)], mask)
    runs = [
        Run(TOKENS, [Intervention(at("z", layer, head=1, pos=pos), source, along=along, mask=0.5)]) for layer in (0, 1)
    ]
    runs += [Run(TOKENS, [Intervention(at("z", 2), Resample(source, pos)), Intervention(at("z", 3), Mean(source))])]
    first, second, third = there_and_back(runs, tmp_path)
    assert same([first, second, third], runs)
    assert first.tokens is second.tokens is third.tokens is first.interventions[0].source.tokens
    assert first.interventions[0].source is second.interventions[0].source
    assert first.interventions[0].source.key == third.interventions[1].source.run.key
    select, other = (run.interventions[0].site.select for run in (first, second))
    assert select["pos"] is other["pos"]
    assert third.interventions[0].source.order is select["pos"]
    assert first.tokens is not there_and_back(TOKENS, tmp_path)


def test_runs_are_moved_to_a_device_once() -> None:
    source = Run(TOKENS, (), torch.ones(2, 5))
    packing = Packing()
    packed = packing.pack([source, Run(TOKENS, [Intervention(at("z", 0), source)], source.attention_mask)])
    first, second = Unpacking(packing.objects, packing.tensors, torch.device("meta")).unpack(packed)
    assert first.tokens is second.tokens
    assert first.tokens.is_meta
    assert first.attention_mask is second.attention_mask
    assert second.interventions[0].source is first


def test_edges(tmp_path: Path) -> None:
    made = Intervention(at("z", 0, head=[0, 2]), Run(TOKENS), into=at("q_input", 2, head=1), mask=torch.ones(2, 1))
    assert same(there_and_back(made, tmp_path), made)


def test_of_recorded_activations_only_those_are_kept_that_are_used(plain: HookedTransformer, tmp_path: Path) -> None:
    _, cache = plain.run_with_cache(torch.ones(1, 4, dtype=torch.long))
    assert isinstance(cache, ActivationCache)
    runs = [Run(TOKENS, [Intervention(at(hook), cache)]) for hook in ("blocks.1.attn.hook_z", "resid_pre2")]
    first, second = there_and_back({"asked": cache, "runs": runs}, tmp_path)["runs"]
    source = first.interventions[0].source
    assert source is second.interventions[0].source
    assert list(source) == ["blocks.1.attn.hook_z", "blocks.2.hook_resid_pre"]
    assert all(torch.equal(source[hook], cache[hook]) for hook in source)


def test_a_generator_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    kept = Randomness.of(generator)
    expected = torch.rand(5, generator=generator)
    loaded = there_and_back(kept, tmp_path)
    assert loaded.seed == 7
    assert all(torch.equal(torch.rand(5, generator=one.generator()), expected) for one in (kept, loaded, loaded))


# ------------------------------------------------------------------------------------------------------------- metrics

METRICS = [
    LogitDiff([4, 11], [7, 2], pos=torch.tensor([1, -1])),
    LogProb(torch.tensor([1, 2])),
    Prob(" Mary"),
    Rank([1]),
    Accuracy([1], among=[[2, 3]]),
    KL(torch.randn(2, 19)),
    KL(Run(TOKENS)),
    Loss(),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metrics(metric: Metric, tmp_path: Path) -> None:
    assert same(there_and_back(metric, tmp_path), metric)


def test_metrics_are_found_in_a_fresh_process(tmp_path: Path) -> None:
    packing = Packing()
    write(tmp_path, "value", {"value": packing.pack(METRICS), "objects": packing.objects}, packing.tensors)
    code = f"""
from pathlib import Path
from interp_hooks.experiments.results.archive import Unpacking
from interp_hooks.experiments.results.folders import read
document, tensors = read(Path({str(tmp_path)!r}), "value")
print([type(one).__name__ for one in Unpacking(document["objects"], tensors).unpack(document["value"])])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([type(metric).__name__ for metric in METRICS])


@dataclass(frozen=True, eq=False)
class Own(Metric):
    """A metric of one's own."""

    scale: float

    @property
    def readout(self) -> Readout:
        return Readout(pos=-1)

    def score(self, logits: Tensor) -> Tensor:
        return self.scale * logits[:, 0]


class Opaque(Metric):
    """One that may hold anything."""

    readout = Readout(pos=-1)

    def score(self, logits: Tensor) -> Tensor:
        return logits[:, 0]


def test_a_metric_of_ones_own_is_found_while_it_is_defined(tmp_path: Path) -> None:
    metric = Own(2.5)
    assert same(there_and_back(metric, tmp_path), metric)
    text = (tmp_path / "value.json").read_text().replace("test_archive.Own", "test_archive.Gone")
    (tmp_path / "value.json").write_text(text)
    document, tensors = read(tmp_path, "value")
    assert Unpacking(document["objects"], tensors).unpack(document["value"]) == Unkept(
        name="tests.experiments.results.test_archive.Gone"
    )


def score(logits: Tensor) -> Tensor:
    return logits[:, -1, 0]


def test_of_functions_the_name_is_kept(tmp_path: Path) -> None:
    assert there_and_back(score, tmp_path) == Unkept(name="tests.experiments.results.test_archive.score")
    assert there_and_back(Opaque(), tmp_path) == Unkept(name="tests.experiments.results.test_archive.Opaque")
    assert there_and_back([Unkept(name="a.b")], tmp_path) == [Unkept(name="a.b")]


@pytest.mark.parametrize("name", ["os.system", "interp_hooks.cli.main", "interp_hooks.gone.Metric", "builtins.eval"])
def test_names_in_a_file_run_nothing(name: str) -> None:
    assert Unpacking([{name: {}}], {}).unpack({"ref": 0}) == Unkept(name=name)


@pytest.mark.parametrize("value", [object(), 1j, {"a": {1}}], ids=lambda value: type(value).__name__)
def test_what_cannot_be_saved_is_told(value: Any) -> None:
    with pytest.raises(BadInput, match=r"(object|complex|set) cannot be saved"):
        Packing(value).pack(value)


# ------------------------------------------------------------------------------------------------------------- digests


def a_run(number: float = 1.0, head: int = 1) -> Run:
    source = {"blocks.0.attn.hook_z": torch.tensor([number]), "unused": torch.rand(2)}
    return Run(TOKENS.clone(), [Intervention(at("z", 0, head=head), source)])


def test_digests_are_of_what_is_saved() -> None:
    assert digest_of(a_run()) == digest_of(a_run())
    others = [a_run(2.0), a_run(head=2), Run(TOKENS), [a_run()], a_run(-1.0)]
    assert len({digest_of(one) for one in [a_run(), *others]}) == 6
    assert digest_of(torch.zeros(2, 3)) != digest_of(torch.zeros(3, 2))
    assert digest_of(torch.zeros(2)) != digest_of(torch.zeros(2, dtype=torch.int32))


# --------------------------------------------------------------------------------------------------------------- files


def test_the_files_can_be_read_by_eye(tmp_path: Path) -> None:
    there_and_back({"a": [1, 2], "b": {"c": 3}}, tmp_path)
    lines = (tmp_path / "value.json").read_text().splitlines()
    assert '  "value": {' in lines
    assert '    {"mapping": [["c", 3]]},' in lines
    assert json.loads("\n".join(lines))["value"] == {"ref": 1}


@pytest.mark.parametrize("damaged", ["value.json", "value.safetensors"])
@pytest.mark.parametrize("left", [0, 20])
def test_damaged_files_are_told(damaged: str, left: int, tmp_path: Path) -> None:
    there_and_back([torch.ones(50)], tmp_path)
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BadInput, match=f"{damaged} cannot be read"):
        read(tmp_path, "value")


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there_and_back([torch.ones(2)], tmp_path)
    monkeypatch.setattr(tensor_files, "_move", lambda partial, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, "value", {"value": 3}, {})
    document, tensors = read(tmp_path, "value")
    assert document["value"] == [{"tensor": 0}]
    assert torch.equal(tensors["0"], torch.ones(2))
