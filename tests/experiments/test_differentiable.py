"""Gradients of some prompts at a time are those of all together, whatever the metric makes of them, and take less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp_hooks import (
    HookedTransformer,
    Intervention,
    Mean,
    Result,
    Run,
    at,
    attribution_patch,
    gradient_x_input,
    integrated_gradients,
)
from interp_hooks.errors import MetricError
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
from tests.tiny import assert_close

EXPERIMENTS: dict[str, Callable[..., Result]] = {
    "attribution": lambda model, clean, corrupt, metric, **options: attribution_patch(
        model, clean, corrupt, metric, progress=False, **options
    ),
    "at places": lambda model, clean, corrupt, metric, **options: attribution_patch(
        model, clean, corrupt, metric, "mlp_out", over=("position", "layer"), positions=PLACES, **options
    ),
    "fixed keys": lambda model, clean, corrupt, metric, **options: attribution_patch(
        model, clean, corrupt, metric, "k", qk_fix=True, select={"pos": PLACES["verb"]}, grad_drop=True, **options
    ),
    "input": lambda model, clean, corrupt, metric, **options: gradient_x_input(
        model, clean, metric, over=(), **options
    ),
    "from zero": lambda model, clean, corrupt, metric, **options: integrated_gradients(
        model, clean, metric, at("z", 1), over=("head",), steps=3, progress=False, **options
    ),
    "from corrupt": lambda model, clean, corrupt, metric, **options: integrated_gradients(
        model, clean, metric, at("z", 1, pos=-2), baseline=corrupt, over=("head",), steps=3, **options
    ),
    "from a mean": lambda model, clean, corrupt, metric, **options: integrated_gradients(
        model, clean, metric, baseline=Mean(corrupt), over=(), steps=3, **options
    ),
}


def check_same(ours: Result, whole: Result) -> None:
    assert_close(ours.values, whole.values, WITHIN)
    both = [torch.stack([one.baselines[name] for name in whole.baselines]) for one in (ours, whole)]
    assert_close(*both, WITHIN)  # together: what integration misses is a small difference of scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_prompts_one_by_one_give_what_all_give(name: str, metric: str) -> None:
    model, experiment = model_of("gpt2"), EXPERIMENTS[name]
    clean, corrupt = PROMPTS["padded on the left"]
    whole = experiment(model, clean, corrupt, METRICS[metric])
    ours = (
        split(model, lambda: experiment(model, clean, corrupt, METRICS[metric], max_memory=1))
        if metric != "divergence"
        else experiment(model, clean, corrupt, METRICS[metric], max_memory=1)
    )  # whose reference is read in one pass
    check_same(ours, whole)


def test_a_baseline_that_is_a_run_with_a_source_of_its_own() -> None:
    model = model_of("llama")
    edited = Run(
        OTHER, [Intervention(at("mlp_out", 0, pos=PLACES["verb"]), Run(TOKENS)), Intervention(at("z", 0), 0.5)]
    )
    results = [
        integrated_gradients(model, TOKENS, ANSWERS, at("z", 1), baseline=edited, steps=2, max_memory=bound)
        for bound in (None, 1)
    ]
    check_same(*results)


def test_functions_that_are_attached_see_all_prompts_unless_memory_is_bounded() -> None:
    model, seen = model_of("gpt2"), list[int]()
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: seen.append(len(value)))]):
        attribution_patch(model, TOKENS, OTHER, ANSWERS)
        assert set(seen) == {BATCH}
        attribution_patch(model, TOKENS, OTHER, ANSWERS, max_memory=1)
    assert 1 in seen


@pytest.mark.parametrize("bound", [None, 1])
def test_a_metric_without_gradient_is_refused_alike(bound: int | None) -> None:
    def top(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1].argmax(-1).double()

    with pytest.raises(MetricError, match="no gradient with respect to"):
        attribution_patch(model_of("gpt2"), TOKENS, OTHER, top, max_memory=bound)


def test_the_bound_is_no_part_of_what_is_kept() -> None:
    model = model_of("gpt2")
    ours = attribution_patch(model, TOKENS, OTHER, ANSWERS, max_memory=1)
    assert ours.record is not None
    assert all("max_memory" not in call.arguments for call in ours.record.calls)
    check_same(ours.rerun(model, max_memory=10**9), ours)


MEMORY: dict[str, Callable[..., Any]] = {
    "attribution": lambda model, metric, most: attribution_patch(
        model, LONG, LONG_OTHER, metric, progress=False, max_memory=most
    ),
    "integrated": lambda model, metric, most: integrated_gradients(
        model, LONG, metric, steps=2, progress=False, max_memory=most
    ),
}


@pytest.mark.parametrize(("shape", "metric"), [*zip(SHAPES, MEASURED, strict=True)])
@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_bounded(name: str, shape: str, metric: str) -> None:
    model: HookedTransformer = sized(shape)
    check_memory(lambda most: MEMORY[name](model, MEASURED[metric].on(model), most))
