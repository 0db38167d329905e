"""A plain checkpoint is read without transformers' model, to the same bits; any other is left to transformers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError
from interp_hooks.loading import load, plain
from interp_hooks.loading.families import FAMILIES
from tests.family_configs import CONFIGS
from tests.test_families import member
from tests.tiny import fresh_hf, random_tokens

TOLD = [name for name, entry in CONFIGS.items() if FAMILIES[entry["model_type"]].lacks is not None]
WPE = "transformer.wpe.weight"
PLAIN = ("gpt2", "gpt2-tied-scaled", "neox", "neox-serial")


def both_ways(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[HookedTransformer]:
    """A checkpoint loaded as it is by default, and through transformers' model."""
    direct = HookedTransformer.from_pretrained(str(folder), **options)
    monkeypatch.setattr(load, "plain_tensors", lambda *_: None)
    return [direct, HookedTransformer.from_pretrained(str(folder), **options)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each checkpoint that was loaded was plain."""
    found: list[bool] = []

    def noted(*given: Any) -> dict[str, Tensor] | None:
        state = plain.plain_tensors(*given)
        found.append(state is not None)
        return state

    monkeypatch.setattr(load, "plain_tensors", noted)
    return found


def saved(name: str, folder: Path) -> Path:
    hf = fresh_hf(name)
    hf.generation_config.eos_token_id = [3, 5]
    hf.save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", TOLD)
def test_biases_that_a_family_has_not_are_told_right(name: str) -> None:
    hf = member(name)
    family, state = FAMILIES[CONFIGS[name]["model_type"]], hf.state_dict()
    cfg = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf).cfg
    named = plain._named(state, family, hf.config, list(plain.rules(family.weights, cfg.n_layers, cfg.mixer_kinds)))
    tied = hf.config.tie_word_embeddings
    assert (named is None) == (tied or family.model_type == "openai-gpt")  # no file of a tied model has a head
    if named is not None:
        ignored = [name for name in state if any(plain.re.fullmatch(one, name) for one in family.ignored_weights)]
        assert named.keys() == state.keys() - {*ignored}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PLAIN)
def test_both_ways_give_the_same_bits(
    name: str, dtype: str, tmp_path: Path, reads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, through = both_ways(saved(name, tmp_path), monkeypatch, dtype=dtype)
    assert reads == [True]
    assert direct.cfg == through.cfg
    assert direct.cfg.eos_token_ids == (3, 5)
    assert direct.processing_report() == through.processing_report()
    ours, theirs = direct.state_dict(), through.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
        assert value.stride() == theirs[key].stride(), key
    assert direct.embed.W_E.data_ptr() != direct.unembed.W_U.data_ptr()


def test_files_are_left_as_they_are(tmp_path: Path) -> None:
    before = (saved("gpt2", tmp_path) / "model.safetensors").read_bytes()
    model = HookedTransformer.from_pretrained(str(tmp_path))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["gpt2", "gpt2-tied-scaled"])
def test_transformers_model_is_not_imported(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    code = (
        "import sys; from interp_hooks import HookedTransformer; HookedTransformer.from_pretrained(sys.argv[1]);"
        "print([name for name in sys.modules if name == 'sympy' or 'modeling_gpt2' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _without_body(state: dict[str, Tensor]) -> None:
    for name in list(state):
        state[name.removeprefix("transformer.")] = state.pop(name)
    state["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)  # a causal mask, as in the published GPT-2


def test_files_of_the_model_without_its_head(
    tmp_path: Path, reads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(saved("gpt2-tied-scaled", tmp_path), _without_body)
    direct, through = both_ways(tmp_path, monkeypatch)
    assert reads == [True]
    assert torch.equal(direct(random_tokens()), through(random_tokens()))


NOT_PLAIN: dict[str, Callable[[Path], object]] = {
    "a bias is missing": lambda at: rewritten(at, lambda state: state.pop("transformer.h.0.ln_1.bias")),
    "the head is missing": lambda at: rewritten(at, lambda state: state.pop("lm_head.weight")),
    "a tensor too many": lambda at: rewritten(at, lambda state: state.update(other=torch.ones(2))),
    "a bias too many": lambda at: rewritten(at, lambda state: state.update({"lm_head.bias": torch.ones(48)})),
    "more positions": lambda at: rewritten(at, lambda state: state.update({WPE: torch.ones(99, 24)})),
    "cut off": lambda at: (at / "model.safetensors").write_bytes((at / "model.safetensors").read_bytes()[:999]),
    "tied and untied": lambda at: _configured(at, tie_word_embeddings=True),
}


def _configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_transformers(what: str, tmp_path: Path, reads: list[bool]) -> None:
    NOT_PLAIN[what](saved("gpt2", tmp_path))
    if what == "tied and untied":
        HookedTransformer.from_pretrained(str(tmp_path))
    else:
        with pytest.raises(CheckpointError):
            HookedTransformer.from_pretrained(str(tmp_path))
    assert reads == [False] or not reads  # `check_room` may have refused it before


def test_arguments_for_transformers_go_to_transformers(tmp_path: Path, reads: list[bool]) -> None:
    HookedTransformer.from_pretrained(str(saved("gpt2", tmp_path)), attn_implementation="eager")
    assert reads == [False]
