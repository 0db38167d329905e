"""One pass over a corpus gives what a pass over each document gives, however it is split up and interrupted."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interp_hooks import HookedTransformer, Run, record
from interp_hooks.corpus import (
    Bands,
    Histogram,
    Moments,
    Reducer,
    Scan,
    Seen,
    Statistics,
    TopK,
    Units,
    coordinates,
    gather,
    neurons,
    scan,
    store,
)
from interp_hooks.errors import BadInput, FolderInUse, UnknownHook
from interp_hooks.model.folder_lock import locked
from tests.children import Child
from tests.tiny import CUSTOM, assert_close, build, unchecked_types

MODEL = build(dtype=torch.float32)
DOCUMENTS = [torch.randint(1, 19, (3 + 5 * n % 7,), generator=torch.Generator().manual_seed(n)) for n in range(30)]
ALL: dict[str, Reducer] = {
    "top": TopK(neurons(), k=4),
    "bottom": TopK(coordinates("resid_mid"), k=3, side="smallest"),
    "bands": Bands(neurons(), n=2),
    "statistics": Statistics(neurons()),
    "histogram": Histogram(coordinates("z")),
    "moments": Moments(coordinates("resid_post", layers=[1])),
}
SMALL = dict(per_batch=4, tokens_at_once=20, progress=False)


def assert_same(one: Scan, other: Scan) -> None:
    assert (one.n_documents, one.n_tokens, one.n_read) == (other.n_documents, other.n_tokens, other.n_read)
    for name, states in one.states.items():
        assert states.keys() == other.states[name].keys()
        for layer, state in states.items():
            for what, value in state.items():
                assert torch.equal(value, other.states[name][layer][what]), (name, layer, what)
    assert one.texts.keys() == other.texts.keys()
    assert all(torch.equal(ids, other.texts[document]) for document, ids in one.texts.items())


@pytest.fixture(scope="module")
def whole() -> Scan:
    return scan(MODEL, DOCUMENTS, ALL, **SMALL)


def test_the_numbers_are_those_of_a_pass_over_each_document(whole: Scan) -> None:
    activations = {
        number: MODEL.run_with_cache(ids[None], attention_mask=torch.ones_like(ids)[None])[1]
        for number, ids in enumerate(DOCUMENTS)
    }
    for layer in range(3):
        by_document = [activations[number]["post", layer][0] for number in range(30)]
        largest = torch.stack([one.amax(0) for one in by_document])
        top = whole["top"][layer]
        assert_close(top["values"], largest.sort(0, descending=True).values[:4].T, 1e-5)
        for unit in range(3):
            for value, document, position in zip(*(top[name][unit] for name in top), strict=True):
                assert_close(by_document[document][position, unit], value, 1e-5)
        statistics, everything = whole["statistics"][layer], torch.cat(by_document)
        assert_close(statistics["mean"], everything.double().mean(0), 1e-5)
        assert int(statistics["count"]) == whole.n_tokens == len(everything)
        lowest = torch.stack([activations[number]["resid_mid", layer][0].amin(0) for number in range(30)])
        assert_close(whole["bottom"][layer]["values"], lowest.sort(0).values[:3].T, 1e-5)
        assert int(whole["histogram"][layer]["counts"].sum()) == whole.n_tokens * 16
    assert [*whole["moments"]] == [1]


def test_texts_are_there_to_be_read_again(whole: Scan) -> None:
    assert torch.equal(whole.tokens(7), DOCUMENTS[7])
    assert whole.context(7, 2, before=1, after=1).tolist() == DOCUMENTS[7][1:4].tolist()
    with pytest.raises(BadInput, match="there is no document 30"):
        whole.tokens(30)
    with pytest.raises(KeyError, match=r"not 'tops'\. Did you mean top"):
        whole["tops"]


def test_texts_on_disk_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "KEPT", 2)
    texts = scan(MODEL, DOCUMENTS, STATISTICS, save_to=tmp_path, **SMALL).texts
    assert isinstance(texts, store.TextsOnDisk)
    assert [ids.tolist() for ids in texts.values()] == [ids.tolist() for ids in DOCUMENTS]
    assert texts._batch.cache_info().currsize == 2
    assert 30 not in texts
    assert {*range(30)} == {*texts}
    assert len(texts) == 30


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_find_the_same_bits(workers: int, whole: Scan, tmp_path: Path) -> None:
    for worker in reversed(range(workers)):
        scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", part=(worker, workers), **SMALL)
    assert_same(gather(tmp_path / "all", ALL), whole)


def test_a_scan_that_is_kept_is_found_again(whole: Scan, tmp_path: Path) -> None:
    assert_same(scan(MODEL, iter(DOCUMENTS), ALL, save_to=tmp_path / "all", **SMALL), whole)
    assert_same(scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", **SMALL), whole)
    assert_same(gather(tmp_path / "all", ALL), whole)


def test_more_documents_can_follow(whole: Scan, tmp_path: Path) -> None:
    scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", limit=12, **SMALL)
    assert_same(scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", **SMALL), whole)
    scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "part", limit=13, **SMALL)
    with pytest.raises(BadInput, match="in the middle of a batch, before document 13"):
        scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "part", **SMALL)


class Interrupted(Exception):
    pass


def breaking_off(after: int) -> Iterator[torch.Tensor]:
    yield from DOCUMENTS[:after]
    raise Interrupted


@pytest.mark.parametrize("after", [0, 3, 8, 17, 29])
def test_an_interrupted_scan_goes_on(after: int, whole: Scan, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        scan(MODEL, breaking_off(after), ALL, save_to=tmp_path / "all", **SMALL)
    passes = []
    handle = MODEL.hook_dict["hook_embed"].add_hook(lambda value, hook: passes.append(len(value)))
    try:
        assert_same(scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", **SMALL), whole)
        done = sum(passes)
        passes.clear()
        assert_same(scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", **SMALL), whole)
        assert passes == []
    finally:
        handle.remove()
    assert done <= 30 - after // 4 * 4, "finished batches are not read again"


@pytest.mark.slow
def test_a_killed_scan_goes_on(whole: Scan, tmp_path: Path) -> None:
    """kill -9 after a random time, twenty times; each time a batch at most is lost."""
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    reached = []
    for number in range(20):
        folder = tmp_path / str(number)

        def work(folder: Path = folder) -> None:
            torch.set_num_threads(1)
            scan(MODEL, DOCUMENTS, ALL, save_to=folder, **SMALL)

        child = Child(work)
        time.sleep(float(torch.rand((), generator=generator)) * 0.4)
        child.kill()
        reached.append(len([*(folder / "tokens").glob("0*")]) if folder.exists() else 0)
        torch.set_num_threads(1)
        try:
            assert_same(scan(MODEL, DOCUMENTS, ALL, save_to=folder, **SMALL), whole)
        finally:
            torch.set_num_threads(threads)
    assert len({*reached}) > 1, f"they were killed at different times: {reached}"


def test_only_what_is_read_is_computed() -> None:
    seen: list[str] = []
    names = ("blocks.1.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre")
    handles = [MODEL.hook_dict[name].add_hook(lambda value, hook: seen.append(hook.name)) for name in names]
    try:
        scan(MODEL, DOCUMENTS[:3], {"z": Statistics(coordinates("z", layers=[1]))}, **SMALL)
    finally:
        for handle in handles:
            handle.remove()
    assert {*seen} == {"blocks.1.attn.hook_z"}, "the pass ends at the last hook that is read"
    assert not any(point.hooked for point in MODEL.hook_points())


def test_units_of_several_activations() -> None:
    def attention_to_itself(
        found: Mapping[str, torch.Tensor], model: HookedTransformer, layer: int | None
    ) -> torch.Tensor:
        return found["pattern"].diagonal(dim1=-2, dim2=-1).permute(0, 2, 1) * found["v"].norm(dim=-1)

    own = Units("itself", ("pattern", "v"), of=attention_to_itself)
    found = scan(MODEL, DOCUMENTS, {"own": Statistics(own), "embed": Statistics(Units("e", ("hook_embed",)))}, **SMALL)
    by_hand = []
    for ids in DOCUMENTS:
        cache = MODEL.run_with_cache(ids[None], attention_mask=torch.ones_like(ids)[None])[1]
        by_hand.append(attention_to_itself({"pattern": cache["pattern", 2], "v": cache["v", 2]}, MODEL, 2)[0])
    assert_close(found["own"][2]["mean"], torch.cat(by_hand).double().mean(0), 1e-5)
    assert [*found["embed"]] == [None]


def test_neurons_of_experts_count_by_their_weight() -> None:
    model = build(**CUSTOM["experts"])
    parts: dict[str, Reducer] = {part: Statistics(neurons(part=part)) for part in ("mlp", "experts", "shared")}
    parts["pre"] = Statistics(neurons(hook="pre", part="experts"))
    tokens = torch.stack([document[:3] for document in DOCUMENTS])
    found = scan(model, tokens, parts, exclude=(), **SMALL)
    assert {name: list(layers) for name, layers in found.items()} == {
        "mlp": [0], "experts": [1, 2], "shared": [1, 2], "pre": [1, 2]
    }  # fmt: skip
    for layer in (1, 2):
        moe = f"blocks.{layer}.mlp"
        names = [f"{moe}.experts.hook_{name}" for name in ("post", "pre")]
        names += [f"{moe}.hook_expert_weights", f"{moe}.shared.hook_post"]
        recorded = record(model, Run(tokens), names)
        post, pre, weights, shared = (recorded[name] for name in names)
        weighted = post * weights[..., None]
        assert 0 < float((weighted == 0).double().mean()) < 1
        for name, values in (("experts", weighted), ("pre", pre), ("shared", shared)):
            assert_close(found[name][layer]["mean"], values.flatten(0, 1).flatten(1).mean(0), 1e-9)
    with pytest.raises(UnknownHook, match="experts"):
        scan(MODEL, DOCUMENTS, {"experts": parts["experts"]}, **SMALL)


def test_selected_units() -> None:
    some = dataclasses.replace(neurons(layers=[2]), select=(7, 3))
    found = scan(MODEL, DOCUMENTS, {"some": Statistics(some)}, **SMALL)["some"]
    every = scan(MODEL, DOCUMENTS, {"all": Statistics(neurons())}, **SMALL)["all"]
    assert torch.equal(found[2]["mean"], every[2]["mean"][[7, 3]])


def test_kept_activations(tmp_path: Path) -> None:
    scan(MODEL, DOCUMENTS, {}, keep=[neurons(layers=[1])], save_to=tmp_path / "kept", **SMALL)
    files = sorted((tmp_path / "kept" / "activations").glob("*.safetensors"))
    assert len(files) == 8
    assert (tmp_path / "kept" / "activations" / "index.json").exists()
    for path in files:
        tensors = load_file(path)
        for value, document, position in zip(
            *(tensors[name] for name in ("neuron.1", "documents", "positions")), strict=True
        ):
            ids = DOCUMENTS[int(document)]
            cache = MODEL.run_with_cache(ids[None], attention_mask=torch.ones_like(ids)[None], names_filter="post1")[1]
            assert_close(value, cache["post", 1][0, int(position)], 1e-5)
            break  # one of each file


@dataclasses.dataclass(frozen=True)
class Longest(Reducer):
    """A reducer of a user's own."""

    units: Units

    def reduce(self, seen: Seen) -> Mapping[str, torch.Tensor]:
        return {"longest": seen.positions.max()}

    def merge(self, one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"longest": torch.maximum(one["longest"], other["longest"])}


