"""Saved models come back bit by bit; folders and state dicts that do not fit are refused by name."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, CheckpointError, WeightMismatch
from interp_hooks.loading.checkpoints import CONFIG, WEIGHTS
from interp_hooks.loading.native import SPLICED
from tests.children import in_a_child
from tests.model.test_tokens import word_tokenizer
from tests.tiny import (
    ARCHITECTURES,
    assert_close,
    build,
    convert,
    fresh_hf,
    hooked,
    log_probs,
    our_logits,
    random_tokens,
    redraw,
    shared_hf,
)

TOKENS = random_tokens(d_vocab=23)


def assert_same(one: HookedTransformer, other: HookedTransformer) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.dtype == theirs[name].dtype
        assert torch.equal(weight, theirs[name]), name
        assert weight.shape == theirs[name].shape
        assert weight.squeeze().stride() == theirs[name].squeeze().stride(), f"{name} lies in another order"
    assert one.cfg == other.cfg


# -------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_model_comes_back(name: str, tmp_path: Path) -> None:
    """Weights, dtype, config and logits, without processing."""
    model = hooked(name)
    model.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained_no_processing(str(tmp_path), device="cpu")
    assert_same(back, model)
    assert not back.training
    tokens = random_tokens(d_vocab=min(model.cfg.d_vocab, 19))
    # float64; memory that begins elsewhere may be summed in another order
    assert_close(our_logits(back, tokens), our_logits(model, tokens), 1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loading_processes_as_always(name: str, tmp_path: Path) -> None:
    """No probability changes."""
    model = hooked(name)
    model.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained(str(tmp_path), device="cpu")
    tokens = random_tokens(d_vocab=min(model.cfg.d_vocab, 19))
    assert_close(log_probs(our_logits(back, tokens)), log_probs(our_logits(model, tokens)), 1e-9)  # float64
    told = {line.partition(":")[0] for line in back.processing_report() if line.endswith("applied")}
    assert "fold_ln" in told or model.cfg.norm_is_folded or name in ("post-norm", "shortformer", "streams")


def test_what_was_processed_is_not_processed_again(tmp_path: Path) -> None:
    processed = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"), device="cpu")
    processed.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained(str(tmp_path), device="cpu")
    assert_same(back, processed)
    assert back.processing_report() == processed.processing_report()


def test_edits_are_saved_and_shared_memory_is_not_lost(tmp_path: Path) -> None:
    model = build(d_vocab_out=23)
    model.unembed.W_U = torch.nn.Parameter(model.embed.W_E.T)
    model.save_pretrained(str(tmp_path / "new" / "folder"))
    back = HookedTransformer.from_pretrained_no_processing(str(tmp_path / "new" / "folder"), device="cpu")
    assert torch.equal(back.W_U, model.W_E.T)


def test_dtype_and_padding_side_are_those_saved_unless_given(tmp_path: Path) -> None:
    model = HookedTransformer(build().cfg, word_tokenizer(), default_padding_side="left").bfloat16()
    model.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained_no_processing(str(tmp_path), device="cpu")
    assert (back.dtype, back.cfg.dtype, back.text.padding_side) == (torch.bfloat16, torch.bfloat16, "left")
    assert torch.equal(back.to_tokens(["the cat", "sat"]), model.to_tokens(["the cat", "sat"]))
    other = HookedTransformer.from_pretrained_no_processing(
        str(tmp_path), device="cpu", dtype="float32", default_padding_side="right", default_prepend_bos=False
    )
    assert (other.dtype, other.text.padding_side, other.cfg.default_prepend_bos) == (torch.float32, "right", False)


def test_a_huggingface_folder_stays_one(tmp_path: Path) -> None:
    shared_hf("gpt2").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a HuggingFace checkpoint"):
        build().save_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text("{}", encoding="utf-8")
    model = HookedTransformer.from_pretrained_no_processing(str(tmp_path), device="cpu")
    assert torch.equal(model.W_E, shared_hf("gpt2").transformer.wte.weight)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path)
    return tmp_path


def _description(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(description | changes), encoding="utf-8")


def test_damage_is_told(folder: Path) -> None:
    def load(**options: Any) -> HookedTransformer:
        return HookedTransformer.from_pretrained(str(folder), device="cpu", **options)

    for given in (dict(n_ctx=4), dict(first_n_layers=1), dict(revision="main"), dict(ignore_config=["x"])):
        with pytest.raises(BadInput, match=f"it takes no {next(iter(given))}="):
            load(**given)
    with pytest.raises(BadInput, match="it takes no trust_remote_code"):
        load(trust_remote_code=True)
    config = build().cfg.to_dict() | {"dtype": "float64", "device": "cpu"}
    _description(folder, config=config | {"n_layer": 3})
    with pytest.raises(CheckpointError, match=r"no field 'n_layer'. Did you mean n_layers"):
        load()
    _description(folder, config=config | {"d_mlp": 21})
    with pytest.raises(CheckpointError, match=r"W_in shape \[12, 20\], expected \[12, 21\]"):
        load()
    _description(folder, config=config, format=2)
    with pytest.raises(CheckpointError, match="saved in format 2, and this version reads 1"):
        load()
    (folder / CONFIG).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load()


# ------------------------------------------------------------------------------------------------------------- kills


def _one(kind: str) -> HookedTransformer:
    """Models of which none fits another's config, tokenizer or spliced module, and yet most of their weights do."""
    tokenizer = word_tokenizer() if kind in ("old", "spliced") else None
    model = HookedTransformer(build().cfg.replace(attn_scale=2.0 if kind == "old" else 3.0), tokenizer)
    redraw(model, seed=len(kind))
    if kind == "spliced":
        model.splice("mlp_out1", torch.nn.Linear(12, 12, dtype=torch.float64))
    return model.eval()


