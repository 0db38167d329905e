"""Write tests/data/surface: what TransformerLens 3.9.0 gives on the two tiny checkpoints of tests/data/patching.

    python benchmarks/reference_surface.py

Runs itself with the peer's interpreter, which writes all hook activations and gradients of the checkpoints as they are,
the answers to every call of tests/field_calls.py once they are processed (`numbers.safetensors`, `plain.json`), and for
each of the 32 combinations of processing flags the logits and fingerprints of all weights (`processing.safetensors`).
"""

# pyright: reportMissingImports=false
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "tests" / "data" / "surface"
sys.path.insert(0, str(REPOSITORY))

from reference_patching import CONFIGS, PEER, load, tokens  # noqa: E402

from tests.field_calls import CACHE, RUNS, VARIANTS, WEIGHTS, fingerprints, flattened  # noqa: E402

BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
SPLIT = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")  # off by default in the peer


def names_of(model) -> dict:
    """What calls may use."""
    from transformer_lens import FactoredMatrix
    from transformer_lens.utils import Slice, get_act_name, lm_accuracy, lm_cross_entropy_loss

    clean, _ = tokens()
    _, one = model.run_with_cache(clean[:1])
    return dict(
        model=model, tokens=clean, torch=torch, FactoredMatrix=FactoredMatrix, Slice=Slice,
        get_act_name=get_act_name, lm_accuracy=lm_accuracy, lm_cross_entropy_loss=lm_cross_entropy_loss,
        cache=model.run_with_cache(clean)[1], one=one.remove_batch_dim(),
    )  # fmt: skip


def activations(model) -> dict:
    """Every hook activation by name; those that are off by default from a second pass."""
    clean, _ = tokens()
    found = dict(model.run_with_cache(clean)[1].items())
    for flag in (model.set_use_split_qkv_input, model.set_use_attn_result, model.set_use_hook_mlp_in):
        flag(True)
    more = model.run_with_cache(clean, names_filter=lambda name: name.endswith(SPLIT))[1]
    for flag in (model.set_use_split_qkv_input, model.set_use_attn_result, model.set_use_hook_mlp_in):
        flag(False)
    return found | dict(more.items())


def gradients(model) -> dict:
    """The gradient of the loss at every hook."""
    clean, _ = tokens()
    with torch.enable_grad():
        kept = model.run_with_cache(clean, return_type="loss", incl_bwd=True)[1]
    return {name: value for name, value in kept.items() if name.endswith("_grad")}


def inside_peer() -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    numbers, processing, plain = {}, {}, {}
    for name in CONFIGS:
        model = load(name, processed=False)
        model.set_use_attn_result(False)
        for kind, found in (("activation", activations(model)), ("gradient", gradients(model))):
            numbers |= {f"{name}/{kind}/{hook}": value for hook, value in found.items()}
        processed = load(name, processed=True)
        processed.set_use_attn_result(False)
        names = names_of(processed)
        plain[name] = {}
        for call in (*RUNS, *CACHE, *WEIGHTS):
            tensors, plain[name][call] = flattened(eval(call, dict(names)))
            numbers |= {f"{name}/{call}/{place}": tensor for place, tensor in enumerate(tensors)}
        for place, flags in enumerate(VARIANTS):
            refactors = flags["refactor_factored_attn_matrices"]
            if refactors and name == "llama":
                continue  # rotary queries and keys cannot be rotated against each other
            processed = load(name, flags)
            processing[f"{name}/{place}/logits"] = processed(names["tokens"])
            weights = {key: value for key, value in processed.state_dict().items() if not key.endswith(BUFFERS)}
            for key, sums in fingerprints(weights, signs=not refactors).items():
                processing[f"{name}/{place}/{key}"] = sums
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, tensors in (("numbers", numbers), ("processing", processing)):
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, FOLDER / f"{file}.safetensors")
    peer = {package: version(package) for package in ("transformer-lens", "torch", "transformers")}
    (FOLDER / "plain.json").write_text(json.dumps({"peer": peer, "calls": plain}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["inside-peer"]:
        inside_peer()
    else:
        from peers import environment

        subprocess.run([environment(PEER), __file__, "inside-peer"], check=True)
