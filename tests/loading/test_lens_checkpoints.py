"""Checkpoints in the format of TransformerLens' author load as they do in TransformerLens 3.9.0.

`benchmarks/reference_lens_checkpoints.py` wrote tiny ones of every kind, with the logits that it gives.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.loading.checkpoints import aliases, hub_names, locate
from interp_hooks.loading.training_steps import checkpoint_labels
from tests.model.test_tokens import word_tokenizer
from tests.tiny import assert_close

FOLDER = Path(__file__).parents[1] / "data" / "lens_checkpoints"
NAMES = sorted(path.name for path in FOLDER.iterdir())
ONE = FOLDER / "NeelNanda--GELU_1L512W_C4_Code"


def in_a_cache(home: Path, name: str) -> str:
    """Put a checkpoint where a download from the hub would be; returns its hub id."""
    repository = home / f"models--{name}"
    shutil.copytree(FOLDER / name, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return name.replace("--", "/")


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformer_lens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hub id, since the first SoLU models are told by it; as they are, and processed as far as they can be."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    id = in_a_cache(tmp_path, name)
    told = load_file(FOLDER / name / "logits.safetensors")
    model = HookedTransformer.from_pretrained_no_processing(id, device="cpu", cache_dir=str(tmp_path))
    assert model.cfg.model_name == id
    assert_close(model(told["tokens"]), told["plain"], 1e-5)
    processed = HookedTransformer.from_pretrained(id, device="cpu", cache_dir=str(tmp_path))(told["tokens"])
    assert_close(processed.log_softmax(-1), told["plain"].log_softmax(-1), 1e-5)
    if not model.cfg.final_rms:  # centring a stream that an RMSNorm reads, TransformerLens changes probabilities there
        assert_close(processed.log_softmax(-1), told["processed"].log_softmax(-1), 1e-5)


def test_a_folder_is_read_likewise(tmp_path: Path) -> None:
    told = load_file(ONE / "logits.safetensors")
    model = HookedTransformer.from_pretrained_no_processing(str(ONE), device="cpu", default_prepend_bos=False)
    assert_close(model(told["tokens"]), told["plain"], 1e-5)
    assert not model.cfg.default_prepend_bos
    assert model.tokenizer is None
    assert model.processing_report()[0] == "fold_ln: not asked for"
    double = HookedTransformer.from_pretrained(str(ONE), device="cpu", dtype="float64")
    assert double.W_E.dtype == torch.float64


def test_its_tokenizer_is_the_one_that_it_names(tmp_path: Path) -> None:
    folder = shutil.copytree(ONE, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "words")
    settings = json.loads((folder / "config.json").read_text()) | dict(tokenizer_name=str(tmp_path / "words"))
    (folder / "config.json").write_text(json.dumps(settings))
    model = HookedTransformer.from_pretrained(str(folder), device="cpu", default_padding_side="left")
    assert model.tokenizer is not None
    assert model.tokenizer.get_vocab() == word_tokenizer().get_vocab()
    assert model.default_padding_side == "left"


def test_steps_of_its_training(tmp_path: Path) -> None:
    """They are files beside the last one; numbers above a thousand million count tokens."""
    folder = shutil.copytree(ONE, tmp_path / "model")
    weights = torch.load(folder / "model_final.pth", weights_only=True)
    (folder / "checkpoints").mkdir()
    for step in (9, 100):
        changed = weights | {"unembed.b_U": torch.full_like(weights["unembed.b_U"], step)}
        torch.save(changed, folder / "checkpoints" / f"GELU_1L_{step:04}.pth")
    assert checkpoint_labels(str(folder)) == ([9, 100], "step")
    for asked, step in ((dict(checkpoint_value=100), 100), (dict(checkpoint_index=0), 9)):
        model = HookedTransformer.from_pretrained_no_processing(str(folder), device="cpu", **asked)
        assert (model.b_U == step).all()
    torch.save(weights, folder / "checkpoints" / "GELU_1L_22000000000.pth")
    assert checkpoint_labels(str(folder)) == ([9, 100, 22_000_000_000], "token")
    with pytest.raises(BadInput, match="no checkpoint of step 5; the nearest is 9"):
        HookedTransformer.from_pretrained(str(folder), device="cpu", checkpoint_value=5)


@pytest.mark.parametrize(
    ("settings", "options", "error", "message"),
    [
        ({}, dict(first_n_layers=1), BadInput, "takes no first_n_layers=1"),
        ({}, dict(n_ctx=3), BadInput, "n_ctx must be 7 for this checkpoint, got 3"),
        ({}, dict(output_attentions=True), BadInput, "takes no output_attentions=True"),
        (dict(act_fn="swish"), {}, CheckpointError, "act_fn must be "),
        (dict(d_model=7), {}, CheckpointError, "must have shape|shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: dict, options: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(ONE, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | settings))
    with pytest.raises(error, match=message):
        HookedTransformer.from_pretrained(str(folder), device="cpu", **options)


def test_files_that_are_missing_or_hold_code(tmp_path: Path) -> None:
    folder = shutil.copytree(ONE, tmp_path / "model")
    torch.save({"embed.W_E": print}, folder / "model_final.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        HookedTransformer.from_pretrained(str(folder), device="cpu")
    (folder / "model_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no file that ends with 'final\.pth'; found config\.json"):
        HookedTransformer.from_pretrained(str(folder), device="cpu")


# --------------------------------------------------------------------------------------------------------------- names


def test_every_alias_is_a_hub_id_whatever_its_capitals() -> None:
    assert len(hub_names()) > 240
    assert len(aliases()) > 400
    for id, others in hub_names().items():
        assert locate(id) == id == locate(id.upper())
        for alias in others:
            assert locate(alias) == locate(alias.lower()) == locate(alias.upper()) == id
    assert locate("attn-only-1l") == "NeelNanda/Attn_Only_1L512W_C4_Code"
    assert locate("gpt2") == "gpt2", "an id of the hub, under which older caches hold it"


def test_a_folder_of_that_name_is_not_hidden_by_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ONE, tmp_path / "eleutherai" / "pythia-70m")
    monkeypatch.chdir(tmp_path)
    assert locate("eleutherai/pythia-70m") == "eleutherai/pythia-70m"
