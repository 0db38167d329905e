"""On a GPU everything gives what it gives on a CPU; skipped where there is none.

Prompts and sources may lie on the CPU: they are taken to the model.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    KL,
    HookedTransformer,
    Intervention,
    LogitDiff,
    Run,
    ablate,
    agreement,
    at,
    attribution_patches,
    causal_trace,
    direct_logit_attribution,
    evaluate,
    integrated_gradients,
    ioi_pairs,
    logit_lens,
    optimal_ablation,
    patch,
    patch_along,
    path_patch,
    steer,
    steering_vector,
)
from interp_hooks.interventions.engine import evaluation
from tests.experiments.by_hand import all_logits, model_of
from tests.interventions.test_engine import ALL_KINDS, varied_runs
from tests.test_families import member
from tests.tiny import assert_close, build, convert, distance, random_tokens, unchecked_types

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TWO_DEVICES = 1e-10  # float64 sums of a few dozen numbers, in the orders of two devices
SINGLE = 2e-4  # float32, and effects are differences of logits


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_of_run(kind: str) -> None:
    runs, there = varied_runs(kind), copy.deepcopy(model_of(kind)).to("cuda")
    with unchecked_types():
        expected = evaluation(model_of(kind), runs, all_logits)
        ours = evaluation(there, runs, all_logits)
    assert ours.scores.device.type == "cuda"
    assert_close(ours.scores.cpu(), expected.scores, TWO_DEVICES)
    assert ours.changed == expected.changed


@functools.cache
def trained(device: str) -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device=device)


def _along(model: HookedTransformer, clean: Tensor, corrupt: Tensor, metric: LogitDiff) -> Tensor:
    direction = steering_vector(model, clean, corrupt, "resid_pre1")
    with steer(model, direction, "resid_pre1", coefficient=2.0):
        steered = model(clean)[:, -1]
    patched = patch_along(model, clean, corrupt, metric, along=direction, site="resid_pre", progress=False)
    return torch.cat([patched.values.flatten().cpu(), steered.flatten().cpu()])


QUIET: dict[str, Any] = dict(progress=False)
HEADS: dict[str, Any] = dict(over=("layer", "head"), progress=False)
Experiment = Callable[[HookedTransformer, Any, Any, Any], Any]
EXPERIMENTS: dict[str, Experiment] = {
    "patch": lambda model, clean, corrupt, metric: patch(model, clean, corrupt, metric, **QUIET),
    "patch heads": lambda model, clean, corrupt, metric: patch(model, clean, corrupt, metric, "z", **HEADS),
    "patch patterns": lambda model, clean, corrupt, metric: patch(model, clean, corrupt, metric, "pattern", **HEADS),
    "attribution": lambda model, clean, corrupt, metric: direct_logit_attribution(
        model, clean, metric.answer, metric.wrong, unit="head"
    ),
    "paths to logits": lambda model, clean, corrupt, metric: path_patch(
        model, clean, corrupt, metric, mlps="freeze", **QUIET
    ),
    "paths to queries": lambda model, clean, corrupt, metric: path_patch(
        model, clean, corrupt, metric, receivers=at("q_input", 1), **QUIET
    ),
    "ablate": lambda model, clean, corrupt, metric: ablate(model, clean, metric, "z", method="mean", **HEADS),
    "ablate, KL": lambda model, clean, corrupt, metric: ablate(
        model, clean, KL(clean), "mlp_out", over=("layer",), **QUIET
    ),
    "learn constants": lambda model, clean, corrupt, metric: optimal_ablation(
        model, clean, site="mlp_out", over=("layer",), steps=3
    ),
    "lens": lambda model, clean, corrupt, metric: logit_lens(model, clean).log_probs,
    "trace": lambda model, clean, corrupt, metric: causal_trace(
        model,
        clean[:2],
        [2],
        samples=2,
        generator=torch.Generator().manual_seed(1),
        **QUIET,
    ),
    "integrated gradients": lambda model, clean, corrupt, metric: integrated_gradients(
        model, clean, metric, "hook_embed"
    ),
    "directions": _along,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(name: str) -> None:
    """The bundled model, with tokens on the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        model = trained(device)
        pairs = ioi_pairs(trained("cpu"), 6)
        clean, corrupt = model.to_tokens(pairs.clean).cpu(), model.to_tokens(pairs.corrupt).cpu()
        given = EXPERIMENTS[name](model, clean, corrupt, LogitDiff(pairs.answer, pairs.wrong))
        found.append(getattr(given, "values", given).cpu())
    assert distance(found[1], found[0]) < SINGLE


