"""Two threads that use one model at the same time: each gets what it would get alone, or is refused."""

import copy
import itertools
import os
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interp_hooks import (
    HookedTransformer,
    HookPoint,
    KeyValueCache,
    LogitDiff,
    ablate,
    attribution_patch,
    eap,
    patch,
    steer,
)
from interp_hooks.errors import HookConflict
from interp_hooks.hooks.scopes import OPEN
from interp_hooks.model.tokens import overridden_defaults
from tests.model.test_tokens import text_model, word_tokenizer
from tests.tiny import build, random_tokens, unchecked_types

TIMES = int(os.environ.get("TIMES", "1"))  # how often each pair runs at once
TOKENS, OTHER = random_tokens(batch=2, pos=6, d_vocab=23, seed=1), random_tokens(batch=2, pos=6, d_vocab=23, seed=2)
METRIC = LogitDiff(torch.tensor([3, 4]), torch.tensor([5, 6]))

Call = Callable[[HookedTransformer], Any]


def halved(value: Tensor, hook: HookPoint) -> Tensor:
    return value / 2


def one_more(value: Tensor, hook: HookPoint) -> Tensor:
    return value + 1


def run_with_hooks(model: HookedTransformer) -> Tensor:
    return model.run_with_hooks(TOKENS, fwd_hooks=[("resid_pre1", one_more), (lambda name: "hook_z" in name, halved)])


def run_with_cache(model: HookedTransformer) -> Tensor:
    logits, cache = model.run_with_cache(OTHER)
    return torch.cat([logits.flatten(), *(value.flatten() for value in cache.values())])


def run_with_gradients(model: HookedTransformer) -> Tensor:
    _, cache = model.run_with_cache(
        TOKENS, names_filter=["z0", "resid_post1"], incl_bwd=lambda logits: logits[:, -1, 2].sum()
    )
    return torch.cat([value.flatten() for value in cache.values()])


def in_a_block(model: HookedTransformer) -> Tensor:
    with model.hooks(fwd_hooks=[("mlp_out1", halved)]), torch.no_grad():
        return model(OTHER)


def patched(model: HookedTransformer) -> Tensor:
    return patch(model, TOKENS, OTHER, METRIC, "z", over=("layer", "head")).values


def ablated(model: HookedTransformer) -> Tensor:
    return ablate(model, TOKENS, METRIC, "resid_post", over=("layer", "pos")).values


def edges(model: HookedTransformer) -> Tensor:
    return eap(model, TOKENS, OTHER, METRIC).scores.matrix.nan_to_num()


def attributed(model: HookedTransformer) -> Tensor:
    return attribution_patch(model, TOKENS, OTHER, METRIC, "resid_pre", over=("layer", "pos")).values


def generated(model: HookedTransformer) -> Tensor:
    return model.generate(TOKENS, 5, do_sample=False, verbose=False)


def steered(model: HookedTransformer) -> Tensor:
    with steer(model, torch.ones(12, dtype=torch.float64), "resid_pre1", positions=slice(7, None), coefficient=9.0):
        return model.generate(TOKENS, 5, do_sample=False, verbose=False, return_type="tokens")


