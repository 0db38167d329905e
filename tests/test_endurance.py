"""Two thousand hooked runs of one model: no memory, no hook and no work is left over from one to the next.

Work is counted, not timed: how many functions, of Python and of C, a run calls. What grew with the runs before it
(a list of hooks, a registry, a cache that is searched) would call more.
"""

import contextvars
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, Intervention, Run, at, evaluate
from interp_hooks.hooks.scopes import IN_FORCE, OPEN, Scope
from tests.tiny import build, random_tokens

RUNS = 2000
TOKENS = random_tokens(batch=2, pos=7, d_vocab=23)
STATM = Path("/proc/self/statm")


class Interruption(RuntimeError):
    """Raised by a hook."""


def double(value: Tensor, hook: HookPoint) -> Tensor:
    hook.ctx["seen"] = hook.ctx.get("seen", 0) + 1
    return value * 2


def fail(value: Tensor, hook: HookPoint) -> None:
    raise Interruption


def with_hooks(model: HookedTransformer) -> None:
    model.run_with_hooks(TOKENS, fwd_hooks=[("z1", double), (lambda name: name.endswith("hook_pattern"), double)])


def with_cache(model: HookedTransformer) -> None:
    _, cache = model.run_with_cache(TOKENS)
    cache["resid_post", -1].sum()


def with_gradients(model: HookedTransformer) -> None:
    model.run_with_cache(TOKENS, return_type=None, names_filter="z1")
    model.run_with_cache(TOKENS, names_filter="z1", incl_bwd=lambda logits: logits.sum())
    model.zero_grad()


def in_context(model: HookedTransformer) -> None:
    with model.hooks(fwd_hooks=[("resid_pre0", double)]), model.hooks(fwd_hooks=[("mlp_out1", double)]):
        model(TOKENS)


def interrupted(model: HookedTransformer) -> None:
    with pytest.raises(Interruption):
        model.run_with_hooks(TOKENS, fwd_hooks=[("z0", double), ("mlp_out1", fail)], bwd_hooks=[("q0", double)])


def evaluated(model: HookedTransformer) -> None:
    evaluate(model, [Run(TOKENS, [Intervention(at("z", 1), 0.0)])], lambda logits: logits.sum())


KINDS: dict[str, Callable[[HookedTransformer], None]] = {
    function.__name__: function
    for function in (with_hooks, with_cache, with_gradients, in_context, interrupted, evaluated)
}


def left(model: HookedTransformer) -> dict[str, Any]:
    """What there is of everything that could grow, in numbers; the model has to be without hooks."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]  # asking an object its class may warn
    points = model.hook_points()
    return {
        "hooks": sum(len(point.hooks) for point in points),
        "remembered by hook points": sum(len(point.ctx) for point in points),
        "open contexts": model.context_level,
        "scopes in force": len(OPEN),
        "torch's own hooks": sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in model.modules()
        ),
        "attributes": sum(len(vars(module)) for module in model.modules()),
        "tensors": len(tensors),
        "numbers in tensors": sum(one.numel() for one in tensors),
    }


def calls(kind: Callable[[HookedTransformer], None], model: HookedTransformer) -> int:
    """How many functions one run calls."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        kind(model)
    finally:
        sys.setprofile(None)
    return count


def memory() -> tuple[int, int]:
    """Blocks that Python holds, and pages of memory in use (0 where the system does not tell)."""
    gc.collect()
    return sys.getallocatedblocks(), int(STATM.read_text().split()[1]) if STATM.exists() else 0


def many_runs(model: HookedTransformer, runs: int) -> None:
    """Runs of all kinds in turn."""
    for run in range(0, runs, len(KINDS)):
        for kind in KINDS.values():
            kind(model)
        if run % 100 < len(KINDS):
            gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("no_collector")
def test_nothing_grows_in_two_thousand_hooked_runs() -> None:
    model = build(dtype=torch.float32)
    many_runs(model, 3 * len(KINDS))
    logits = model(TOKENS)
    work, before = {name: calls(kind, model) for name, kind in KINDS.items()}, left(model)

    many_runs(model, RUNS // 2)  # in these Python and torch still fill stores of their own, which are bounded
    blocks, pages = memory()
    many_runs(model, RUNS // 2)
    more_blocks, more_pages = memory()

    assert left(model) == before
    assert before["hooks"] == before["open contexts"] == before["scopes in force"] == before["torch's own hooks"] == 0
    assert {name: calls(kind, model) for name, kind in KINDS.items()} == work
    each = RUNS // 2 // len(KINDS)
    assert more_blocks - blocks < each / 2, "less than an object for every other run of one kind"
    assert more_pages - pages < 256, "pages of memory in use"
    assert torch.equal(model(TOKENS), logits)


def leaves_a_hook(model: HookedTransformer) -> None:
    model.add_hook("z1", lambda value, hook: None)
    model(TOKENS)


def keeps_an_activation(model: HookedTransformer) -> None:
    model.hook_dict["hook_embed"].ctx[object()] = model(TOKENS).detach()


def opens_a_context(model: HookedTransformer) -> None:
    IN_FORCE.set(IN_FORCE.get().within(Scope(model, [])))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("leak", "shown"),
    [
        (leaves_a_hook, "hooks"),
        (keeps_an_activation, "tensors"),
        (keeps_an_activation, "remembered by hook points"),
        (opens_a_context, "open contexts"),
    ],
)
def test_what_grows_is_noticed(leak: Callable[[HookedTransformer], None], shown: str) -> None:
    model = build(dtype=torch.float32)
    model(TOKENS)
    before = left(model)

    def leaking() -> None:
        for _ in range(5):
            leak(model)
        assert left(model)[shown] == before[shown] + 5

    contextvars.copy_context().run(leaking)


@pytest.mark.usefixtures("no_collector")
def test_more_work_is_noticed() -> None:
    model = build(dtype=torch.float32)
    leaves_a_hook(model)
    first = calls(with_hooks, model)
    leaves_a_hook(model)
    assert calls(with_hooks, model) > first
