"""Experiments take a task in place of prompts, counterfactual prompts and metric, and positions by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Run,
    Task,
    ablate,
    agreement,
    at,
    attribution_patch,
    causal_trace,
    eap,
    evaluate,
    faithfulness,
    integrated_gradients,
    patch,
    patch_along,
    path_patch,
)
from interp_hooks.circuits import circuit_metric
from interp_hooks.errors import BadInput
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, model_of, word_tokenizer
from tests.tiny import assert_close, build, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
PLACES = {"first": torch.tensor([1, 2]), "end": torch.tensor([4, 4])}
TASK = Task(name="own", clean=TOKENS, corrupt=OTHER, answer=[4, 11], wrong=[7, 2], metric=DIFF, positions=PLACES)
QUIET: dict[str, Any] = dict(progress=False)

BOTH: dict[str, Callable[..., Any]] = {
    "patch": lambda model, *task, **named: patch(model, *task, site="z", over=("layer", "head"), **QUIET).values,
    "ablate": lambda model, clean, *rest: ablate(model, clean, *rest[1:], over=("layer",), **QUIET).values,
    "path_patch": lambda model, *task: path_patch(model, *task, **QUIET).values,
    "attribution_patch": lambda model, *task: attribution_patch(model, *task, site="z").values,
    "integrated_gradients": lambda model, clean, *rest: integrated_gradients(model, clean, *rest[1:], steps=2).values,
    "eap": lambda model, *task: eap(model, *task).scores.matrix,
    "faithfulness": lambda model, *task: faithfulness(model, eap(model, *task).top(9), *task).values,
    "circuit_metric": lambda model, *task: circuit_metric(model, eap(model, *task).top(9), *task),
    "agreement": lambda model, *task: agreement(
        model, *task, result=attribution_patch(model, *task, site="z"), site="z", cells=5, **QUIET,
        generator=torch.Generator().manual_seed(0),
    ).patched,
}  # fmt: skip


@pytest.mark.parametrize("name", BOTH)
def test_a_task_is_its_prompts_and_its_metric(name: str) -> None:
    model, call = model_of("gpt2"), BOTH[name]
    assert_close(call(model, TASK), call(model, TOKENS, OTHER, DIFF), RTOL)


def test_parts_of_a_task_can_be_others() -> None:
    model, metric = model_of("gpt2"), LogitDiff([1, 1], [3, 3])
    found = patch(model, TASK, metric=metric, over=("layer",), **QUIET)
    assert_close(found.values, patch(model, TOKENS, OTHER, metric, over=("layer",), **QUIET).values, RTOL)


def test_a_run_is_prompts() -> None:
    model = model_of("gpt2")
    found = patch(model, Run(TOKENS), Run(OTHER), DIFF, over=("layer",), **QUIET)
    assert_close(found.values, patch(model, TOKENS, OTHER, DIFF, over=("layer",), **QUIET).values, RTOL)


@pytest.mark.parametrize("missing", ["corrupt", "metric"])
def test_without_a_task_its_parts_are_needed(missing: str) -> None:
    given = {"corrupt": OTHER, "metric": DIFF}
    del given[missing]
    with pytest.raises(BadInput, match=f"{missing} is needed: pass it, or a Task"):
        patch(model_of("gpt2"), TOKENS, **given)


def test_named_positions_are_columns_of_a_grid() -> None:
    model = model_of("gpt2")
    grid = patch(model, TASK, site="resid_pre", over=("layer", "position"), **QUIET)
    assert dict(grid.axes) == {"layer": [0, 1, 2], "position": ["first", "end"]}
    for column, places in enumerate(PLACES.values()):
        alone = patch(model, TASK, site="resid_pre", over=("layer",), select={"pos": places}, **QUIET)
        assert_close(grid.values[:, column], alone.values, RTOL)
    heads = ablate(model, TASK, over=("layer", "head", "position"), **QUIET)
    alone = ablate(model, TASK, over=("layer", "head"), select={"pos": "end"}, **QUIET)
    assert_close(heads.values[:, :, 1], alone.values, RTOL)


def test_a_position_is_selected_by_its_name() -> None:
    model = model_of("gpt2")
    by_name = patch(model, TASK, over=("layer",), select={"pos": "first"}, **QUIET)
    by_place = patch(model, TASK, over=("layer",), select={"pos": PLACES["first"]}, **QUIET)
    assert_close(by_name.values, by_place.values, RTOL)
    given = patch(model, TOKENS, OTHER, DIFF, over=("layer",), select={"pos": "here"}, positions={"here": 2}, **QUIET)
    by_number = patch(model, TOKENS, OTHER, DIFF, over=("layer",), select={"pos": 2}, **QUIET)
    assert_close(given.values, by_number.values, RTOL)


def test_paths_begin_at_named_positions() -> None:
    """As from sites that are selected one by one; a task brings its positions."""
    model = model_of("gpt2")
    grid = path_patch(model, TASK, over=("layer", "position"), **QUIET)
    assert dict(grid.axes) == {"layer": [0, 1, 2], "position": ["first", "end"]}
    for column, places in enumerate(PLACES.values()):
        sites = {str(layer): at("z", layer, pos=places) for layer in range(3)}
        by_hand = path_patch(model, TOKENS, OTHER, DIFF, sites, **QUIET)
        assert_close(grid.values[:, column], by_hand.values, RTOL)
    alone = path_patch(model, TASK, over=("layer",), select={"pos": "first", "head": 1}, **QUIET)
    by_hand = {str(layer): at("z", layer, pos=PLACES["first"], head=1) for layer in range(3)}
    assert_close(alone.values, path_patch(model, TOKENS, OTHER, DIFF, by_hand, **QUIET).values, RTOL)


def test_sites_of_a_path_may_name_their_positions() -> None:
    model = model_of("gpt2")
    where = dict(senders=at("z", 0, pos="first"), receivers=at("q_input", 2, pos="end"))
    named = path_patch(model, TASK, **where, **QUIET)
    by_hand = path_patch(
        model, TOKENS, OTHER, DIFF, at("z", 0, pos=PLACES["first"]), at("q_input", 2, pos=PLACES["end"]), **QUIET
    )
    assert_close(named.values, by_hand.values, RTOL)
    for sites in (dict(senders=at("z", 0, pos="S9")), dict(receivers=at("q_input", 2, pos="S9"))):
        with pytest.raises(BadInput, match="there is no position 'S9'; positions= names first, end"):
            path_patch(model, TASK, **sites, **QUIET)
    with pytest.raises(BadInput, match="pos='first' is a name"):
        Intervention(at("z", 0, pos="first"), 0.0)


def test_directions_are_swapped_at_named_positions() -> None:
    model, along = model_of("gpt2"), torch.eye(12, dtype=torch.float64)[:3]
    grid = patch_along(model, TASK, along=along, over=("layer", "position"), **QUIET)
    for column, places in enumerate(PLACES.values()):
        runs = [
            Run(OTHER, [Intervention(at("resid_pre", layer, pos=places), Run(TOKENS), along=along)])
            for layer in range(3)
        ]
        assert_close(grid.values[:, column], evaluate(model, runs, DIFF), RTOL)
    alone = patch_along(model, TASK, along=along, over=("layer",), select={"pos": "end"}, **QUIET)
    assert_close(alone.values, grid.values[:, 1], RTOL)


def test_a_trace_has_named_positions_that_are_no_padding() -> None:
    model = padded()
    options = dict(metric=DIFF, noise=0.0, samples=1, layers=[0], **QUIET)
    last = 3 if model.default_prepend_bos else 2
    with pytest.raises(BadInput, match="the position 'third' is padding in prompt 1; count from the end"):
        causal_trace(model, ["a b c", "a b"], [1], positions={"third": last}, **options)
    found = causal_trace(model, ["a b c", "a b"], [1], positions={"end": -1, "first": 0}, **options)
    assert list(found.axes["pos"]) == ["end", "first"]


def padded() -> HookedTransformer:
    model = build()
    model.set_tokenizer(word_tokenizer("a", "b", "c"), default_padding_side="right")
    return model


def test_a_negative_named_position_is_the_last_real_token() -> None:
    """In prompts of two lengths, padded on the right."""
    model = padded()
    clean, corrupt = ["a b c", "a b"], ["b b c", "c b"]
    found = patch(model, clean, corrupt, DIFF, over=("layer", "position"), positions={"end": -1}, **QUIET)
    last = torch.tensor([3, 2]) if model.default_prepend_bos else torch.tensor([2, 1])
    by_hand = patch(model, clean, corrupt, DIFF, over=("layer",), select={"pos": last}, **QUIET)
    assert_close(found.values[:, 0], by_hand.values, RTOL)
    with pytest.raises(BadInput, match="the position 'third' is padding in prompt 1"):
        patch(model, clean, corrupt, DIFF, over=("layer", "position"), positions={"third": int(last[0])}, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(over=("layer", "position")), r"over names 'position', so positions= has to say which"),
        (dict(over=("layer",), select={"pos": "S3"}), r"there is no position 'S3'; positions= names none"),
        (dict(over=("layer", "position"), positions=[1, 1]), r"positions that are all different, got \[1, 1\]"),
        (dict(over=("layer", "position", "pos"), positions={"x": 1}), "is swept over and cannot be selected too"),
        (dict(over=("layer", "position"), positions={"x": 9}), "position 9 is out of range"),
    ],
)
def test_positions_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        patch(model_of("gpt2"), TOKENS, OTHER, DIFF, **options, **QUIET)
