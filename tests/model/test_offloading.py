"""Blocks whose weights lie in files compute the same bits, in the memory of about one block."""

import errno
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from interp_hooks import HookedTransformer, LogitDiff, patch
from interp_hooks.errors import BadInput, DiskError
from interp_hooks.model.offloading import Files
from interp_hooks.model.transformer import NO_PROCESSING
from tests.children import in_a_child
from tests.tiny import D_VOCAB, FAMILY_CONFIGS, build, build_hf, random_tokens, redraw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory that maps a file cannot be dropped")
TOKENS, OTHER = random_tokens(), random_tokens(seed=1)
MiB = 2**20


@pytest.fixture(scope="module", params=["gpt2-tied-scaled", "llama-tied-ungrouped", "neox", "saved here"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    if request.param == "saved here":
        build(d_vocab=D_VOCAB, d_vocab_out=D_VOCAB).save_pretrained(path)
    else:
        build_hf(FAMILY_CONFIGS[request.param]()).save_pretrained(path)
    return path


def pair(folder: Path, tmp_path: Path, **options: Any) -> tuple[HookedTransformer, HookedTransformer]:
    """The model in memory, and that whose blocks lie in files."""
    options = dict(dtype=torch.float64) | options
    whole = HookedTransformer.from_pretrained(str(folder), device="cpu", **options)
    return whole, HookedTransformer.from_pretrained(str(folder), offload_folder=tmp_path / "blocks", **options)


HALF: dict[str, Any] = NO_PROCESSING | dict(dtype=torch.bfloat16)


@pytest.mark.parametrize("options", [{}, HALF], ids=["processed", "bfloat16"])
def test_the_same_bits(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Of weights, logits, every hook, gradients and a sweep; the files have no names."""
    whole, parts = pair(folder, tmp_path, **options)
    assert [*(tmp_path / "blocks").iterdir()] == []
    for (name, weight), (_, other) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert torch.equal(weight, other), name
        assert weight.stride() == other.stride(), name
    every: dict[str, Any] = dict(names_filter=lambda name: True, incl_bwd=lambda logits: logits.square().sum())
    (logits, cache), (other, found) = (model.run_with_cache(TOKENS, **every) for model in (whole, parts))
    assert torch.equal(logits, other)
    assert list(cache) == list(found)
    for name, value in cache.items():
        assert torch.equal(value, found[name]), name
    for (name, weight), (_, other) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        assert weight.grad is None or torch.equal(weight.grad, other.grad), name
    patches = [patch(model, TOKENS, OTHER, LogitDiff(1, 2), "resid_pre", progress=False) for model in (whole, parts)]
    assert torch.equal(patches[0].values, patches[1].values)


def test_an_edit_outlives_a_pass(folder: Path, tmp_path: Path) -> None:
    whole, parts = pair(folder, tmp_path)
    before = parts(TOKENS)
    with torch.no_grad():
        for model in (whole, parts):
            model.blocks[1].attn.W_O[0].mul_(-3)
    assert torch.equal(parts(TOKENS), whole(TOKENS))
    assert torch.equal(parts.blocks[1].attn.W_O, whole.blocks[1].attn.W_O)
    assert not torch.equal(parts(TOKENS), before)


def test_a_sweep_comes_by_each_layer_a_few_times(folder: Path, tmp_path: Path) -> None:
    """12 cells: the recordings, and one pass for all of them."""
    _, parts = pair(folder, tmp_path)
    visits: Counter[int] = Counter()
    for layer, block in enumerate(parts.blocks):
        block.register_forward_hook(lambda *_, layer=layer: visits.update([layer]))
    found = patch(parts, TOKENS, OTHER, LogitDiff(1, 2), "z", over=("layer", "head"), progress=False)
    assert found.values.shape[0] == 3
    assert max(visits.values()) <= 4


# ----------------------------------------------------------------------------------------------------------- in memory


def anonymous() -> float:
    """MiB of this process that are in memory and in no file."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def peak_of(work: Callable[[], Any]) -> float:
    """By how many MiB the anonymous memory of a child process grows at most while it does some work."""

    def measured() -> float:
        torch.set_num_threads(1)
        base, peak, ended = anonymous(), [0.0], threading.Event()

        def watch() -> None:
            while not ended.is_set():
                peak[0] = max(peak[0], anonymous() - base)
                time.sleep(0.002)

        watching = threading.Thread(target=watch)
        watching.start()
        work()
        ended.set()
        watching.join()
        return peak[0]

    return float(in_a_child(measured).told())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_three_times_as_large_as_the_memory_it_may_take(kind: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = dict(vocab_size=D_VOCAB, bos_token_id=0, eos_token_id=0)
    if kind == "gpt2":
        hf: Any = GPT2LMHeadModel(GPT2Config(n_layer=12, n_embd=384, n_head=4, n_positions=32, **sizes))
    else:
        config = LlamaConfig(
            num_hidden_layers=12, hidden_size=384, num_attention_heads=4, intermediate_size=1024, **sizes
        )
        hf = LlamaForCausalLM(config)
    redraw(hf, std=0.02)
    hf.save_pretrained(tmp_path / "model")
    size = sum(weight.nbytes for weight in hf.parameters()) / MiB
    del hf

    def work(**options: Any) -> None:
        model = HookedTransformer.from_pretrained(str(tmp_path / "model"), **options)
        model.run_with_cache(TOKENS)
        patch(model, TOKENS, OTHER, LogitDiff(1, 2), "resid_pre", over=("layer",), progress=False)

    work(offload_folder=tmp_path / "blocks")  # what is imported and made once, before memory is measured
    allowed = size / 3
    assert peak_of(lambda: work(offload_folder=tmp_path / "blocks")) < allowed
    assert peak_of(lambda: work(device="cpu")) > 2 * allowed


# ---------------------------------------------------------------------------------------------- which blocks, and where


def in_files(model: HookedTransformer) -> list[int]:
    """The layers whose weights the process has mapped from files without a name."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if line.endswith("(deleted)")]
    addresses = [range(int(start, 16), int(end, 16)) for start, end in spans]
    weights = {layer: block.attn.W_O.data_ptr() for layer, block in enumerate(model.blocks)}
    return [layer for layer, place in weights.items() if any(place in span for span in addresses)]


MAPS: dict[str, Any] = {
    "theirs": {"": "cpu", "{layers}.1": "disk"},
    "theirs, one by one": {"{body}": "cpu", "{head}": "cpu", "{layers}.0.mlp": torch.device("cpu")},
    "ours": {"": "cpu", "blocks": "disk", "blocks.2": "cpu"},
}
CALLED = {
    "gpt2-tied-scaled": dict(body="transformer", layers="transformer.h", head="lm_head"),
    "llama-tied-ungrouped": dict(body="model", layers="model.layers", head="lm_head"),
}
LIE_THERE = {"theirs": [1], "theirs, one by one": [], "ours": [0, 1]}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_modules_says_which_blocks_lie_in_files(tmp_path: Path, name: str) -> None:
    for architecture, names in CALLED.items():
        folder = tmp_path / architecture
        build_hf(FAMILY_CONFIGS[architecture]()).save_pretrained(folder)
        named = {key.format(**names): device for key, device in MAPS[name].items()}
        options: dict[str, Any] = dict(dtype=torch.float64)
        whole = HookedTransformer.from_pretrained(str(folder), device="cpu", **options)
        parts = HookedTransformer.from_pretrained(
            str(folder), offload_folder=tmp_path / "blocks", device_map=named, **options
        )
        assert in_files(parts) == LIE_THERE[name]
        assert torch.equal(whole(TOKENS), parts(TOKENS))


def test_auto_keeps_what_fits_in_memory(folder: Path, tmp_path: Path) -> None:
    """As many of the first blocks as have room beside embeddings and a block that is read; all, where all have room."""
    options: dict[str, Any] = dict(dtype=torch.float64)
    whole = HookedTransformer.from_pretrained(str(folder), device="cpu", **options)
    outside = sum(one.nbytes for name, one in whole.named_parameters() if not name.startswith("blocks."))
    block = sum(weight.nbytes for weight in whole.blocks[0].parameters())
    there = []
    for blocks in (None, 0, 1.5, 2.5, 3.5):
        limit = {} if blocks is None else dict(max_memory={"cpu": outside + int(blocks * block)})
        there_too = dict(offload_folder=tmp_path / "blocks", device_map="auto") | limit
        model = HookedTransformer.from_pretrained(str(folder), **there_too, **options)
        there.append(in_files(model))
        assert torch.equal(whole(TOKENS), model(TOKENS))
    assert there == [[], [0, 1, 2], [0, 1, 2], [1, 2], []]


WRONG_MAPS: dict[str, tuple[dict[str, Any], str]] = {
    "a GPU": (dict(device_map={"": "cpu", "blocks.1": "cuda:0"}), r"'cpu' or 'disk', got 'cuda:0'.*leave offload_f"),
    "another word": (dict(device_map="balanced"), r"device_map beside it is 'auto' or maps .*got 'balanced'"),
    "a gap": (dict(device_map={"embed": "cpu"}), r"says nothing of pos_embed.W_pos or transformer.wpe"),
    "no module": (dict(device_map={"": "cpu", "block.1": "disk"}), r"'block\.1', in which no .* mean blocks\.1"),
    "half a block": (dict(device_map={"": "cpu", "blocks.1.mlp": "disk"}), r"device_map divides layer 1"),
    "no block": (dict(device_map={"": "cpu", "unembed": "disk"}), r"only blocks lie in files"),
    "a GPU's memory": (dict(device_map="auto", max_memory={0: "1GB"}), r"as max_memory=\{'cpu': '20GB'\}.*got \{0"),
    "no map": (dict(max_memory={"cpu": "1GB"}), r"with device_map='auto'; got .* with None"),
    "a number": (dict(device_map=3), r"device_map must be text or a mapping .* got int 3"),
    "a size alone": (dict(device_map="auto", max_memory="20GB"), r"max_memory must be a mapping .* got '20GB'"),
    "no size": (dict(device_map="auto", max_memory={"cpu": "much"}), r"max_memory must be as \{'cpu': '20GB'\}"),
    "a device": (dict(device="cuda"), r"pass no device='cuda' beside it|device must be one that"),
}


@pytest.mark.parametrize("name", WRONG_MAPS)
def test_wrong_maps_are_refused(name: str, tmp_path: Path) -> None:
    options, message = WRONG_MAPS[name]
    with pytest.raises(BadInput, match=message):
        HookedTransformer.from_pretrained("ioi-tiny", offload_folder=tmp_path / "blocks", **options)
    assert not (tmp_path / "blocks").exists()


def test_a_disk_without_a_folder_is_refused() -> None:
    with pytest.raises(BadInput, match=r"device_map puts blocks on the disk: pass offload_folder="):
        HookedTransformer.from_pretrained("ioi-tiny", device_map={"": "cpu", "blocks.1": "disk"})


# ------------------------------------------------------------------------------------------------------------- refused


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        HookedTransformer.from_pretrained("ioi-tiny", offload_folder=tmp_path / "file")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match=r"has no room for \d+ bytes"):
        HookedTransformer.from_pretrained("ioi-tiny", offload_folder=tmp_path / "blocks")
    assert [*(tmp_path / "blocks").iterdir()] == []


def test_what_is_dropped_is_what_lies_in_files(tmp_path: Path) -> None:
    """A weight that somebody put in another's place lies in memory, and stays."""
    files = Files(tmp_path)
    files.layers = frozenset({0})
    mapped = files.place("blocks.0.mlp.W_in", torch.arange(6.0).view(2, 3), (1, 2))
    assert mapped.stride() == (1, 2)
    assert torch.equal(mapped, torch.arange(6.0).view(2, 3))
    other = torch.ones(3)
    files.drop(other)
    assert torch.equal(other, torch.ones(3))
    assert files.place("embed.W_E", other, (1,)).data_ptr() not in files.mapped