def test_a_reducer_of_your_own(tmp_path: Path) -> None:
    given = {"longest": Longest(coordinates("resid_pre", layers=[0]))}
    found = scan(MODEL, DOCUMENTS, given, save_to=tmp_path / "own", **SMALL)
    assert int(found["longest"][0]["longest"]) == max(map(len, DOCUMENTS)) - 1
    assert_same(gather(tmp_path / "own", given), found)


# -------------------------------------------------------------------------------------------------------- bad input


STATISTICS: dict[str, Any] = {"statistics": Statistics(neurons())}


def test_nothing_to_read_or_to_do() -> None:
    with pytest.raises(BadInput, match="the corpus has no documents"):
        scan(MODEL, [], STATISTICS, **SMALL)
    with pytest.raises(BadInput, match="needs a reducer"):
        scan(MODEL, DOCUMENTS, {}, **SMALL)
    with pytest.raises(BadInput, match="needs a folder"):
        scan(MODEL, DOCUMENTS, {}, keep=[neurons()], **SMALL)
    with pytest.raises(BadInput, match=r"none of the 5 tokens that were read counts.*exclude=\(\)"):
        scan(MODEL, [torch.tensor([one]) for one in range(5)], STATISTICS, exclude=("first",), **SMALL)


def test_hooks_and_layers_that_do_not_exist() -> None:
    with pytest.raises(UnknownHook, match="postt"):
        scan(MODEL, DOCUMENTS, {"a": Statistics(neurons(hook="postt"))}, **SMALL)
    with pytest.raises(BadInput, match=r"names layer 3; this model has layers 0\.\.2"):
        scan(MODEL, DOCUMENTS, {"a": Statistics(neurons(layers=[3]))}, **SMALL)
    with pytest.raises(BadInput, match="selects units"):
        scan(MODEL, DOCUMENTS, {"a": Statistics(dataclasses.replace(neurons(), select=(99,)))}, **SMALL)
    with pytest.raises(BadInput, match="two kinds of units are named 'neuron'"):
        scan(MODEL, DOCUMENTS, {"a": Statistics(neurons()), "b": Statistics(neurons(layers=[1]))}, **SMALL)