CALLS: dict[str, Call] = {
    call.__name__: call
    for call in (
        run_with_hooks, run_with_cache, run_with_gradients, in_a_block, patched, ablated, edges, attributed, generated,
        steered,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build(n_ctx=16, d_vocab_out=23)


@pytest.fixture(autouse=True)
def _switching() -> Iterator[None]:
    """Threads take turns after a tenth of a millisecond, so that any moment of one may meet any of the other."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    with unchecked_types():
        yield
    sys.setswitchinterval(interval)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What several calls return or raise, each in a thread of its own."""
    found: list[Any] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def run(place: int, call: Callable[[], Any]) -> None:
        ready.wait()
        try:
            found[place] = call()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(autouse=True)
def no_token_of_other_tests() -> None:
    """Interrupted blocks of other tests may have left some."""
    OPEN.clear()


def assert_nothing_is_left(model: HookedTransformer) -> None:
    assert not [point.name for point in model.hook_points() if point.hooked or point.attached]
    assert model.context_level == len(OPEN) == 0
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("pair", [*itertools.combinations_with_replacement(CALLS, 2)], ids="-".join)
def test_each_gets_what_it_gets_alone(model: HookedTransformer, pair: tuple[str, str]) -> None:
    calls = [CALLS[name] for name in pair]
    alone = [call(model) for call in calls]
    for _ in range(TIMES):
        found = at_once(*(lambda call=call: call(model) for call in calls))
        for name, one, expected in zip(pair, found, alone, strict=True):
            if isinstance(one, BaseException):
                raise one
            assert torch.equal(one, expected), name
    assert_nothing_is_left(model)


def test_a_training_step_beside_an_attribution_has_all_its_gradients() -> None:
    model = build()

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(model(TOKENS, return_type="loss"), list(model.parameters())))

    alone = step()
    for _ in range(5 * TIMES):
        gradients, _ = at_once(step, lambda: attributed(model))
        assert all(torch.equal(one, expected) for one, expected in zip(gradients, alone, strict=True))


class Waits:
    """A hook function that waits in the middle of a pass until it is let go."""

    def __init__(self) -> None:
        self.there, self.go = threading.Event(), threading.Event()

    def __call__(self, value: Tensor, hook: HookPoint) -> None:
        self.there.set()
        assert self.go.wait(20)


def while_a_pass_runs(model: HookedTransformer, do: Callable[[], None], call: Call | None = None) -> Any:
    """What another thread's pass returns or raises, in the middle of which something is done here."""
    waits, found = Waits(), []

    def run() -> None:
        try:
            found.append(model.run_with_hooks(TOKENS, fwd_hooks=[("resid_mid1", waits)]))
        except HookConflict as error:
            found.append(error)

    thread = threading.Thread(target=run, name="the other one")
    thread.start()
    assert waits.there.wait(20)
    try:
        do()
    finally:
        waits.go.set()
        thread.join()
    return found[0]


def test_what_stays_is_not_changed_while_another_thread_is_in_a_pass(model: HookedTransformer) -> None:
    plain = model(TOKENS)
    handle = model.add_hook("mlp_out0", lambda value, hook: None)[0]
    splice = model.splice("mlp_out1", nn.Identity())

    def refused(change: Callable[[], object], what: str) -> None:
        with pytest.raises(HookConflict, match=f"can't be {what} while a pass of another thread .the other one"):
            change()

    def do() -> None:
        refused(lambda: model.add_hook("mlp_out2", halved), "attached")
        refused(lambda: model.hook_dict["blocks.2.hook_mlp_out"].add_hook(halved), "attached")
        refused(lambda: model.run_with_hooks(TOKENS, fwd_hooks=[("z0", halved)], reset_hooks_end=False), "attached")
        refused(lambda: model.add_caching_hooks("z2"), "attached")
        refused(handle.remove, "removed")
        refused(model.reset_hooks, "removed")
        refused(lambda: model.splice("mlp_out2", nn.Identity()), "spliced in")
        refused(splice.remove, "taken out")

    assert torch.equal(while_a_pass_runs(model, do), plain)
    assert [*model.list_hooks()] == ["blocks.0.hook_mlp_out"]
    assert [*model.splices] == ["blocks.1.hook_mlp_out"]
    splice.remove()
    handle.remove()
    while_a_pass_runs(model, model.reset_hooks)  # takes nothing away
    while_a_pass_runs(model, lambda: build().add_hook("z0", halved).clear())  # of another model
    assert_nothing_is_left(model)


def test_a_hook_function_may_attach_another_one(model: HookedTransformer) -> None:
    """Within one thread the order is plain."""
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("mlp_out2", halved)])
    adds = lambda value, hook: model.add_hook("mlp_out2", halved).clear()  # noqa: E731
    assert torch.equal(model.run_with_hooks(TOKENS, fwd_hooks=[("z0", adds)]), expected)
    model.reset_hooks()


def test_a_cache_is_filled_by_one_thread_at_a_time(model: HookedTransformer) -> None:
    cache = model.add_caching_hooks(["resid_pre1", "resid_post2"])
    values = model.run_with_hooks(TOKENS)
    assert len(cache) == 2
    with pytest.raises(HookConflict, match="two threads would fill one cache"):
        while_a_pass_runs(model, lambda: model(OTHER))
    expected = model.run_with_cache(TOKENS, names_filter="resid_post2")[1]
    done = threading.Thread(target=lambda: model(TOKENS))
    done.start()
    done.join()
    assert torch.equal(cache["blocks.2.hook_resid_post"], expected["resid_post", 2])
    model.reset_hooks()
    assert torch.equal(model(TOKENS), values)


def test_a_block_is_the_threads_that_is_in_it(model: HookedTransformer) -> None:
    plain = model(TOKENS)
    with model.hooks(fwd_hooks=[("z1", halved)]):
        assert [*model.list_hooks()] == ["blocks.1.attn.hook_z"]
        (elsewhere,) = at_once(lambda: (model(TOKENS), model.list_hooks(), model.context_level))
        assert not torch.equal(model(TOKENS), plain)
    assert torch.equal(elsewhere[0], plain)
    assert elsewhere[1:] == ({}, 0)


def test_blocks_may_end_in_another_order_than_they_began(model: HookedTransformer) -> None:
    plain = model(TOKENS)
    first, second = model.hooks(fwd_hooks=[("z0", halved)]), model.hooks(fwd_hooks=[("mlp_out1", halved)])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [*model.list_hooks()] == ["blocks.1.hook_mlp_out"]
    second.__exit__(None, None, None)
    assert torch.equal(model(TOKENS), plain)
    assert_nothing_is_left(model)


