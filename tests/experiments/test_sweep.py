"""`sweep`: any grid of runs, labelled."""

import itertools

import pytest
import torch
from torch import Tensor

from interp_hooks import HookPoint, Intervention, LogitDiff, Run, at, evaluate, sweep
from interp_hooks.errors import BadInput, MetricError
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, logits_of, model_of
from tests.tiny import assert_close, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)


def run_at(layer: int, strength: float) -> Run:
    return Run(TOKENS, [Intervention(at("attn_out", layer), strength)])


def test_axes_may_be_anything() -> None:
    """Labels go to `run_at` by name, in the order of the result's axes."""
    model = model_of("gpt2")
    over = {"strength": [0.0, 1.0, 2.0], "layer": [2, 0]}
    result = sweep(
        model, run_at, DIFF, over=over, baselines={"plain": Run(TOKENS), "other": Run(OTHER)}, progress=False
    )
    assert result.axes == over
    assert result.values.shape == (3, 2, 2)
    for (i, strength), (j, layer) in itertools.product(enumerate([0.0, 1.0, 2.0]), enumerate([2, 0])):
        assert_close(result.values[i, j], DIFF(logits_of(model, run_at(layer, strength))), RTOL)
    assert_close(result.baselines["plain"], DIFF(logits_of(model, Run(TOKENS))), RTOL)
    assert_close(result.baselines["other"], DIFF(logits_of(model, Run(OTHER))), RTOL)
    assert list(result.baselines) == ["plain", "other"]


def test_a_sweep_is_evaluate_with_labels() -> None:
    model = model_of("llama")
    runs = [Run(TOKENS, [Intervention(at("z", 1, head=head), Run(OTHER))]) for head in range(4)]
    result = sweep(model, lambda head: runs[head], DIFF, over={"head": range(4)}, progress=False)
    assert torch.equal(result.values, evaluate(model, runs, DIFF))
    assert result.scale is None
    assert dict(result.baselines) == {}


def test_memory_changes_no_result() -> None:
    model, over = model_of("gpt2"), {"layer": range(3), "strength": [0.0, 1.0]}
    whole = sweep(model, run_at, DIFF, over=over, progress=False)
    assert_close(sweep(model, run_at, DIFF, over=over, max_memory=1, progress=False).values, whole.values, RTOL)


@pytest.mark.parametrize(
    ("over", "message"),
    [({}, "nothing to sweep over: no axis"), ({"layer": [0], "strength": []}, "strength has no values")],
    ids=str,
)
def test_nothing_to_sweep_over(over: dict[str, list[int]], message: str) -> None:
    with left_alone(model_of("gpt2")), pytest.raises(BadInput, match=message):
        sweep(model_of("gpt2"), run_at, DIFF, over=over, progress=False)


def test_a_metric_of_too_many_numbers() -> None:
    def every_logit(logits: Tensor) -> Tensor:
        return logits[:, -1]

    with left_alone(model_of("gpt2")), pytest.raises(MetricError, match=r"got shape \[2, 19\]"):
        sweep(model_of("gpt2"), run_at, every_logit, over={"layer": [0], "strength": [0.0]}, progress=False)


def test_what_is_no_run_at_all() -> None:
    """An exception of `run_at` itself comes through."""
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(ZeroDivisionError):
        sweep(model_of("gpt2"), lambda layer: Run(TOKENS[: 1 // layer]), DIFF, over={"layer": [0]}, progress=False)


def test_an_unset_hook_point_is_never_attached() -> None:
    """The hooks of all cells together are gone, those of somebody else are not."""
    model, seen = model_of("gpt2"), []

    def watch(value: Tensor, hook: HookPoint) -> None:
        seen.append(hook.name)

    with model.hooks(fwd_hooks=[("z0", watch)]):
        with left_alone(model):
            sweep(model, run_at, DIFF, over={"layer": [0, 1], "strength": [0.0]}, progress=False)
    assert seen
