"""A plain checkpoint is read without transformers' model, to the same bits; any other is left to transformers."""

import copy
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
from transformers import AutoModelForCausalLM

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError
from interp_hooks.loading import load, plain
from interp_hooks.loading.families import FAMILIES
from tests.family_configs import CONFIGS
from tests.test_families import member
from tests.tiny import random_tokens

PLAIN = [name for name, entry in CONFIGS.items() if entry["model_type"] in plain.LACKING]
WPE, Q_NORM = "transformer.wpe.weight", "model.layers.1.self_attn.q_norm.weight"


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
    hf = copy.deepcopy(member(name))
    hf.generation_config.eos_token_id = [3, 5]
    hf.save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_every_type_that_may_be_plain_has_a_member() -> None:
    assert {CONFIGS[name]["model_type"] for name in PLAIN} == {*plain.LACKING}


BIASES = ("attention_bias", "mlp_bias")


@pytest.mark.parametrize("turned", [(), BIASES[:1], BIASES[1:]])
@pytest.mark.parametrize("name", PLAIN)
def test_what_a_type_lacks_is_told_right(name: str, turned: tuple[str, ...]) -> None:
    config = copy.deepcopy(member(name).config)
    for bias in turned:
        if not hasattr(config, bias):
            pytest.skip(f"its config has no {bias}")
        setattr(config, bias, not getattr(config, bias))
    with torch.device("meta"):
        there = AutoModelForCausalLM.from_config(config).state_dict()
    family, state = FAMILIES[config.model_type], dict(there)
    if config.tie_word_embeddings:
        del state["lm_head.weight"]  # which no file has then
    named = plain._named(state, family, config, list(plain.rules(family.weights, config.num_hidden_layers)))
    ignored = [name for name in state if any(plain.re.fullmatch(one, name) for one in family.ignored_weights)]
    assert named is not None
    assert named.keys() == there.keys() - {*ignored}


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


def test_transformers_model_is_not_imported(tmp_path: Path) -> None:
    names = ["gpt2", "gpt2-tied-scaled", "llama-tied-ungrouped-llama3", "gemma2", "qwen3"]
    folders = [str(saved(name, tmp_path / name)) for name in names]
    code = (
        "import sys, torch; had = {*sys.modules, 'transformers.models.auto.modeling_auto'};"
        "from interp_hooks import HookedTransformer as Model; [*map(Model.from_pretrained, sys.argv[1:])];"
        "heavy = {'sympy', 'torch._dynamo', 'torch.distributed.tensor', 'transformers.activations'};"
        "new = sys.modules.keys() - had;"
        "print(*(name for name in new if name in heavy or 'modeling_' in name and '.models.' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_names_of_activations_are_checked_as_before(tmp_path: Path) -> None:
    saved("llama-tied-ungrouped-llama3", tmp_path)
    code = (
        "import sys; from interp_hooks import HookedTransformer as Model; Model.from_pretrained(sys.argv[1]);"
        "from transformers.utils.type_validators import ACT2FN as asked;"
        "assert 'transformers.activations' not in sys.modules;"
        "assert 'silu' in asked and 'no activation' not in asked;"
        "from transformers.activations import ACT2FN as table;"
        "assert [*asked] == [*table] and type(asked['silu']) is type(table['silu'])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


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


NOT_PLAIN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bias is missing": (
        "gpt2",
        lambda at: rewritten(at, lambda state: state.pop("transformer.h.0.ln_1.bias")),
    ),
    "the head is missing": ("gpt2", lambda at: rewritten(at, lambda state: state.pop("lm_head.weight"))),
    "a tensor too many": ("gpt2", lambda at: rewritten(at, lambda state: state.update(other=torch.ones(2)))),
    "a bias too many": ("gpt2", lambda at: rewritten(at, lambda state: state.update({"lm_head.bias": torch.ones(48)}))),
    "more positions": ("gpt2", lambda at: rewritten(at, lambda state: state.update({WPE: torch.ones(99, 24)}))),
    "cut off": (
        "gpt2",
        lambda at: (at / "model.safetensors").write_bytes((at / "model.safetensors").read_bytes()[:999]),
    ),
    "tied and untied": ("gpt2", lambda at: _configured(at, tie_word_embeddings=True)),
    "biases that the files lack": ("llama", lambda at: _configured(at, attention_bias=True)),
    "biases that the config denies": ("llama-biases", lambda at: _configured(at, mlp_bias=False)),
    "no norm of queries": ("qwen3", lambda at: rewritten(at, lambda state: state.pop(Q_NORM))),
    "a norm of queries too many": (
        "llama",
        lambda at: rewritten(at, lambda state: state.update({Q_NORM: torch.ones(6)})),
    ),
}


def _configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_transformers(what: str, tmp_path: Path, reads: list[bool]) -> None:
    name, spoil = NOT_PLAIN[what]
    spoil(saved(name, tmp_path))
    if what == "tied and untied":
        HookedTransformer.from_pretrained(str(tmp_path))
    else:
        with pytest.raises(CheckpointError):
            HookedTransformer.from_pretrained(str(tmp_path))
    assert reads == [False] or not reads  # `check_room` may have refused it before


def test_arguments_for_transformers_go_to_transformers(tmp_path: Path, reads: list[bool]) -> None:
    HookedTransformer.from_pretrained(str(saved("gpt2", tmp_path)), attn_implementation="eager")
    assert reads == [False]