def test_attribution_patching_agrees_with_patching() -> None:
    model, pairs = trained("cuda"), ioi_pairs(trained("cpu"), 6)
    metric = LogitDiff(pairs.answer, pairs.wrong)
    sites = {"z": ("layer", "pos", "head"), "mlp_out": ("layer", "pos")}
    here, there = (
        attribution_patches(one, pairs.clean, pairs.corrupt, metric, sites) for one in (trained("cpu"), model)
    )
    for name in sites:
        assert distance(there[name].values.cpu(), here[name].values) < SINGLE
    report = agreement(model, pairs.clean, pairs.corrupt, metric, there["z"], "z", cells=8)
    assert report.rank_correlation > 0.5


def test_what_does_not_fit_is_halved() -> None:
    """A stack that needs more than is allowed is computed in parts, and gives the same numbers."""
    model = build(n_layers=2, n_ctx=32, d_mlp=4096, dtype=torch.float32).to("cuda")
    tokens, other = random_tokens(2, 8, 32, 23)
    runs = [
        Run(tokens, [Intervention(at("mlp_in", layer, pos=pos), Run(other))]) for layer in range(2) for pos in range(32)
    ] * 24
    metric = LogitDiff(1, 2)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        whole = evaluate(model, runs, metric, max_memory=2**60)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.reset_peak_memory_stats()
    small = evaluate(model, runs, metric, max_memory=2**25)
    assert distance(whole, small) < SINGLE
    assert torch.cuda.max_memory_allocated() < 2**30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2"])
def test_half_precision_is_no_further_from_the_truth_than_huggingface(name: str, dtype: torch.dtype) -> None:
    truth, half = member(name), copy.deepcopy(member(name)).to("cuda", dtype)
    tokens = random_tokens(2, 7, 19)
    with torch.no_grad():
        exact = truth(tokens).logits
        theirs = half(tokens.to("cuda")).logits
        ours = convert(half)(tokens)
    assert ours.device.type == "cuda"
    assert ours.dtype == dtype
    assert distance(ours.cpu().double(), exact.double()) < 1.5 * distance(theirs.cpu().double(), exact.double())


@pytest.mark.parametrize("options", [dict(do_sample=False), dict(temperature=0.7, top_k=5)])
def test_generation(options: dict[str, Any]) -> None:
    """Greedy it writes what a CPU writes; sampled, the same with the same seed."""
    model, prompts = trained("cuda"), ["When Mary and John went to the", "The"]
    torch.manual_seed(3)
    written = model.generate(prompts, 6, stop_at_eos=False, **options)
    torch.manual_seed(3)
    assert model.generate(prompts, 6, stop_at_eos=False, **options) == written
    if "do_sample" in options:
        assert trained("cpu").generate(prompts, 6, stop_at_eos=False, **options) == written


def test_a_cache_may_be_kept_on_the_cpu() -> None:
    model = trained("cuda")
    _, here = model.run_with_cache("Mary went to", device="cpu")
    _, there = model.run_with_cache("Mary went to")
    assert {value.device.type for value in here.values()} == {"cpu"}
    for name, value in there.to("cpu").items():
        assert torch.equal(here[name], value)
