"""Mistakes that newcomers make are refused with a message that says what was expected, what came, and what to do."""

import shlex
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers

from interp_hooks import HookedTransformer
from interp_hooks.cli import main
from interp_hooks.corpus.evals import repeated_tokens
from interp_hooks.errors import CheckpointError, InterpHooksError, UnsupportedArchitecture
from interp_hooks.studies import head_metrics
from tests.mistakes import CALLS, COMMANDS, SETTING
from tests.stranger import NAMES, judged_message
from tests.tiny import distance, unchecked_types

Desk = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A folder with what `SETTING` puts there, and its names."""
    folder, names = tmp_path_factory.mktemp("desk"), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patched, unchecked_types():
        patched.chdir(folder)
        exec(SETTING, names)
    return folder, names


@pytest.fixture(autouse=True)
def without_hub(monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(desk[0])


@pytest.mark.parametrize("mistake", CALLS, ids=[line for line, *_ in CALLS])
def test_a_call_is_refused_in_words_and_leaves_no_hook(mistake: tuple[str, ...], desk: Desk) -> None:
    line, *words = mistake
    names = desk[1]
    with unchecked_types(), pytest.raises(InterpHooksError) as refused:
        exec(line, names)
    assert judged_message(str(refused.value), words) is None
    assert not any(point.hooked for point in names["model"].hook_points())


@pytest.mark.parametrize("mistake", COMMANDS, ids=[f"interp-hooks {line}" for line, *_ in COMMANDS])
def test_a_command_is_refused_with_one_message(
    mistake: tuple[str, ...], desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    line, *words = mistake
    before = {path: path.stat().st_mtime for path in desk[0].rglob("*")}
    with unchecked_types():
        try:
            left = main(shlex.split(line))
        except SystemExit as stopped:  # of argparse
            left = stopped.code
    said = capsys.readouterr().err
    assert left == 2
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    assert judged_message(said.partition("error: ")[2], words) is None
    assert {path: path.stat().st_mtime for path in desk[0].rglob("*")} == before


def test_each_command_is_mistyped() -> None:
    assert {line.partition(" ")[0] for line, *_ in COMMANDS} >= {*NAMES}


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_answer(name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("We couldn't connect") from huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", no_answer)
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached to ask for 'gpt2'") as known:
        HookedTransformer.from_pretrained("gpt2")
    assert "Did you mean" not in str(known.value), "the name is right"
    assert "alias" not in str(known.value), "it is one"
    with pytest.raises(CheckpointError, match="Did you mean gpt2-small"):
        HookedTransformer.from_pretrained("gpt2-smal")
    assert len(asked) == 2


def test_a_hub_that_says_no_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object, **__: object) -> None:
        raise OSError("nobody/none is not a valid model identifier")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", no)
    with pytest.raises(CheckpointError, match=r"did not give a config for 'nobody/none' \(nobody/none is not a valid"):
        HookedTransformer.from_pretrained("nobody/none")


def test_the_way_out_for_another_head_leads_out(tmp_path: Path) -> None:
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=30)
    config = transformers.BertConfig(**sizes, max_position_embeddings=12)
    transformers.BertForPreTraining(config).eval().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match=r"pass hf_model=transformers\.BertForMaskedLM\.from_pretrained"):
        HookedTransformer.from_pretrained(tmp_path)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    ours = HookedTransformer.from_pretrained("mine", hf_model=theirs)
    tokens = torch.randint(30, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert distance(ours(tokens).log_softmax(-1), theirs(tokens).logits.log_softmax(-1)) < 1e-5


def test_a_folder_may_be_a_path(tmp_path: Path) -> None:
    model = HookedTransformer.from_pretrained(Path("induction-2l"))
    model.save_pretrained(tmp_path / "kept")
    again = HookedTransformer.from_pretrained(tmp_path / "kept")
    assert torch.equal(again.W_E, model.W_E)


def test_tokens_that_are_drawn_lie_where_the_model_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says that it is elsewhere gets tokens there, without prompts of the caller's."""
    model = desk[1]["silent"]
    elsewhere = torch.device("meta")
    monkeypatch.setattr(type(model), "device", property(lambda _: elsewhere))
    assert repeated_tokens(model, 2, 5).device == elsewhere
    seen = []
    monkeypatch.setattr("interp_hooks.studies.heads.metrics.metrics_of_batch", lambda _, run, sink: seen.append(run))
    monkeypatch.setattr("interp_hooks.studies.heads.metrics.added", list)
    with unchecked_types():
        head_metrics(model, n=2, subseq_len=5)
    assert {run.tokens.device for run in seen} == {run.attention_mask.device for run in seen} == {elsewhere}
