"""Edges over some prompts at a time have the scores and metrics that they have over all together, and take less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    Circuit,
    ComputationGraph,
    HookedTransformer,
    Mean,
    Resample,
    Run,
    acdc,
    eap,
    eap_ig,
    record,
)
from interp_hooks.circuits import circuit_metric, completeness, faithfulness, mask_gradient, node_attribution
from tests.circuits.test_circuit import some
from tests.experiments.by_hand import model_of
from tests.experiments.split import (
    ANSWERS,
    BATCH,
    LONG,
    LONG_OTHER,
    MEASURED,
    METRICS,
    OTHER,
    PLACES,
    PROMPTS,
    SHAPES,
    TOKENS,
    WITHIN,
    check_memory,
    sized,
    split,
)
from tests.tiny import assert_close, in_turn, unchecked_types


def scores(circuit: Circuit) -> Tensor:
    assert circuit.scores is not None
    return circuit.scores.listed


def by_acdc(model: HookedTransformer, *data: Any, **options: Any) -> Tensor:
    start = eap_ig(model, *data, steps=2, progress=False, **options).top(12, absolute=True)
    found = acdc(model, *data, 1e-4, start=start, progress=False, **options)
    assert len(found) < len(start)
    return torch.cat([found.kept.flatten().double(), scores(found), torch.ones(1)])  # not all 0


def by_faithfulness(model: HookedTransformer, *data: Any, **options: Any) -> Tensor:
    graph = ComputationGraph(model, options.get("positions", ()))
    found = faithfulness(model, {str(seed): some(graph, seed) for seed in range(2)}, *data, **options)
    return torch.cat([found.values, *(baseline[None] for baseline in found.baselines.values())])


METHODS: dict[str, Callable[..., Tensor]] = {
    "eap": lambda *data, **options: scores(eap(*data, **options)),
    "eap_ig": lambda *data, **options: scores(eap_ig(*data, steps=2, progress=False, **options)),
    "node_attribution": lambda *data, **options: scores(node_attribution(*data, **options)),
    "mask_gradient": lambda *data, **options: scores(mask_gradient(*data, **options)),
    "acdc": by_acdc,
    "faithfulness": by_faithfulness,
}


def check_split(method: str, kind: str, prompts: str, metric: str, **options: Any) -> None:
    """Types are not checked on the way: these are hundreds of passes."""
    model, (clean, corrupt) = model_of(kind), PROMPTS[prompts]
    if metric == "divergence":  # least in the clean run, and its reference is read in one pass
        options["positions"] = PLACES
    data = (model, clean, corrupt, METRICS[metric])
    with unchecked_types():
        whole = METHODS[method](*data, **options)
        ours = METHODS[method](*data, **options, max_memory=1)
    assert_close(ours, whole, WITHIN)


BY_GRADIENT, BY_CIRCUITS = ["eap", "eap_ig", "mask_gradient", "node_attribution"], ["faithfulness", "acdc"]


@pytest.mark.parametrize(("method", "metric"), in_turn(BY_GRADIENT, METRICS) + in_turn(BY_CIRCUITS, METRICS))
def test_prompts_one_by_one_give_what_all_give(method: str, metric: str) -> None:
    check_split(method, "gpt2", "padded on the left", metric)


ABLATIONS: dict[str, Any] = {
    "zero": "zero",
    "mean": "mean",
    "position_mean": "position_mean",
    "a number": 0.5,
    "a resampled run": Resample(Run(OTHER), torch.tensor([3, 3, 0, 1, 4])),
    "a mean of fewer prompts": Mean(Run(OTHER[:3])),
}


@pytest.mark.parametrize(
    ("method", "ablation"), in_turn(BY_GRADIENT[:3], ABLATIONS) + in_turn(["faithfulness"], ABLATIONS)
)
def test_whatever_ablated_edges_carry(method: str, ablation: str) -> None:
    check_split(method, "output-norms", "of one length", "prompts that are mixed", ablation=ABLATIONS[ablation])


@pytest.mark.parametrize("method", METHODS)
def test_positions_of_each_prompts_own(method: str) -> None:
    check_split(method, "gpt2", "padded on the left", "two logits", positions=PLACES)


def test_recorded_activations_are_taken_apart_by_prompts() -> None:
    model = model_of("gpt2")
    recording = record(model, Run(OTHER), list(model.hook_dict))
    ours = eap(model, TOKENS, None, ANSWERS, ablation=recording, max_memory=1)
    assert_close(scores(ours), scores(eap(model, TOKENS, OTHER, ANSWERS)), WITHIN)


def test_one_prompt_is_passed_at_a_time_unless_a_function_sees_all() -> None:
    model = model_of("gpt2")
    circuit = some(ComputationGraph(model), 0)
    split(model, lambda: eap(model, TOKENS, OTHER, ANSWERS, max_memory=1))
    split(model, lambda: circuit_metric(model, circuit, TOKENS, OTHER, ANSWERS, max_memory=1))
    half = {"half": circuit.only(circuit.listed[::2])}
    split(model, lambda: completeness(model, circuit, TOKENS, OTHER, ANSWERS, subsets=half, max_memory=1))

    def shifted(value: Tensor) -> Tensor:
        assert len(value) % BATCH == 0
        return value.mean(0, keepdim=True).expand_as(value)

    for method in (eap, mask_gradient):
        whole, ours = (method(model, TOKENS, None, ANSWERS, ablation=shifted, max_memory=most) for most in (None, 1))
        assert torch.equal(scores(ours), scores(whole))


MEMORY: dict[str, Callable[..., object]] = {
    "eap": lambda *data, most: eap(*data, max_memory=most),
    "eap by means": lambda *data, most: eap(*data, ablation="mean", max_memory=most),
    "eap_ig": lambda *data, most: eap_ig(*data, steps=2, progress=False, max_memory=most),
    "mask_gradient": lambda *data, most: mask_gradient(*data, max_memory=most),
    "acdc": lambda model, *data, most: acdc(
        model, *data, 1e-4, start=ComputationGraph(model).circuit(ComputationGraph(model).edges[::500]),
        progress=False, max_memory=most
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "metric"), [*zip(SHAPES, MEASURED, strict=True)])
@pytest.mark.parametrize("method", MEMORY)
def test_memory_is_bounded(method: str, shape: str, metric: str) -> None:
    model = sized(shape)
    check_memory(lambda most: MEMORY[method](model, LONG, LONG_OTHER, MEASURED[metric].on(model), most=most))
