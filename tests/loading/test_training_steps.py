"""Checkpoints of a training load from the revision that the hub keeps them under."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.loading.training_steps import checkpoint_labels
from tests.model.test_tokens import word_tokenizer
from tests.tiny import FAMILY_CONFIGS, build, build_hf, fresh_hf

SHAS = {"main": "a" * 40, "step0": "b" * 40, "step512": "c" * 40, "step143000": "d" * 40}


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, dict[str, PreTrainedModel]]:
    """The hub's cache as downloads leave it, with other weights in each revision of one model."""
    models = {}
    for seed, (revision, sha) in enumerate(SHAS.items()):
        models[revision] = build_hf(FAMILY_CONFIGS["neox"](), seed)
        repository = tmp_path / "models--EleutherAI--pythia-70m"
        models[revision].save_pretrained(repository / "snapshots" / sha)
        word_tokenizer().save_pretrained(repository / "snapshots" / sha)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(sha)
    return tmp_path, models


@pytest.mark.parametrize(
    ("asked", "revision"),
    [
        ({}, "main"),
        (dict(checkpoint_index=0), "step0"),
        (dict(checkpoint_index=-1), "step143000"),
        (dict(checkpoint_index=10), "step512"),
        (dict(checkpoint_value=512), "step512"),
        (dict(checkpoint_label=143_000), "step143000"),
        (dict(revision="step0"), "step0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["pythia-70m", "EleutherAI/pythia-70m"])
def test_a_step_is_a_revision(name: str, asked: dict[str, Any], revision: str, cached: Any) -> None:
    folder, models = cached
    hub = dict(cache_dir=str(folder), local_files_only=True)
    model = HookedTransformer.from_pretrained_no_processing(name, **asked, **hub)
    assert torch.equal(model.W_E, models[revision].get_input_embeddings().weight)
    assert model.revision == SHAS[revision]


CRFM = "stanford-crfm/alias-gpt2-small-x21"


@pytest.mark.parametrize(
    ("name", "count", "begins", "ends"),
    [
        ("pythia-70m", 154, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000], [142_000, 143_000]),
        ("EleutherAI/pythia-12b-deduped", 154, [0, 1, 2], [143_000]),
        ("pythia-1b-deduped-v0", 143, [1000, 2000], [143_000]),
        (CRFM, 609, [0, 10, 20], [399_000, 400_000]),
        ("stanford-gpt2-small-a", 609, [0, 10, 20], [400_000]),
    ],
)
def test_the_steps_that_the_hub_has(name: str, count: int, begins: list[int], ends: list[int]) -> None:
    steps, what = checkpoint_labels(name)
    assert what == "step"
    assert len(steps) == len(set(steps)) == count
    assert steps == sorted(steps)
    assert (steps[: len(begins)], steps[-len(ends) :]) == (begins, ends)


def test_where_the_steps_of_crfm_grow_coarser() -> None:
    steps, _ = checkpoint_labels(CRFM)
    gaps = {step: after - step for step, after in itertools.pairwise(steps)}
    assert [gaps[step] for step in (90, 100, 1950, 2000, 19_900, 20_000)] == [10, 50, 50, 100, 100, 1000]


@pytest.mark.parametrize("name", ["gpt2", "ioi-tiny", "EleutherAI/gpt-neo-125m"])
def test_a_model_without_checkpoints_is_told(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"no checkpoints of the training of '{name}' are known.* revision="):
        HookedTransformer.from_pretrained(name, checkpoint_index=0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(checkpoint_index=154), r"checkpoint_index must be 0\.\.153 for 'pythia-70m', got 154"),
        (dict(checkpoint_index=-155), r"checkpoint_index must be 0\.\.153 for 'pythia-70m', got -155"),
        (dict(checkpoint_value=700), r"no checkpoint of step 700; the nearest is 512"),
        (dict(checkpoint_label=999_999), r"no checkpoint of step 999999; the nearest is 143000"),
        (dict(checkpoint_index=1, checkpoint_value=1), "give one of them"),
        (dict(checkpoint_value=1, checkpoint_label=1), "give one of them"),
        (dict(checkpoint_value=0, revision="main"), "give one of them"),
    ],
    ids=str,
)
def test_a_checkpoint_that_is_not_there_is_told(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        HookedTransformer.from_pretrained("pythia-70m", **asked)


def test_a_model_object_is_one_checkpoint_already() -> None:
    with pytest.raises(BadInput, match="hf_model each say which weights to take"):
        HookedTransformer.from_pretrained("pythia-70m", hf_model=fresh_hf("neox"), checkpoint_index=0)


# ------------------------------------------------------------------------------------------------ folders of one's own


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, dict[int, HookedTransformer]]:
    """A saved model, three of its training saved within its folder, and folders that only look like it."""
    models = {step: build(seed=seed) for seed, step in enumerate((0, 50, 1000))}
    models[1000].save_pretrained(tmp_path)
    for step, model in models.items():
        model.save_pretrained(tmp_path / f"step{step}")
    models[0].save_pretrained(tmp_path / "step007")
    models[0].save_pretrained(tmp_path / "steps20")
    (tmp_path / "step30").mkdir()
    return tmp_path, models


@pytest.mark.parametrize(
    ("asked", "step"),
    [
        ({}, 1000),
        (dict(checkpoint_index=0), 0),
        (dict(checkpoint_index=1), 50),
        (dict(checkpoint_index=-1), 1000),
        (dict(checkpoint_value=50), 50),
        (dict(checkpoint_label=0), 0),
        (dict(revision="step50"), 50),
    ],
    ids=str,
)
def test_a_step_is_a_folder_in_the_folder(asked: dict[str, Any], step: int, trained: Any) -> None:
    folder, models = trained
    assert checkpoint_labels(str(folder)) == ([0, 50, 1000], "step")
    model = HookedTransformer.from_pretrained_no_processing(str(folder), device="cpu", **asked)
    assert torch.equal(model.W_E, models[step].W_E)
    assert model.revision == (f"step{step}" if asked else None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(checkpoint_index=3), r"checkpoint_index must be 0\.\.2"),
        (dict(checkpoint_value=900), r"no checkpoint of step 900; the nearest is 1000"),
        (dict(revision="step30"), "it takes no revision='step30'"),
        (dict(revision="steps20"), "it takes no revision='steps20'"),
        (dict(revision="../other"), "it takes no revision='../other'"),
    ],
    ids=str,
)
def test_a_folder_that_was_not_saved_is_told(asked: dict[str, Any], said: str, trained: Any) -> None:
    with pytest.raises(BadInput, match=said):
        HookedTransformer.from_pretrained(str(trained[0]), **asked)


def test_a_folder_without_steps_is_told(trained: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoints of the training of .*step50' are known"):
        HookedTransformer.from_pretrained(str(trained[0] / "step50"), checkpoint_index=0)
