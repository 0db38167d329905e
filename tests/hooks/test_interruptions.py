"""Calls that end in the middle: by a real signal at any moment, or by an exception at any line of the package.

Whatever happens, no function stays attached, and the next call gives what it gave before.
"""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks
from interp_hooks import HookedTransformer, HookPoint, LogitDiff, ablate_directions, attribution_patch, patch, steer
from interp_hooks.errors import InterpHooksError
from tests.tiny import build, random_tokens, unchecked_types

TIMES = int(os.environ.get("TIMES", "1"))
PACKAGE = str(Path(interp_hooks.__file__).parent)
TOKENS, OTHER = random_tokens(batch=2, pos=6, d_vocab=23, seed=1), random_tokens(batch=2, pos=6, d_vocab=23, seed=2)
METRIC = LogitDiff(torch.tensor([3, 4]), torch.tensor([5, 6]))


def doubled(value: Tensor, hook: HookPoint) -> Tensor:
    return value * 2


def run_with_hooks(model: HookedTransformer) -> Tensor:
    return model.run_with_hooks(TOKENS, fwd_hooks=[("resid_pre1", doubled), ("mlp_out2", doubled)])


def run_with_cache(model: HookedTransformer) -> Tensor:
    return model.run_with_cache(TOKENS, return_type=None, names_filter=["resid_mid1", "z0"])[1]["resid_mid", 1]


def with_gradients(model: HookedTransformer) -> Tensor:
    return model.run_with_cache(TOKENS, names_filter="z1", incl_bwd=lambda logits: logits.sum())[1]["z1_grad"]


def in_blocks(model: HookedTransformer) -> Tensor:
    with model.hooks(fwd_hooks=[("resid_pre1", doubled)]), model.hooks(fwd_hooks=[("z2", doubled)]):
        return model(TOKENS)


def steered(model: HookedTransformer) -> Tensor:
    with steer(model, torch.ones(12, dtype=torch.float64), "resid_pre1"):
        return model(TOKENS)


def without_direction(model: HookedTransformer) -> Tensor:
    with ablate_directions(model, torch.eye(12, dtype=torch.float64)[0]):
        return model(TOKENS)


def patched(model: HookedTransformer) -> Tensor:
    return patch(model, TOKENS, OTHER, METRIC, "z", over=("layer",)).values


def attributed(model: HookedTransformer) -> Tensor:
    return attribution_patch(model, TOKENS, OTHER, METRIC, "z", over=("layer",)).values


CALLS: dict[str, Callable[[HookedTransformer], Tensor]] = {
    call.__name__: call
    for call in (
        run_with_hooks, run_with_cache, with_gradients, in_blocks, steered, without_direction, patched, attributed
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build()


class Stop(BaseException):
    """What ends a call in its middle."""


class AtLine:
    """Raises at the n-th line of the package that is run."""

    def __init__(self, line: int) -> None:
        self.left, self.raised = line, False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not self.raised:
            self.left -= 1
            if self.left < 0:
                self.raised = True
                raise Stop
        return self


def stopped_at_line(call: Callable[[], object], line: int) -> bool:
    tracer, before = AtLine(line), sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except (Stop, InterpHooksError):  # a block tells that it came by nothing, after it was cut short
        pass
    finally:
        sys.settrace(before)
    return tracer.raised


def assert_as_before(model: HookedTransformer, plain: Tensor, weights: dict[str, Tensor]) -> None:
    assert not [point.name for point in model.hook_points() if point.hooked or point.attached]
    assert model.context_level == 0
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.is_grad_enabled()
    assert not model._forward_pre_hooks
    with torch.no_grad():
        assert torch.equal(model(TOKENS), plain)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where a block is thrown away
@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_any_line_leaves_nothing(model: HookedTransformer, name: str) -> None:
    call = CALLS[name]
    with unchecked_types():
        plain, expected = model(TOKENS).detach(), call(model)
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        lines = next(n for n in (2**power for power in range(5, 30)) if not stopped_at_line(lambda: call(model), n))
        step = max(1, lines // (40 * TIMES))
        for line in range(0, lines, step):
            if not stopped_at_line(lambda: call(model), line):
                break
            assert_as_before(model, plain, weights)
        assert line > lines // 3
        assert torch.equal(call(model), expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may hit where nobody can raise
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_at_any_moment_leaves_nothing(model: HookedTransformer, name: str) -> None:
    """A real signal, which Python turns into an exception between any two of its steps."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    call, draw, armed, ended = CALLS[name], random.Random(name), False, 0

    def stop(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    with unchecked_types():
        plain, expected = model(TOKENS).detach(), call(model)
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        before = signal.signal(signal.SIGALRM, stop)
        try:
            for _ in range(25 * TIMES):
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 8e-3))
                    call(model)
                    armed = False
                except Stop:
                    ended += 1
                assert_as_before(model, plain, weights)
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert torch.equal(call(model), expected)
    assert ended
