"""Interchange along directions: its algebra, runs compared with values that are put there, and the sweep over them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import Intervention, LogitDiff, Run, at, evaluate, patch, sweep
from interp_hooks.errors import BadInput
from interp_hooks.experiments.subspace import patch_along
from interp_hooks.interventions.runs import orthonormal, swapped
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, logits_of, model_of, value_at
from tests.experiments.gates import linear
from tests.tiny import assert_close, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- algebra


def test_a_basis_is_orthonormal_and_spans_the_directions() -> None:
    directions = drawn(3, 7) * torch.tensor([[1e-6], [1.0], [1e6]])
    basis = orthonormal(directions)
    assert_close(basis @ basis.T, torch.eye(3), 1e-12)
    assert_close(directions @ basis.T @ basis, directions, 1e-12)
    assert_close(orthonormal(directions[0]).abs(), (directions[0] / directions[0].norm()).abs()[None], 1e-12)


def test_swapping_is_a_projection() -> None:
    value, other, basis = drawn(2, 5, 7), drawn(2, 5, 7, seed=1), orthonormal(drawn(3, 7, seed=2))
    new = swapped(value, other, basis)
    assert_close(new @ basis.T, other @ basis.T, 1e-12)
    across = torch.eye(7, dtype=torch.float64) - basis.T @ basis
    assert_close(new @ across, value @ across, 1e-12)
    assert_close(swapped(new, value, basis), value, 1e-12)


# ----------------------------------------------------------------------------------------------------------- in a model

SITES: list[tuple[str, str, dict[str, Any], int]] = [
    ("gpt2", "resid_pre", {}, 12),
    ("gpt2", "resid_mid", dict(pos=-1), 12),
    ("llama", "z", dict(head=1, pos=[1, 3]), 4),
    ("llama", "k", dict(head=[0, 1], pos=2), 4),
    ("neox", "mlp_out", dict(pos=torch.tensor([1, 3])), 12),
    ("gpt2", "post", {}, 20),
]


@pytest.mark.parametrize(("kind", "hook", "select", "width"), SITES)
def test_an_interchange_is_the_patch_of_the_swapped_value(
    kind: str, hook: str, select: dict[str, Any], width: int
) -> None:
    """The value that by-hand arithmetic gives, put there as a tensor; sources as runs, caches, tensors and numbers."""
    model, site, along = model_of(kind), at(hook, 1, **select), drawn(2, width)
    basis = torch.linalg.svd(along, full_matrices=False).Vh
    here, there = value_at(model, Run(TOKENS), site.hook), value_at(model, Run(OTHER), site.hook)
    whole = here + (there - here) @ basis.T @ basis
    expected = logits_of(model, Run(TOKENS, [Intervention(site, {site.hook: whole})]))
    gone = {site.hook: here - here @ basis.T @ basis}
    removed = logits_of(model, Run(TOKENS, [Intervention(site, gone)]))
    runs = [
        Run(TOKENS, [Intervention(site, Run(OTHER), along=along)]),
        Run(TOKENS, [Intervention(site, {site.hook: there}, along=along)]),
        Run(TOKENS, [Intervention(site, 0.0, along=along)]),
        Run(TOKENS, [Intervention(site, Run(TOKENS), along=along)]),
    ]
    scores = evaluate(model, runs, lambda logits: logits)
    for ours, theirs in zip(scores, (expected, expected, removed, logits_of(model, Run(TOKENS))), strict=True):
        assert_close(ours, theirs, RTOL)


def test_the_halves_of_a_swap_make_the_whole() -> None:
    """First along some directions, then along all that are orthogonal to them."""
    model, site = model_of("gpt2"), at("resid_pre", 1, pos=3)
    axes = orthonormal(drawn(12, 12))
    halves = [Intervention(site, Run(OTHER), along=axes[:5]), Intervention(site, Run(OTHER), along=axes[5:])]
    runs = [Run(TOKENS, halves), Run(TOKENS, [Intervention(site, Run(OTHER))])]
    both, whole = evaluate(model, runs, lambda logits: logits)
    assert_close(both, whole, RTOL)


def test_sources_with_other_directions_are_told_apart() -> None:
    """Two source runs that differ in nothing but the directions along which they were changed."""
    model, first, second = model_of("gpt2"), drawn(12), drawn(12, seed=1)
    runs = [
        Run(TOKENS, [Intervention(at("resid_pre", 2), Run(OTHER, [Intervention(at("mlp_out", 0), 0.0, along=one)]))])
        for one in (first, second)
    ]
    scores = evaluate(model, runs, DIFF)
    assert_close(scores, torch.stack([evaluate(model, [run], DIFF)[0] for run in runs]), RTOL)
    assert float((scores[0] - scores[1]).abs().min()) > 1e-6


# ------------------------------------------------------------------------------------------------------------ the sweep


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_along_everything_it_is_a_patch(direction: Any) -> None:
    model = model_of("llama")
    options: dict[str, Any] = dict(direction=direction, over=("layer", "head"), progress=False)
    along = patch_along(model, TOKENS, OTHER, DIFF, drawn(4, 4), "z", **options)
    whole = patch(model, TOKENS, OTHER, DIFF, "z", **options)
    assert_close(along.values, whole.values, RTOL)
    assert along.scale == whole.scale
    assert dict(along.axes) == dict(whole.axes)


def test_names_are_an_axis() -> None:
    model, named = model_of("gpt2"), {"first": drawn(12), "two": drawn(2, 12, seed=1)}
    result = patch_along(model, TOKENS, OTHER, DIFF, named, "mlp_out", over=("pos",), layers=[1], progress=False)
    assert list(result.axes) == ["along", "layer", "pos"]
    assert list(result.axes["along"]) == ["first", "two"]
    for row, along in enumerate(named.values()):
        alone = patch_along(model, TOKENS, OTHER, DIFF, along, "mlp_out", layers=[1], progress=False)
        assert_close(result.values[row], alone.values, RTOL)
        by_hand = sweep(
            model,
            lambda pos, along=along: Run(OTHER, [Intervention(at("mlp_out", 1, pos=pos), Run(TOKENS), along=along)]),
            DIFF,
            over={"pos": range(5)},
            progress=False,
        )
        assert_close(alone.values[0], by_hand.values, RTOL)


def test_in_a_linear_model_effects_along_orthogonal_directions_add_up() -> None:
    model, axes = linear(), orthonormal(drawn(12, 12))
    spans = {str(i): axis for i, axis in enumerate(axes)}
    options: dict[str, Any] = dict(over=("layer",), progress=False)
    parts = patch_along(model, TOKENS, OTHER, DIFF, spans, **options)
    whole = patch(model, TOKENS, OTHER, DIFF, **options)
    assert_close(parts.recovered_fraction.sum(0), whole.recovered_fraction, 1e-9)
    assert float(parts.recovered_fraction.abs().min(0).values.max()) < 0.5, "no direction is everything"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "width": (dict(along=drawn(2, 5)), "directions of along= have 5 numbers; blocks.0.hook_resid_pre needs 12"),
    "zero": (dict(along=torch.zeros(12)), "direction 0 is zero"),
    "dependent": (dict(along=drawn(1, 12).repeat(2, 1)), "direction 1 is zero, or a combination"),
    "too many": (dict(along=drawn(13, 12)), "expected 1 to 12 finite directions"),
    "none": (dict(along=drawn(0, 12)), "expected 1 to 12 finite directions"),
    "nan": (dict(along=drawn(12) * torch.nan), "expected 1 to 12 finite directions"),
    "last axis": (dict(over=("layer", "d_model")), "d_model= cannot be selected"),
    "direction": (dict(direction="both"), "'denoise' or 'noise'"),
    "prompts": (dict(corrupt=OTHER[:, :4]), "need the same number of tokens"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, message = MISTAKES[what]
    arguments = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, along=drawn(12), progress=False) | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(BadInput, match=message):
        patch_along(model_of("gpt2"), **arguments)


def test_a_basis_that_is_not_orthonormal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_hooks.interventions.runs.orthonormal", lambda directions: directions.reshape(-1, 12))
    with pytest.raises(AssertionError, match="relative difference"):
        test_an_interchange_is_the_patch_of_the_swapped_value(*SITES[0])
