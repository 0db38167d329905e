"""Files that lie: refused by the package's own errors, before anything is built from them; no code of theirs runs."""

import contextlib
import copy
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from interp_hooks import (
    ComputationGraph,
    ExpertsConfig,
    HookedTransformer,
    HookedTransformerConfig,
    LogitDiff,
    Result,
    patch,
)
from interp_hooks.circuits import Circuit
from interp_hooks.errors import BadInput, CheckpointError, ConfigError, InterpHooksError
from interp_hooks.loading.checkpoints import read_tokenizer
from interp_hooks.loading.parity import verify_checkpoint
from interp_hooks.model.config import HookedTransformerConfig as Config
from tests.model.test_tokens import word_tokenizer
from tests.tiny import CUSTOM, EXPERTS, build, fresh_hf, random_tokens, unchecked_types

WRONG: list[Any] = [10**9, -1, None, "x", [], {}, [1], 1.5, float("nan"), float("inf"), [None], {"a": 1}]
GONE = object()


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a document with another value at a place, or without it."""
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of a list, the first two entries."""
    items = document.items() if isinstance(document, dict) else list(enumerate(document))[:2]
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def spoilt(document: Any, count: int) -> Iterator[Any]:
    """Some of the documents that differ in one place, drawn by a seed."""
    cases = [(path, value) for path in places(document) for value in (*WRONG, GONE)]
    for path, value in random.Random(0).sample(cases, min(count, len(cases))):
        yield put(document, path, value)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    build(**CUSTOM["output-norms"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    fresh_hf("llama").save_pretrained(folder)
    return folder


def load(folder: Path) -> HookedTransformer:
    return HookedTransformer.from_pretrained_no_processing(str(folder), device="cpu")


class Written:
    """A file with other content for the length of a `with` block."""

    def __init__(self, path: Path, content: bytes | str) -> None:
        self.path, self.content = path, content.encode() if isinstance(content, str) else content

    def __enter__(self) -> None:
        self.before = self.path.read_bytes() if self.path.exists() else None
        self.path.write_bytes(self.content)

    def __exit__(self, *error: object) -> None:
        self.path.unlink() if self.before is None else self.path.write_bytes(self.before)


# ------------------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize("kind", ["native", "checkpoint"])
def test_a_config_with_one_wrong_value_loads_or_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    """What loads computes: nothing is found out in the first pass."""
    folder = request.getfixturevalue(kind)
    file = folder / ("hooked_transformer.json" if kind == "native" else "config.json")
    refused = 0
    with unchecked_types():
        for document in spoilt(json.loads(file.read_text(encoding="utf-8")), 150):
            with Written(file, json.dumps(document)):
                try:
                    model = load(folder)
                except CheckpointError:
                    refused += 1
                    continue
            assert model(torch.tensor([[1, 2, 3]])).shape[:2] == (1, 3)
    assert refused > 75


@pytest.mark.parametrize("kind", ["native", "checkpoint"])
@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{{", "[" * 100_000, b"\xff\xfe\x00", "{}"])
def test_what_is_no_config(kind: str, text: Any, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    file = folder / ("hooked_transformer.json" if kind == "native" else "config.json")
    with Written(file, text), pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize(("kind", "field"), [("native", "n_layers"), ("checkpoint", "num_hidden_layers")])
@pytest.mark.parametrize("count", [10**9, 90_000])
def test_a_billion_layers_are_refused_at_once(
    kind: str, field: str, count: int, request: pytest.FixtureRequest
) -> None:
    """Most of them by the size of the files, before a list of them is made or a model of them is built."""
    folder = request.getfixturevalue(kind)
    file = folder / ("hooked_transformer.json" if kind == "native" else "config.json")
    config = json.loads(file.read_text(encoding="utf-8"))
    path = ("config", field) if kind == "native" else (field,)
    config = put(config, path, count)
    if kind == "native":
        config["config"]["rotary_layers"] = []
        config["config"]["positional_embedding_type"] = "none"
        config["config"]["rotary_dim"] = 0
    begun = time.perf_counter()
    with Written(file, json.dumps(config)), pytest.raises(CheckpointError, match=str(count)):
        load(folder)
    assert time.perf_counter() - begun < 5


def test_sixty_layers_in_five_kilobytes_take_no_memory(tmp_path: Path) -> None:
    fresh_hf("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    sizes = dict(num_hidden_layers=60, hidden_size=4096, intermediate_size=11008, num_attention_heads=32, head_dim=128)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | sizes), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"hold at most \d+ numbers, and the config says .* at least \d{10,}"):
        load(tmp_path)
    state, cfg = build().state_dict(), build().cfg.replace(d_model=12_000, n_heads=3000)
    with pytest.raises(CheckpointError, match="this state dict hold at most"):
        HookedTransformer.from_state_dict(state, cfg, device="cpu")


SMALL = dict(n_layers=2, d_model=8, n_ctx=4, n_heads=2, d_vocab=5, act_fn="relu")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("n_layers", 10**9, "n_layers must be at most 100000, got 1000000000"),
        ("n_layers", 2.5, "n_layers must be an int, got float 2.5"),
        ("n_layers", True, "n_layers must be an int, got bool True|n_layers must be an int, got int True"),
        ("d_model", "8", "d_model must be an int, got '8'"),
        ("n_ctx", 2**60, "n_ctx must be at most"),
        ("eps", "1e-5", "eps must be a number, got '1e-5'"),
        *(("eps", wrong, f"eps must be above 0 and below 1, got {wrong}") for wrong in (-1.0, 0.0, 1.5, float("nan"))),
        ("latent_eps", 1, "latent_eps must be above 0 and below 1, got 1"),
        ("rotary_base", 0.0, "rotary_base must be positive and finite, got 0.0"),
        ("embed_scale", -2.0, "embed_scale must be positive and finite, got -2.0"),
        ("residual_scale", 0, "residual_scale must be positive and finite, got 0"),
        ("logits_scale", float("inf"), "logits_scale must be positive and finite, got inf"),
        ("alibi_slopes", (0.5, -0.5), "alibi_slopes must be finite and at least 0, got -0.5"),
        ("attn_scale", float("inf"), "attn_scale must be finite"),
        ("output_logits_soft_cap", -2.0, "output_logits_soft_cap must be finite and at least 0"),
        ("embed_scale", None, "embed_scale must be a number, got NoneType"),
        ("gated_mlp", "yes", "gated_mlp must be a bool, got 'yes'"),
        ("window_sizes", (3, "x"), "window_sizes must be a tuple of"),
        ("window_sizes", 3, "window_sizes must be a tuple of"),
        ("rotary_scaling", [1], "rotary_scaling must be a mapping"),
        ("eos_token_ids", (1, -2), "eos_token_ids must be positive, got -2"),
        ("n_token_types", -1, "n_token_types must be at least 0, got -1"),
        ("model_name", 3, "model_name must be text, got int 3"),
        ("device", "abacus", "device must be one that torch knows, got 'abacus'"),
        ("experts", "many", "experts must be a ExpertsConfig, got 'many'"),
    ],
)
def test_fields_of_other_kinds_are_refused_by_name(field: str, value: Any, told: str) -> None:
    with unchecked_types(), pytest.raises(ConfigError, match=told):
        Config(**SMALL | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_experts", "4"), ("weight_scale", float("nan")), ("layers", (True, "no", 1)), ("n_groups", 0), ("colour", 3)],
)
def test_fields_of_experts_are_refused_by_name(field: str, value: Any) -> None:
    fields = {name: getattr(EXPERTS, name) for name in ExpertsConfig.__dataclass_fields__}
    with unchecked_types(), pytest.raises(ConfigError, match=field):
        HookedTransformerConfig.from_dict(SMALL | dict(n_layers=3, experts=fields | {field: value}))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default"},
        {"rope_type": "default", "rope_theta": "x"},
        {"rope_type": "default", "rope_theta": -1.0},
        {"rope_type": "linear", "rope_theta": 100.0, "factor": "2", "max_position_embeddings": 8},
        {"rope_type": 3, "rope_theta": 100.0},
        {},
    ],
)
def test_rotary_parameters_are_tried_when_a_model_is_made(rope: dict[str, Any]) -> None:
    cfg = Config(**SMALL, positional_embedding_type="rotary", rotary_layers=(rope, None))
    with pytest.raises(ConfigError, match=r"rotary (parameters|scaling) .*"):
        HookedTransformer(cfg)


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", ["native", "checkpoint"])
@pytest.mark.parametrize("damage", ["empty", "cut", "header", "zeros", "text", "shape", "offsets", "dtype", "missing"])
def test_damaged_weights_are_refused(kind: str, damage: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    file = folder / ("hooked_transformer.safetensors" if kind == "native" else "model.safetensors")
    good = file.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    name = sorted(key for key in header if key != "__metadata__")[3]
    changes: dict[str, Any] = {
        "shape": header | {name: header[name] | {"shape": [10**12]}},
        "offsets": header | {name: header[name] | {"data_offsets": [0, 10**15]}},
        "dtype": header | {name: header[name] | {"dtype": 3}},
        "missing": {key: value for key, value in header.items() if key != name},
    }
    text = json.dumps(changes.get(damage, header)).encode()
    whole = {
        "empty": b"",
        "cut": good[:-10],
        "header": (2**62).to_bytes(8, "little") + good[8:],
        "zeros": bytes(1000),
        "text": b"hello " * 100,
    }
    with Written(file, whole.get(damage, len(text).to_bytes(8, "little") + text + good[8 + length :])):
        with unchecked_types(), pytest.raises(CheckpointError):
            load(folder)


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\3\4" + bytes(99), b"\x80\x04N."])
def test_files_of_torch_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        HookedTransformer.from_state_dict(str(tmp_path / "weights.pt"), build().cfg)
    fresh_hf("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "weights.pt").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load(tmp_path)


@pytest.mark.parametrize("outside", ["../there/model.safetensors", "/etc/passwd", r"C:\weights", "a/../../b", "", 3])
def test_an_index_does_not_lead_out_of_its_folder(outside: Any, tmp_path: Path) -> None:
    """Transformers would follow it."""
    hf = fresh_hf("llama")
    hf.save_pretrained(tmp_path / "there")
    here = tmp_path / "here"
    here.mkdir()
    (here / "config.json").write_bytes((tmp_path / "there" / "config.json").read_bytes())
    index = {"metadata": {}, "weight_map": dict.fromkeys(hf.state_dict(), outside)}
    (here / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="which is not in its folder"):
        load(here)


# ---------------------------------------------------------------------------------------------------------------- code


def test_code_that_comes_with_a_checkpoint_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself, transformers asks on the terminal, and runs it after a "y"."""
    ran = tmp_path / "ran"
    touch = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
    code = f"{touch}from transformers import PretrainedConfig as C\nclass Config(C): ...\n"
    (tmp_path / "code.py").write_text(code, encoding="utf-8")
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Config", None]}
    config = {"model_type": "own", "architectures": ["Own"], "auto_map": auto, "tokenizer_class": "Own"}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(config), encoding="utf-8")
    named = HookedTransformerConfig(**SMALL, tokenizer_name=str(tmp_path))
    for read in (
        lambda: HookedTransformer.from_pretrained(str(tmp_path)),
        lambda: verify_checkpoint(str(tmp_path)),
        lambda: read_tokenizer(str(tmp_path)),
        lambda: HookedTransformer(named),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
        with pytest.raises(CheckpointError):
            read()
    assert not ran.exists()
    with pytest.raises(CheckpointError):
        HookedTransformer.from_pretrained(str(tmp_path), trust_remote_code=True)
    assert ran.exists(), "the caller said so"


# ---------------------------------------------------------------------------------------------- tokenizers, results


def test_tokenizers_with_one_wrong_value(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    for document in spoilt(json.loads(file.read_text(encoding="utf-8")), 60):
        with Written(file, json.dumps(document)):
            with contextlib.suppress(CheckpointError):
                assert isinstance(read_tokenizer(str(tmp_path)), PreTrainedTokenizerFast)


def test_circuits_of_impossible_sizes_are_refused_at_once(tmp_path: Path) -> None:
    circuit = ComputationGraph(build()).circuit(["input->m0"])
    circuit.save(tmp_path / "circuit")
    file = tmp_path / "circuit" / "circuit.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    begun = time.perf_counter()
    for field in ("n_layers", "n_heads"):
        with Written(file, json.dumps(put(document, ("circuit", "graph", field), 10**9))):
            with pytest.raises(BadInput, match=r"at most 1\.7e\+10 fit into memory"):
                Circuit.load(tmp_path / "circuit")
    assert time.perf_counter() - begun < 2
    with unchecked_types():
        for changed in spoilt(document, 150):
            with Written(file, json.dumps(changed)):
                try:
                    assert Circuit.load(tmp_path / "circuit").graph == circuit.graph
                except InterpHooksError:
                    pass
                except AssertionError:
                    assert Circuit.load(tmp_path / "circuit").graph.layout != circuit.graph.layout


def save_result(folder: Path) -> None:
    model, tokens = build(), random_tokens(d_vocab=19)
    patch(model, tokens, tokens.flip(0), LogitDiff(1, 2), "resid_pre", progress=False).save(folder)


def test_records_with_one_wrong_value(tmp_path: Path) -> None:
    save_result(tmp_path / "result")
    with unchecked_types():
        for name in ("result.json", "call.json"):
            file = tmp_path / "result" / name
            for changed in spoilt(json.loads(file.read_text(encoding="utf-8")), 100):
                with Written(file, json.dumps(changed)):
                    with contextlib.suppress(BadInput):
                        repr(Result.load(tmp_path / "result"))


@pytest.mark.parametrize("value", [{"range": [0, 10**9, 1]}, {"range": [10**9, 0, -1]}, {"ref": 10**9}, {"tensor": 99}])
def test_an_axis_of_a_billion_entries_is_refused_at_once(value: Any, tmp_path: Path) -> None:
    save_result(tmp_path / "result")
    file = tmp_path / "result" / "result.json"
    document = put(json.loads(file.read_text(encoding="utf-8")), ("result", "metric"), value)
    with Written(file, json.dumps(document)), pytest.raises(BadInput, match=r"is damaged|at most 16777216 entries"):
        Result.load(tmp_path / "result")


@pytest.mark.parametrize("name", ["nn", "manual_seed", "torch.load", "hub", "float8", "", "set_default_dtype", 3, None])
def test_a_record_names_dtypes_and_nothing_else_of_torch(name: Any, tmp_path: Path) -> None:
    """Any other attribute could be called where it stands for a metric."""
    save_result(tmp_path / "result")
    file = tmp_path / "result" / "call.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    for call in document["calls"]:
        for arguments in call.values():
            arguments["metric"] = {"dtype": name}
    with Written(file, json.dumps(document)), pytest.raises(BadInput, match=r"may hold dtypes of torch|is damaged"):
        Result.load(tmp_path / "result")
