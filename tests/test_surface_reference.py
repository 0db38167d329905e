"""Calls that code for `HookedTransformer` makes, against TransformerLens 3.9.0 on the same two random checkpoints.

`benchmarks/reference_surface.py` wrote tests/data/surface: all activations and gradients, the answers to every call of
tests/field_calls.py, and weights and logits for all 32 combinations of processing flags. Nothing of the peer is needed
here. Differences by design stand in `BY_DESIGN`; everything else agrees to 1e-5 of the largest value.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks import FactoredMatrix, HookedTransformer
from interp_hooks.corpus import lm_accuracy
from interp_hooks.errors import ConfigError
from interp_hooks.hooks import Slice, get_act_name
from interp_hooks.model import lm_cross_entropy_loss
from tests.field_calls import CACHE, RUNS, VARIANTS, WEIGHTS, fingerprints, flattened

DATA = Path(__file__).parent / "data"
NUMBERS = load_file(DATA / "surface" / "numbers.safetensors")
PROCESSING = load_file(DATA / "surface" / "processing.safetensors")
PLAIN = json.loads((DATA / "surface" / "plain.json").read_text())["calls"]
TOKENS = load_file(DATA / "patching" / "numbers.safetensors")["clean"]
WITHIN = 1e-5

# The peer normalizes the streams before the last layer by the scale of the whole, here each is normalized by its own.
OWN_SCALE = [call for call in CACHE if call.startswith("cache.accumulated_resid(1") and "apply_ln=True" in call]
BY_DESIGN = [*OWN_SCALE, *(call for call in CACHE if "recompute_ln=True" in call)]


@functools.cache
def model_of(name: str, processed: bool = False) -> HookedTransformer:
    load = HookedTransformer.from_pretrained if processed else HookedTransformer.from_pretrained_no_processing
    return load(str(DATA / "patching" / name), device="cpu")


@functools.cache
def names_of(name: str) -> dict[str, Any]:
    """What calls may use."""
    model = model_of(name, processed=True)
    with torch.no_grad():
        cache, one = model.run_with_cache(TOKENS)[1], model.run_with_cache(TOKENS[:1])[1].remove_batch_dim()
    return dict(
        model=model, tokens=TOKENS, torch=torch, FactoredMatrix=FactoredMatrix, Slice=Slice,
        get_act_name=get_act_name, lm_accuracy=lm_accuracy, lm_cross_entropy_loss=lm_cross_entropy_loss, cache=cache,
        one=one,
    )  # fmt: skip


def assert_near(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """Infinite where theirs is, and otherwise near."""
    assert ours.shape == theirs.shape, what
    assert torch.equal(ours.isinf(), theirs.isinf()), what
    ours, theirs = (value.nan_to_num(neginf=0.0).double() for value in (ours, theirs))
    scale = max(1.0, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= WITHIN * scale, what


def keys(kind: str) -> list[tuple[str, str]]:
    return [(name, hook) for name, given, hook in (key.split("/", 2) for key in NUMBERS) if given == kind]


@pytest.mark.parametrize("name", PLAIN)
def test_activations(name: str) -> None:
    hooks = [hook for given, hook in keys("activation") if given == name]
    with torch.no_grad():
        _, kept = model_of(name).run_with_cache(TOKENS, names_filter=hooks)
    for hook in hooks:
        assert_near(kept[hook], NUMBERS[f"{name}/activation/{hook}"], hook)


@pytest.mark.parametrize("name", PLAIN)
def test_gradients(name: str) -> None:
    _, kept = model_of(name).run_with_cache(TOKENS, return_type="loss", incl_bwd=True)
    for _, hook in (key for key in keys("gradient") if key[0] == name):
        if ".ln1." not in hook:  # the peer's norm runs three times, and of three gradients keeps the last one
            assert_near(kept[hook], NUMBERS[f"{name}/gradient/{hook}"], hook)


@pytest.mark.parametrize("call", [*RUNS, *CACHE, *WEIGHTS])
@pytest.mark.parametrize("name", PLAIN)
def test_calls(name: str, call: str) -> None:
    with torch.no_grad():
        tensors, rest = flattened(eval(call, dict(names_of(name))))
    assert json.loads(json.dumps(rest)) == PLAIN[name][call]
    if call in BY_DESIGN:
        assert not torch.allclose(tensors[0], NUMBERS[f"{name}/{call}/0"], atol=0.1)
        return
    for place, tensor in enumerate(tensors):
        assert_near(tensor, NUMBERS[f"{name}/{call}/{place}"])


@pytest.mark.parametrize("place", range(len(VARIANTS)))
@pytest.mark.parametrize("name", PLAIN)
def test_processing(name: str, place: int) -> None:
    flags = VARIANTS[place]
    refactors, folder = flags["refactor_factored_attn_matrices"], str(DATA / "patching" / name)
    if refactors and name == "llama":
        with pytest.raises(ConfigError, match="rotary"):
            HookedTransformer.from_pretrained(folder, device="cpu", **flags)
        return
    model = HookedTransformer.from_pretrained(folder, device="cpu", **flags)
    with torch.no_grad():
        assert_near(model(TOKENS), PROCESSING[f"{name}/{place}/logits"])
    sums = fingerprints(model.state_dict(), signs=not refactors)
    theirs = {key.split("/", 2)[2]: value for key, value in PROCESSING.items() if key.startswith(f"{name}/{place}/")}
    theirs.pop("logits")
    theirs = {key.replace("._W_", ".W_").replace("._b_", ".b_"): value for key, value in theirs.items()}  # grouped
    only_here = {f"blocks.{layer}.mlp.b_gate" for layer in range(3)} if name == "llama" else set()
    assert set(sums) == set(theirs) | only_here
    for key, value in sums.items():
        assert_near(value, theirs.get(key, torch.zeros(4)))
