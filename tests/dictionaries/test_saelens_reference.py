"""SAELens' own files, and files as others publish them, are read to SAELens' numbers.

benchmarks/reference_dictionaries.py wrote both. SAELens calls what a transcoder of Gemma Scope 2 reads
"hook_mlp_in", the stream before the norm, while its field for HuggingFace's names says that it is the norm's output.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from interp_hooks import dictionaries
from interp_hooks.dictionaries import CrossLayerTranscoder
from tests.tiny import assert_close

DATA = Path(__file__).parents[1] / "data"
FOLDER, PUBLISHED = DATA / "dictionaries", DATA / "published"
GEMMA = PUBLISHED / "google" / "gemma-scope-2-270m-pt"
NAMES = sorted(path.name for path in FOLDER.iterdir())
FILES = {
    "/".join(numbers.relative_to(PUBLISHED).parts[1:-1]): file
    for numbers in sorted(PUBLISHED.rglob("numbers.safetensors"))
    for file in (*numbers.parent.glob("params.safetensors"), *numbers.parent.glob("*.sae.pt"))
}


def test_all_architectures_are_there() -> None:
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
def test_saelens_numbers(name: str) -> None:
    numbers, found = load_file(FOLDER / name / "numbers.safetensors"), dictionaries.load(FOLDER / name)
    assert_close(found.encode(numbers["x"]), numbers["features"], 1e-12)
    assert_close(found(numbers["x"]), numbers["out"], 1e-12)
    assert 0 < int(numbers["features"].gt(0).sum()) < numbers["features"].numel()


def test_all_published_files_are_there() -> None:
    assert len(FILES) == 7


@pytest.mark.parametrize("name", FILES)
def test_published_files(name: str) -> None:
    with safe_open(FILES[name].parent / "numbers.safetensors", "pt") as file:
        numbers, told = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    found = dictionaries.load(FILES[name])
    assert_close(found.encode(numbers["x"]), numbers["features"], 1e-5)
    assert_close(found(numbers["x"]), numbers["out"], 1e-5)
    assert 0 < int(numbers["features"].gt(0).sum()) < numbers["features"].numel()
    reads = told["hook_name"].replace("hook_mlp_in", "mlp.hook_in")
    assert found.hooks_in == (reads,)
    assert found.hooks_out == (told.get("hook_name_out", reads),)
    if "mlp.hook_in" in reads:
        assert told["hf_hook_name"].endswith("pre_feedforward_layernorm.output")


def test_features_of_a_published_cross_layer_transcoder() -> None:
    """SAELens reads a layer at a time, for its features alone: it sums the decoders."""
    found = dictionaries.load(GEMMA / "clt" / "width_262k_l0_medium_affine")
    assert isinstance(found, CrossLayerTranscoder)
    each = [load_file(path) for path in sorted((GEMMA / "clt_numbers").iterdir())]
    assert len(each) == found.n_layers == 3
    features = found.encode(torch.stack([numbers["x"] for numbers in each], 1))
    for layer, numbers in enumerate(each):
        assert_close(features[:, layer], numbers["features"], 1e-5)
