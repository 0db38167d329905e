"""Weights that are nan or infinite are refused by the name that they have in the checkpoint, unless allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError, WeightMismatch
from tests.tiny import build, fresh_hf

BAD = [float("nan"), float("inf"), -float("inf")]


def spoilt(number: float) -> PreTrainedModel:
    hf = fresh_hf("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight[2, 3] = number
    return hf


def as_object(tmp_path: Path, number: float, **options: Any) -> HookedTransformer:
    return HookedTransformer.from_pretrained("tiny", hf_model=spoilt(number), **options)


def as_folder(tmp_path: Path, number: float, **options: Any) -> HookedTransformer:
    spoilt(number).save_pretrained(tmp_path)
    return HookedTransformer.from_pretrained(str(tmp_path), **options)


def as_native(tmp_path: Path, number: float, **options: Any) -> HookedTransformer:
    build().save_pretrained(tmp_path)
    path = tmp_path / "hooked_transformer.safetensors"
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights["blocks.1.mlp.W_in"][2, 3] = number
    save_file(weights, path, metadata)
    return HookedTransformer.from_pretrained(str(tmp_path), **options)


def as_state_dict(tmp_path: Path, number: float, **options: Any) -> HookedTransformer:
    model = build()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    state["blocks.1.mlp.W_in"][2, 3] = number
    return HookedTransformer.from_state_dict(state, model.cfg, **options)


DOORS: list[tuple[Callable[..., HookedTransformer], str]] = [
    (as_object, r"'tiny': transformer\.h\.1\.mlp\.c_fc\.weight"),
    (as_folder, r"transformer\.h\.1\.mlp\.c_fc\.weight"),
    (as_native, r"blocks\.1\.mlp\.W_in"),
    (as_state_dict, r"this state dict': blocks\.1\.mlp\.W_in"),
]


@pytest.mark.parametrize("number", BAD)
@pytest.mark.parametrize(("load", "name"), DOORS)
def test_weights_that_are_no_numbers(
    load: Callable[..., HookedTransformer], name: str, number: float, tmp_path: Path
) -> None:
    what = "nan" if number != number else "infinite numbers"
    with pytest.raises(CheckpointError, match=rf"{name} holds {what} \(1 of \d+\), .* pass allow_nonfinite=True"):
        load(tmp_path, number)
    options = {} if load is as_state_dict else {"fold_ln": False, "center_writing_weights": False}
    loaded = load(tmp_path, number, allow_nonfinite=True, **options)
    assert int((~loaded.blocks[1].mlp.W_in.isfinite()).sum()) == 1, "only what is so in the checkpoint"


def test_a_dtype_that_is_too_narrow_is_named(tmp_path: Path) -> None:
    for load in (as_object, as_folder):
        message = r"c_fc\.weight has numbers that torch\.float16 cannot hold.* in float32"
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path, 1e6, dtype="float16")
    with pytest.raises(CheckpointError, match=r"c_fc\.weight holds .* in float16, which ends at 65504"):
        as_folder(tmp_path, 1e6, dtype="float16", attn_implementation="eager")  # which transformers reads
    assert as_object(tmp_path, 1e6, dtype="bfloat16").blocks[1].mlp.W_in.isfinite().all()


def test_processing_that_leaves_a_dtype_is_named() -> None:
    """A norm's gain and the weight that reads it, of which only the product is too large."""
    hf = fresh_hf("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].ln_2.weight.fill_(3e4)
        hf.transformer.h[1].mlp.c_fc.weight.mul_(1e3)
    message = r"processing made blocks\.1\.mlp\.W_in infinite numbers .* in float16"
    with pytest.raises(CheckpointError, match=message):
        HookedTransformer.from_pretrained("tiny", hf_model=hf, dtype="float16")
    assert HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf, dtype="float16").dtype == torch.float16


# ----------------------------------------------------------------------------------- into a model that is there already


def spoilt_state(number: float) -> dict[str, torch.Tensor]:
    state = {name: weight.clone() for name, weight in build(seed=3).state_dict().items()}
    state["blocks.1.mlp.W_in"][2, 3] = number
    return state


@pytest.mark.parametrize("number", BAD)
@pytest.mark.parametrize("how", ["load_state_dict", "assign", "without strict", "load_and_process_state_dict"])
def test_into_a_model_that_is_there(how: str, number: float) -> None:
    model, state = build(), spoilt_state(number)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    options: dict[str, Any] = {"assign": how == "assign", "strict": how != "without strict"}
    load = model.load_state_dict
    if how == "load_and_process_state_dict":
        load, options = model.load_and_process_state_dict, {"fold_ln": False, "center_writing_weights": False}
    with pytest.raises(CheckpointError, match=r"this state dict': blocks\.1\.mlp\.W_in holds .* \(1 of \d+\)"):
        load(state, **options)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    load(state, allow_nonfinite=True, **options)
    assert int((~model.blocks[1].mlp.W_in.isfinite()).sum()) == 1


def test_into_a_dtype_that_is_too_narrow() -> None:
    state = spoilt_state(1e6)
    half = build(dtype=torch.float16)
    with pytest.raises(CheckpointError, match=r"W_in has numbers that torch\.float16 cannot hold.* in float64"):
        half.load_state_dict(state)
    half.load_state_dict(state, assign=True)
    assert half.blocks[1].mlp.W_in.isfinite().all()


def test_numbers_of_spliced_modules_are_their_own() -> None:
    """A threshold that is infinite lets nothing through."""
    model, sae = build(), torch.nn.Module()
    sae.threshold = torch.nn.Parameter(torch.full((3,), torch.inf))
    sae.forward = lambda value: value  # type: ignore[method-assign]
    with model.splice("mlp_out1", sae, name="sae"):
        found = model.load_state_dict(model.state_dict())
    assert found.missing_keys == []


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(WeightMismatch, match=r"embed\.W_E must be a tensor, got list \[1, 2\]"):
        build().load_state_dict({"embed.W_E": [1, 2]}, strict=False)
