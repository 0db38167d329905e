"""Norms against torch's own, fused against explicit, and their statistics."""

from typing import Any

import pytest
import torch
from torch import nn

from interp_hooks.errors import HookConflict
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.norm import NoNorm, Norm, norm
from tests.tiny import assert_close, build, redraw

WIDTH, EPS = 12, 0.3  # an eps of the size of the variance, so that its place in the formula shows
X = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KINDS = ["LN", "LNPre", "RMS", "RMSPre"]


def make(kind: Any, dtype: torch.dtype = torch.float64) -> Norm:
    made = Norm(kind, (WIDTH,), EPS).to(dtype)
    redraw(made)
    return made


def watched(made: Norm, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output of the explicit path, and what its points show."""
    seen: dict[str, torch.Tensor] = {}
    for label, point in (("scale", made.hook_scale), ("normalized", made.hook_normalized)):
        point.add_hook(lambda value, hook, label=label: seen.update({label: value}))
    out = made(x)
    for point in (made.hook_scale, made.hook_normalized):
        point.remove_hooks()
    return out, seen


@pytest.mark.parametrize("kind", KINDS)
def test_fused_is_explicit(kind: str) -> None:
    made = make(kind)
    out, _ = watched(made, X)
    assert_close(made(X), out, 1e-14)  # a dozen roundings of float64
    assert torch.equal(made(X), made.fused(X))


@pytest.mark.parametrize("kind", KINDS)
def test_against_torch(kind: str) -> None:
    made = make(kind)
    theirs = (nn.LayerNorm if kind.startswith("LN") else nn.RMSNorm)(WIDTH, eps=EPS).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.ones(WIDTH) if made.w is None else made.w)
        if isinstance(theirs, nn.LayerNorm):
            theirs.bias.copy_(torch.zeros(WIDTH) if made.b is None else made.b)
    assert_close(watched(made, X)[0], theirs(X), 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_points_show(kind: str) -> None:
    """The scale is what is divided by; `normalized` is before gain and bias."""
    made = make(kind)
    _, seen = watched(made, X)
    centred = X - X.mean(-1, keepdim=True) if kind.startswith("LN") else X
    scale = (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    assert_close(seen["scale"], scale, 1e-14)
    assert_close(seen["normalized"], centred / scale, 1e-14)


@pytest.mark.parametrize(("kind", "gain", "bias"), [("LN", True, True), ("LNPre", False, False), ("RMS", True, False),
                                                    ("RMSPre", False, False)])  # fmt: skip
def test_which_parameters_there_are(kind: str, gain: bool, bias: bool) -> None:
    made = make(kind)
    assert (made.w is not None, made.b is not None) == (gain, bias)
    assert sorted(dict(made.named_parameters())) == ["b"] * bias + ["w"] * gain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_statistics_are_float32(kind: str, dtype: torch.dtype) -> None:
    made, x = make(kind, dtype), (100 + X).to(dtype)
    out, seen = watched(made, x)
    assert out.dtype == made(x).dtype == dtype
    assert seen["scale"].dtype == seen["normalized"].dtype == torch.float32
    exact = make(kind, torch.float64)
    exact.load_state_dict(made.state_dict())
    _, truth = watched(exact, x.double())
    # float32's own precision, 1e-7, times what centring near 100 loses, 100
    assert_close(seen["normalized"], truth["normalized"], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_scale_is_divided_by(kind: str) -> None:
    made = make(kind)
    handle = made.hook_scale.add_hook(lambda value, hook: 2 * value)
    halved = made(X)
    handle.remove()
    bias = 0 if made.b is None else made.b
    assert_close(2 * (halved - bias), made(X) - bias, 1e-14)


def test_showing_changes_nothing_or_is_a_conflict() -> None:
    made = make("LN")
    made.show(X)
    seen: list[str] = []
    handle = made.hook_scale.add_hook(lambda value, hook: seen.append("scale"))
    made.show(X)
    assert seen == ["scale"]
    handle.remove()

    def shift(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return value + 1

    made.hook_normalized.name = "here.hook_normalized"
    made.hook_normalized.add_hook(shift)
    with pytest.raises(HookConflict, match=r"here\.hook_normalized"):
        made.show(X)


def test_showing_a_stream_that_is_not_finite_is_no_conflict() -> None:
    """Watching a model that has diverged must not accuse anybody of having changed something."""
    made = make("LN")
    made.hook_scale.add_hook(lambda value, hook: None)
    made.show(torch.full_like(X, torch.nan))


def test_no_norm_is_the_identity_without_hooks() -> None:
    nothing = norm(build(normalization_type=None).cfg, None)
    assert isinstance(nothing, NoNorm)
    assert nothing(X) is X
    assert nothing.fused(X) is X
    assert not list(nothing.modules())[1:]
    assert nothing.w is None
    assert nothing.b is None