def _step_by_step(monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    """Let the process end at one of the steps in which files come, go and change places."""
    left = end

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return function(*args, **options)

        return call

    for name in ("replace", "unlink", "write_text"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


@pytest.mark.parametrize("kind", ["new", "spliced"])
def test_a_save_that_is_killed_anywhere_leaves_no_mixture(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loads is the old model or the new one, whole; else loading says that it was not saved to the end."""
    old, new, folder = _one("old"), _one(kind), tmp_path / "model"
    expected = {"old": old(TOKENS), kind: new(TOKENS)}
    seen = set[str]()
    for end in range(1, 30):
        old.save_pretrained(folder)
        with monkeypatch.context() as patched:
            code = in_a_child(lambda end=end, at=patched: (_step_by_step(at, end), new.save_pretrained(folder))).wait()
        if not (folder / CONFIG).exists():
            with pytest.raises(CheckpointError, match="was not saved to the end"):
                HookedTransformer.from_pretrained(str(folder))
            seen.add("refused")
            continue
        splices = {"blocks.1.hook_mlp_out": torch.nn.Linear(12, 12)} if (folder / SPLICED).exists() else {}
        back = HookedTransformer.from_pretrained_no_processing(str(folder), device="cpu", splices=splices)
        (which,) = (name for name, logits in expected.items() if torch.equal(back(TOKENS), logits))
        assert (back.tokenizer is None) == ({"old": old, kind: new}[which].tokenizer is None)
        seen.add(which)
        if code == 0:
            break
    assert seen == {"old", kind, "refused"}
    assert not [path for path in folder.iterdir() if path.suffix == ".partial" or path.name == "lock"]


def test_files_of_two_saves_are_refused(tmp_path: Path) -> None:
    """As after a copy that was interrupted."""
    for kind in ("old", "spliced"):
        _one(kind).save_pretrained(tmp_path / kind)
    splices = {"blocks.1.hook_mlp_out": torch.nn.Linear(12, 12)}
    for name in (WEIGHTS, SPLICED):
        mixed = tmp_path / f"mixed {name}"
        shutil.copytree(tmp_path / "spliced", mixed)
        _one("spliced").save_pretrained(tmp_path / "again")
        shutil.copy(tmp_path / "again" / name, mixed / name)
        with pytest.raises(CheckpointError, match=rf"{name}' is of another save than {CONFIG} beside it"):
            HookedTransformer.from_pretrained(str(mixed), splices=splices)


def test_no_tokenizer_of_an_earlier_save_is_taken(tmp_path: Path) -> None:
    _one("old").save_pretrained(tmp_path)
    _one("new").save_pretrained(tmp_path)
    assert HookedTransformer.from_pretrained(str(tmp_path)).tokenizer is None
    _one("old").save_pretrained(tmp_path)
    for path in tmp_path.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer that .* was saved with is not there"):
        HookedTransformer.from_pretrained(str(tmp_path))
    assert HookedTransformer.from_pretrained(str(tmp_path), tokenizer=word_tokenizer()).tokenizer is not None


def test_a_missing_or_broken_weight_file_is_told(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        HookedTransformer.from_pretrained(str(folder))
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"no file .*{WEIGHTS}"):
        HookedTransformer.from_pretrained(str(folder))


def test_several_devices_need_a_map() -> None:
    with pytest.raises(BadInput, match="n_devices=2: to spread a model, pass device_map"):
        HookedTransformer.from_pretrained("tiny", hf_model=fresh_hf("gpt2"), n_devices=2)
    model = HookedTransformer.from_pretrained("tiny", hf_model=fresh_hf("gpt2"), n_devices=1, move_to_device=False)
    assert model.device == torch.device("cpu")


# --------------------------------------------------------------------------------------------------------- state dicts


def test_buffers_and_names_of_old_files_are_no_obstacle() -> None:
    model, other = build(n_key_value_heads=2), build(seed=3, n_key_value_heads=2)
    old = {
        name.replace("attn.W_K", "attn._W_K").replace("attn.b_V", "attn._b_V"): w
        for name, w in model.state_dict().items()
    }
    for layer in range(3):
        old[f"blocks.{layer}.attn.mask"] = torch.ones(9, 9).tril().bool()
        old[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-torch.inf)
        old[f"blocks.{layer}.attn.rotary_sin"] = old[f"blocks.{layer}.attn.rotary_cos"] = torch.zeros(9, 4)
    found = other.load_state_dict(old)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert torch.equal(our_logits(other, TOKENS), our_logits(model, TOKENS))
    assert set(model.state_dict()) == set(other.state_dict())
    assert "blocks.0.attn.W_Q" in model.state_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.1.attn.W_Q"), r"lacks 1 weights \(blocks.1.attn.W_Q\)"),
        (
            lambda state: state.update({"blocks.0.attn.W_X": torch.ones(1)}),
            r"no place for 1 weights \(blocks.0.attn.W_X",
        ),
        (lambda state: state.update({"embed.mask": torch.ones(1)}), "no place for .*embed.mask"),
        (
            lambda state: state.update({"blocks.1.attn.WQ": state.pop("blocks.1.attn.W_Q")}),
            r"lacks 1 .* and .* no place for 1 .*Did you mean blocks.1.attn.W_Q",
        ),
        (
            lambda state: state.update({"unembed.b_U": torch.ones(20)}),
            r"unembed.b_U has shape \[20\], expected \[19\]",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change: Any, said: str) -> None:
    model, state = build(), dict(build(seed=3).state_dict())
    before = copy.deepcopy(model.state_dict())
    change(state)
    with pytest.raises(WeightMismatch, match=said):
        model.load_state_dict(state)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_without_strict_some_weights_are_loaded_and_the_rest_is_returned() -> None:
    model, state = build(), build(seed=3).state_dict()
    W_Q = model.blocks[0].attn.W_Q.clone()
    found = model.load_state_dict({"embed.W_E": state["embed.W_E"], "else": torch.ones(1)}, strict=False)
    assert torch.equal(model.W_E, state["embed.W_E"])
    assert torch.equal(model.blocks[0].attn.W_Q, W_Q)
    assert found.unexpected_keys == ["else"]
    assert len(found.missing_keys) == len(state) - 1


def test_a_converted_model_loads_its_own_state_dict() -> None:
    model = convert(fresh_hf("llama"))
    twin = convert(fresh_hf("llama"))
    redraw(twin, seed=8)
    twin.load_state_dict(model.state_dict())
    assert_same(twin, model)


# TransformerLens' gated MLP is (act(x W_gate) * (x W_in) + b_in) W_out + b_out: it has no b_gate.


def lens_mlp(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    W_gate, W_in, W_out, b_in, b_out = (
        state[f"blocks.1.mlp.{leaf}"] for leaf in ("W_gate", "W_in", "W_out", "b_in", "b_out")
    )
    return (torch.nn.functional.silu(x @ W_gate) * (x @ W_in) + b_in) @ W_out + b_out


@pytest.mark.parametrize("strict", [True, False])
@torch.no_grad()
def test_a_gated_state_dict_of_transformer_lens(strict: bool) -> None:
    model, other = (build(gated_mlp=True, act_fn="silu", seed=seed) for seed in (0, 3))
    theirs = {name: weight.clone() for name, weight in other.state_dict().items() if not name.endswith("b_gate")}
    found = model.load_state_dict(theirs, strict=strict)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    x = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(1, 3, 12)
    assert_close(model.blocks[1].mlp(x), lens_mlp(theirs, x), 1e-12)
    assert bool(theirs["blocks.1.mlp.b_in"].any()), "the given state dict stays as it is"


@torch.no_grad()
def test_some_weights_of_a_gated_mlp() -> None:
    """Some of our own weights load alone; a `b_in` of TransformerLens needs the weights that tell what it writes."""
    model, state = build(gated_mlp=True), dict(build(gated_mlp=True, seed=3).state_dict())
    before = copy.deepcopy(model.state_dict())
    name = "blocks.1.mlp.b_in"
    theirs = {one: state[one] for one in (name, "blocks.1.mlp.W_gate", "blocks.1.mlp.W_in")}
    with pytest.raises(WeightMismatch, match=r"a blocks.1.mlp.b_in and no blocks.1.mlp.b_gate, as TransformerLens"):
        model.load_state_dict(theirs, strict=False)
    assert all(torch.equal(weight, before[one]) for one, weight in model.state_dict().items())
    model.load_state_dict({name: state[name]}, strict=False)
    model.load_state_dict(theirs | {"blocks.1.mlp.b_gate": state["blocks.1.mlp.b_gate"]}, strict=False)
    assert torch.equal(model.blocks[1].mlp.b_in, state[name])
    assert torch.equal(model.blocks[1].mlp.b_out, before["blocks.1.mlp.b_out"])


def test_the_embedding_norm_of_transformer_lens() -> None:
    fields = dict(post_embedding_ln=True, positional_embedding_type="rotary")
    model, other = build(**fields), build(seed=3, **fields)
    theirs = {name.replace("ln_embed.", "embed.ln."): weight for name, weight in other.state_dict().items()}
    assert "embed.ln.w" in theirs
    model.load_state_dict(theirs)
    assert_same(model, other)