def test_options_that_cannot_be() -> None:
    for wrong, message in (
        ({"per_batch": 0}, "per_batch must be at least 1"),
        ({"length": 99}, r"length must be 2\.\.9"),
        ({"part": (2, 2)}, "part must be"),
        ({"exclude": ("boss",)}, "Did you mean bos"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            scan(MODEL, DOCUMENTS, STATISTICS, **{**SMALL, **wrong})


def test_a_document_that_is_too_long_loses_nothing(tmp_path: Path) -> None:
    long = [*DOCUMENTS, torch.arange(1, 15)]
    with pytest.raises(BadInput, match="document 30 has 14 tokens"):
        scan(MODEL, long, ALL, save_to=tmp_path / "all", **SMALL)
    assert scan(MODEL, DOCUMENTS, ALL, save_to=tmp_path / "all", **SMALL).n_documents == 30


def test_values_that_are_no_numbers() -> None:
    model = build(dtype=torch.float32)
    with torch.no_grad():
        model.blocks[1].mlp.b_in[3] = torch.inf
    with pytest.raises(BadInput, match=r"blocks\.1\.mlp\.hook_post give values of 'neuron' that are not finite"):
        scan(model, DOCUMENTS, STATISTICS, **SMALL)
    assert not any(point.hooked for point in model.hook_points())


def test_folders_of_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    scan(MODEL, DOCUMENTS, STATISTICS, save_to=folder, **SMALL)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change, message in (
        (lambda: scan(build(seed=1, dtype=torch.float32), DOCUMENTS, STATISTICS, save_to=folder, **SMALL), "weights"),
        (lambda: scan(MODEL, DOCUMENTS, ALL, save_to=folder, **SMALL), "other reducers"),
        (lambda: scan(MODEL, DOCUMENTS, STATISTICS, save_to=folder, **{**SMALL, "per_batch": 3}), "other options"),
        (lambda: scan(MODEL, DOCUMENTS, STATISTICS, save_to=folder, part=(0, 2), **SMALL), "other workers"),
        (lambda: scan(MODEL, DOCUMENTS[1:], STATISTICS, save_to=folder, **SMALL), "document 0 is not the one"),
        (lambda: gather(folder, ALL), "not those that were given"),
        (lambda: gather(tmp_path, ALL), "holds no scan"),
    ):
        with pytest.raises(BadInput, match=message):
            change()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="something else than a scan: thesis"):
        scan(MODEL, DOCUMENTS, STATISTICS, save_to=tmp_path / "other", **SMALL)


def test_two_scans_into_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock.0-of-1", tmp_path), pytest.raises(FolderInUse):
        scan(MODEL, DOCUMENTS, STATISTICS, save_to=tmp_path, **SMALL)


def test_parts_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    scan(MODEL, DOCUMENTS, STATISTICS, save_to=folder, part=(0, 2), **SMALL)
    with pytest.raises(BadInput, match="worker 1 of 2 has not begun"):
        gather(folder, STATISTICS)
    with pytest.raises(Interrupted):
        scan(MODEL, breaking_off(9), STATISTICS, save_to=folder, part=(1, 2), **SMALL)
    with pytest.raises(BadInput, match="worker 1 of 2 has not finished"):
        gather(folder, STATISTICS)
    state = folder / "state.0-of-2.safetensors"
    damaged = bytearray(state.read_bytes())
    damaged[-3] ^= 1
    state.write_bytes(bytes(damaged))
    with pytest.raises(BadInput, match="damaged"):
        gather(folder, STATISTICS)