def test_steering_counts_the_tokens_of_its_own_pass(model: HookedTransformer) -> None:
    """With a cache given by position, and with other passes inside of a hook function."""
    vector, cache = torch.ones(12, dtype=torch.float64), KeyValueCache()
    model(TOKENS[:, :4], past_kv_cache=cache)
    kept = cache.prefix(4, 1)
    positional: list[Any] = ["logits", False, None, None, None, None, None, None, None, kept]

    def meanwhile(value: Tensor, hook: HookPoint) -> None:
        if value.shape[1] == 2:
            model(OTHER)

    def add(value: Tensor, hook: HookPoint) -> None:
        value[:, 5] += vector

    with steer(model, vector, "resid_pre1", positions=5):
        once = model.run_with_hooks(TOKENS[:, 4:], *positional, fwd_hooks=[("resid_pre0", meanwhile)])
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("resid_pre1", add)])
    torch.testing.assert_close(once, expected[:, 4:], rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------- what each has alone


def in_turns(*steps: Callable[[Callable[[], None]], Any]) -> list[Any]:
    """What two functions return that go on side by side: each calls `together()`, and waits there for the other."""
    barrier = threading.Barrier(len(steps), timeout=20)
    found = at_once(*(lambda step=step: step(barrier.wait) for step in steps))
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def test_what_functions_leave_is_their_threads_own(model: HookedTransformer) -> None:
    point = model.hook_dict["blocks.1.attn.hook_z"]
    point.ctx["here"] = "before"

    def leaving(note: str) -> Callable[[Callable[[], None]], Any]:
        def leave(value: Tensor, hook: HookPoint) -> None:
            assert hook.ctx == {}
            hook.ctx["note"] = note

        def step(together: Callable[[], None]) -> Any:
            model.run_with_hooks(TOKENS, fwd_hooks=[("z1", leave)])
            together()
            seen = dict(point.ctx)
            together()
            if note == "first":
                model.clear_contexts()
            together()
            return seen, dict(point.ctx)

        return step

    found = in_turns(leaving("first"), leaving("second"))
    assert found == [({"note": "first"}, {}), ({"note": "second"}, {"note": "second"})]
    assert point.ctx == {"here": "before"}
    point.ctx = {"else": 1}
    assert at_once(lambda: point.ctx) == [{}], "the number of a thread may be given again"
    model.reset_hooks()
    assert point.ctx == {}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_is_left_in_the_backward_pass_is_the_thread_of_the_pass(checkpointed: bool) -> None:
    """On a GPU torch differentiates in threads of its own."""
    model, block = build(), checkpoint if checkpointed else None
    model.zero_grad()
    if block is not None:
        for layer in model.blocks:
            forward = layer.forward
            layer.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)  # type: ignore

    def note(value: Tensor, hook: HookPoint) -> None:
        hook.ctx["times"] = hook.ctx.get("times", 0) + 1

    loss = model.run_with_hooks(TOKENS, fwd_hooks=[("z1", note)], bwd_hooks=[("mlp_out1", note)], return_type="loss")
    at_once(loss.backward)
    assert model.hook_dict["blocks.1.hook_mlp_out"].ctx == {"times": 1}
    assert model.hook_dict["blocks.1.attn.hook_z"].ctx == {"times": 1 + checkpointed}


def test_copies_of_a_point_have_what_this_thread_left_there(model: HookedTransformer) -> None:
    point = HookPoint("batch pos")
    point.ctx["a"] = [1]
    for twin in (copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert twin.ctx == {"a": [1]}
        assert twin.ctx["a"] is not point.ctx["a"]


def test_defaults_for_text_are_the_threads_that_overrides_them() -> None:
    model = text_model(word_tokenizer(pad=True))
    plain = model.to_tokens(["the cat", "sat"])

    def without(together: Callable[[], None]) -> list[Any]:
        with overridden_defaults(model, prepend_bos=False, padding_side="left"):
            together()
            found = [model.to_tokens(["the cat", "sat"]), model.default_padding_side, model.default_prepend_bos]
            together()
        return [*found, model.default_padding_side]

    def otherwise(together: Callable[[], None]) -> list[Any]:
        together()
        found = [model.to_tokens(["the cat", "sat"]), model.default_padding_side, model.default_prepend_bos]
        together()
        return [*found, model.default_padding_side]

    (one, *first), (other, *second) = in_turns(without, otherwise)
    assert one.tolist() == [[plain[0, 1], plain[0, 2]], [2, plain[1, 1]]]
    assert torch.equal(other, plain)
    assert (first, second) == (["left", False, "right"], ["right", True, "right"])
    assert_nothing_is_left(model)


def test_keys_are_not_grouped_anew_while_another_thread_is_in_a_pass() -> None:
    model = build(n_key_value_heads=2)

    def do() -> None:
        with pytest.raises(HookConflict, match="can't be grouped anew while a pass of another thread"):
            model.set_ungroup_grouped_query_attention(True)

    while_a_pass_runs(model, do)
    assert model.cfg.n_key_value_heads == 2


@pytest.mark.slow
def test_many_threads_with_everything(model: HookedTransformer) -> None:
    alone = {name: call(model) for name, call in CALLS.items()}
    draw = random.Random(0)
    for _ in range(TIMES):
        names = draw.choices([*CALLS], k=6)
        for name, found in zip(names, at_once(*(lambda name=name: CALLS[name](model) for name in names)), strict=True):
            assert torch.equal(found, alone[name]), name
