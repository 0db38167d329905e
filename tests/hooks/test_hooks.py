"""Hook points and the root module by themselves, on a small module that knows nothing of transformers."""

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookedRootModule, HookedTransformer, HookPoint
from interp_hooks.errors import BadHookValue, BadInput, HookDidNotFire, UnknownHook
from interp_hooks.hooks.points import HookFn
from tests.tiny import unchecked_types


class Inner(nn.Module):
    """Doubles its input."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_inside = HookPoint("batch width", width=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_inside(2 * x)


class Toy(HookedRootModule):
    """A user's own module: x -> first -> doubled -> squared -> last."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_first = HookPoint("batch width", width=3)
        self.inner = Inner()
        self.hook_last = HookPoint("batch width", width=3)
        self.hook_hidden = HookPoint("batch", collected=False)
        self.setup()

    def forward(self, x: Tensor, stop: bool = False) -> Tensor:
        x = self.hook_first(x)
        if stop:
            return x
        x = self.inner(x)
        self.hook_hidden(x[:, 0])
        return self.hook_last(x.square())


@pytest.fixture
def toy() -> Toy:
    return Toy()


X = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def add(number: float) -> Any:
    return lambda value, hook: value + number


def hooked_points(model: HookedRootModule) -> list[str]:
    return [point.name for point in model.hook_points() if point.hooked]


# --------------------------------------------------------------------------------------------------------------- names


def test_points_are_named_after_their_place(toy: Toy) -> None:
    assert list(toy.hook_dict) == ["hook_first", "inner.hook_inside", "hook_last", "hook_hidden"]
    assert [point.name for point in toy.hook_points()] == list(toy.hook_dict)
    assert toy.mod_dict == toy.hook_dict | {"inner": toy.inner}


def test_the_table_lists_every_point(toy: Toy) -> None:
    table = toy.hook_table()
    assert list(table["name"]) == list(toy.hook_dict)
    row = table.set_index("name").loc["inner.hook_inside"]
    assert row["axes"] == "batch width"
    assert row["shape"] == "(?, 3)"
    assert bool(row["collected"])


def test_printing_shows_name_and_axes(toy: Toy) -> None:
    assert "inner.hook_inside, batch width" in repr(toy)
    toy.add_hook("inner.hook_inside", add(1), dir="bwd")
    for _ in range(2):
        toy.add_hook("inner.hook_inside", add(1))
    assert "(inner.hook_inside, batch width, 2 fwd 1 bwd)" in repr(toy)


def test_a_gradient_may_come_as_the_only_item_of_a_tuple(toy: Toy) -> None:
    found = []
    for given in (lambda grad: 3 * grad, lambda grad: (3 * grad,)):
        x = X.clone().requires_grad_()
        with toy.hooks(bwd_hooks=[("hook_first", lambda grad, hook, given=given: given(grad))]):
            toy(x).sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)
    with toy.hooks(bwd_hooks=[("hook_first", lambda grad, hook: (grad, grad))]), pytest.raises(BadHookValue):
        toy(X.clone().requires_grad_()).sum().backward()
    with pytest.raises(BadHookValue, match="returned tuple"):
        toy.run_with_hooks(X, fwd_hooks=[("hook_first", lambda value, hook: (value,))])


@pytest.mark.parametrize("name", ["hook_frist", "inner.hook_insid", "inside"])
def test_a_misspelt_name_suggests_the_nearest(toy: Toy, name: str) -> None:
    expected = {"hook_frist": "hook_first"}.get(name, "inner.hook_inside")
    for call in (
        lambda: toy.run_with_hooks(X, fwd_hooks=[(name, add(1))]),
        lambda: toy.run_with_hooks(X, bwd_hooks=[(name, add(1))]),
        lambda: toy.run_with_cache(X, names_filter=name),
        lambda: toy.run_with_cache(X, names_filter=["hook_first", name]),
        lambda: toy.add_hook(name, add(1)),
        lambda: toy.hooks(fwd_hooks=[("hook_first", add(1)), (name, add(1))]).__enter__(),
    ):
        with pytest.raises(UnknownHook, match=rf"there is no hook point '{name}'.* Did you mean .*{expected}"):
            call()
        assert hooked_points(toy) == []
    with pytest.raises(KeyError):
        toy.add_hook(name, add(1))


def test_a_filter_that_matches_nothing_is_an_error(toy: Toy) -> None:
    for empty in (lambda name: "no such" in name, [], (), set()):
        with pytest.raises(UnknownHook, match=r"selects none of the 4 hook points \(hook_first|the list .* is empty"):
            toy.run_with_cache(X, names_filter=empty)


def test_a_name_of_another_type_is_told(toy: Toy) -> None:
    with unchecked_types(), pytest.raises(UnknownHook, match="named by a string, got int 3"):
        toy.run_with_cache(X, names_filter=[3])


@pytest.mark.parametrize(
    "wanted", [["hook_last", "hook_first"], ("hook_last", "hook_first"), {"hook_last", "hook_first"}]
)
def test_collections_of_names_are_filters(toy: Toy, wanted: Any) -> None:
    _, cache = toy.run_with_cache(X, names_filter=wanted)
    assert list(cache) == ["hook_first", "hook_last"], "in order of execution"


# ------------------------------------------------------------------------------------------------------- running hooks


def test_functions_run_in_the_order_written_each_on_the_others_value(toy: Toy) -> None:
    seen: list[Tensor] = []
    hooks = [("hook_first", add(1)), ("hook_first", lambda value, hook: seen.append(value.clone())),
             ("hook_first", lambda value, hook: value * 10)]  # fmt: skip
    out = toy.run_with_hooks(X, fwd_hooks=hooks)
    assert torch.equal(seen[0], X + 1)
    assert torch.equal(out, (2 * 10 * (X + 1)).square())


def test_prepend_goes_first(toy: Toy) -> None:
    toy.add_hook("hook_first", lambda value, hook: value * 10)
    toy.add_hook("hook_first", add(1), prepend=True)
    assert torch.equal(toy(X, stop=True), (X + 1) * 10)


def test_none_keeps_the_value_and_an_edit_in_place_counts(toy: Toy) -> None:
    def edit(value: Tensor, hook: HookPoint) -> None:
        value[0] = 0.0

    before = X.clone()
    out = toy.run_with_hooks(X, True, fwd_hooks=[("hook_first", edit)])
    assert torch.equal(out, X * torch.tensor([[0.0], [1.0]]))
    assert torch.equal(X, before), "the caller's tensor is not edited"


def test_the_hook_argument_is_the_point(toy: Toy) -> None:
    met: list[HookPoint] = []
    toy.run_with_hooks(X, fwd_hooks=[(lambda name: "inside" in name, lambda value, hook: met.append(hook))])
    assert met == [toy.inner.hook_inside]


class Adds:
    """A hook function that is an object."""

    def __call__(self, value: Tensor, point: HookPoint) -> Tensor:
        assert point.name == "hook_first"
        return value + 1


def by_position_only(value: Tensor, hook: HookPoint, /) -> Tensor:
    return value + len(hook.name) / 10


def by_name_only(value: Tensor, *, hook: HookPoint) -> Tensor:
    return value + len(hook.name) / 10


def any_names(value: Tensor, **given: HookPoint) -> Tensor:
    return value + len(given["hook"].name) / 10


def with_options(value: Tensor, amount: float, hook: HookPoint) -> Tensor:
    return value + amount * len(hook.name) / 10


@pytest.mark.parametrize(
    "fn",
    [
        lambda value, point: value + len(point.name) / 10,
        lambda x, hook: x + len(hook.name) / 10,
        functools.partial(with_options, amount=1.0),
        functools.partial(lambda amount, value, _: value + amount, 1.0),
        by_position_only,
        by_name_only,
        any_names,
        Adds(),
        Adds().__call__,
    ],
)
def test_the_point_is_given_by_name_or_else_by_position(toy: Toy, fn: Callable[..., Tensor]) -> None:
    assert torch.equal(toy.run_with_hooks(X, True, fwd_hooks=[("hook_first", fn)]), X + 1)
    x = X.clone().requires_grad_()
    toy.run_with_hooks(x, True, bwd_hooks=[("hook_first", fn)]).sum().backward()
    assert torch.equal(x.grad, torch.full_like(X, 2.0))


def test_one_function_on_several_points(toy: Toy) -> None:
    met: list[str] = []
    toy.run_with_hooks(X, fwd_hooks=[(lambda name: True, lambda value, hook: met.append(hook.name))])
    assert met == ["hook_first", "inner.hook_inside", "hook_hidden", "hook_last"]


def test_contexts_nest_and_each_takes_its_own_away(toy: Toy) -> None:
    with toy.hooks(fwd_hooks=[("hook_first", add(1))]):
        with toy.hooks(fwd_hooks=[("hook_first", add(10))]) as same:
            assert same is toy
            assert torch.equal(toy(X, stop=True), X + 11)
            with toy.hooks(fwd_hooks=[("hook_first", add(100))]):
                assert torch.equal(toy(X, stop=True), X + 111)
            with pytest.raises(ZeroDivisionError), toy.hooks(fwd_hooks=[("hook_first", add(100))]):
                raise ZeroDivisionError
            assert torch.equal(toy(X, stop=True), X + 11)
        assert torch.equal(toy(X, stop=True), X + 1)
        toy.run_with_hooks(X, fwd_hooks=[("hook_last", add(1))])
        toy.run_with_cache(X)
        assert torch.equal(toy(X, stop=True), X + 1), "passes inside take only their own away"
    assert hooked_points(toy) == []


def test_the_same_function_twice_is_two_hooks(toy: Toy) -> None:
    plus = add(1)
    with toy.hooks(fwd_hooks=[("hook_first", plus)]):
        with toy.hooks(fwd_hooks=[("hook_first", plus)]):
            assert torch.equal(toy(X, stop=True), X + 2)
        assert torch.equal(toy(X, stop=True), X + 1)


def test_hooks_may_stay_after_the_block(toy: Toy) -> None:
    toy.run_with_hooks(X, fwd_hooks=[("hook_first", add(1))], reset_hooks_end=False)
    assert torch.equal(toy(X, stop=True), X + 1)
    with pytest.raises(ZeroDivisionError), toy.hooks(fwd_hooks=[("hook_first", add(10))], reset_hooks_end=False):
        raise ZeroDivisionError
    assert torch.equal(toy(X, stop=True), X + 1), "but not after an exception"
    toy.reset_hooks()
    assert hooked_points(toy) == []


def test_permanent_hooks_survive_a_reset(toy: Toy) -> None:
    toy.add_hook("hook_first", add(1), is_permanent=True)
    toy.add_hook("hook_first", add(10))
    toy.reset_hooks()
    assert torch.equal(toy(X, stop=True), X + 1)
    toy.reset_hooks(including_permanent=True)
    assert torch.equal(toy(X, stop=True), X)


def test_permanent_hooks_of_points_and_by_name(toy: Toy) -> None:
    toy.add_perma_hook("hook_first", add(1))
    toy.hook_first.add_perma_hook(lambda gradient, hook: gradient * 2, "bwd")
    with toy.hooks(fwd_hooks=[("hook_first", add(10))]):
        toy.reset_hooks()
        x = X.clone().requires_grad_()
        out = toy(x, stop=True)
        out.sum().backward()
    assert torch.equal(out, X + 1)
    assert torch.equal(x.grad, torch.full_like(X, 2.0))
    toy.remove_all_hook_fns("fwd", including_permanent=True)
    assert [hook.direction for hook in toy.hook_first.hooks] == ["bwd"]


def test_levels_tell_contexts_apart(toy: Toy) -> None:
    toy.add_hook("hook_first", add(1))
    with toy.hooks(fwd_hooks=[("hook_first", add(10))]):
        with toy.hooks(fwd_hooks=[("hook_first", add(100))]):
            assert [hook.context_level for hook in toy.hook_first.hooks] == [None, 1, 2]
            toy.reset_hooks(level=2)
            assert torch.equal(toy(X, stop=True), X + 11)
        toy.add_hook("hook_first", add(1000), level=1)
        toy.add_hook("hook_first", add(10000), is_permanent=True)
        toy.remove_all_hook_fns(level=1, including_permanent=True)
        assert torch.equal(toy(X, stop=True), X + 10001), "what has another level stays, permanent or not"
    assert toy.context_level == 0


def test_levels_are_left_by_exceptions_too(toy: Toy) -> None:
    with unchecked_types(), pytest.raises(BadInput, match="a function of"):
        toy.run_with_hooks(X, fwd_hooks=[("hook_first", add(1)), ("hook_last", None)])
    with pytest.raises(UnknownHook):
        toy.run_with_hooks(X, fwd_hooks=[("no such", add(1))])
    assert hooked_points(toy) == []
    assert toy.context_level == 0


def test_arguments_stand_in_the_fields_order(toy: Toy) -> None:
    toy.add_hook("hook_first", lambda value, hook: value * 10, "fwd", True, 3)
    toy.add_hook("hook_first", add(1), "fwd", False, None, True)
    toy.hook_first.add_hook(add(2), "fwd", False, 3, True)
    assert torch.equal(toy(X, stop=True), (X + 2 + 1) * 10)
    assert [(hook.context_level, hook.is_permanent) for hook in toy.hook_first.hooks] == [
        (3, False), (None, False), (3, True)
    ]  # fmt: skip


def test_what_is_attached_is_listed(toy: Toy) -> None:
    plus, twice = add(1), add(2)
    assert toy.list_hooks() == {}
    toy.add_hook("hook_first", plus)
    toy.add_hook("hook_first", twice, dir="bwd")
    toy.add_perma_hook("hook_last", twice)
    listed = {name: [hook.user_hook for hook in hooks] for name, hooks in toy.list_hooks().items()}
    assert listed == {"hook_first": [plus, twice], "hook_last": [twice]}
    assert list(toy.list_hooks(including_permanent=False)) == ["hook_first"]
    assert list(toy.list_hooks("hook_last")) == list(toy.list_hooks(lambda name: "last" in name)) == ["hook_last"]
    (backward,) = toy.list_hooks(["hook_first", "hook_last"], dir="bwd")["hook_first"]
    backward.remove()
    assert [hook.fn for hook in toy.hook_first.fwd_hooks] == [plus]
    assert toy.hook_first.bwd_hooks == []
    with pytest.raises(UnknownHook, match="hook_first"):
        toy.list_hooks("hook_frist")
    with unchecked_types(), pytest.raises(ValueError, match="'fwd', 'bwd' or 'both', got 'forward'"):
        toy.list_hooks(dir="forward")


def test_a_point_tells_and_forgets_by_direction_and_level(toy: Toy) -> None:
    point = toy.hook_first
    assert not point.has_hooks()
    point.add_hook(add(1), level=2)
    point.add_perma_hook(add(1), "bwd")
    told = [
        point.has_hooks(*asked) for asked in (("fwd",), ("bwd",), ("bwd", False), ("both", True, 2), ("bwd", True, 2))
    ]
    assert told == [True, True, False, True, False]
    point.remove_hooks(level=1)
    assert len(point.hooks) == 2
    point.remove_hooks()
    assert [hook.direction for hook in point.hooks] == ["bwd"]
    point.remove_hooks("bwd")
    assert len(point.hooks) == 1, "permanent"
    point.remove_hooks("both", including_permanent=True)
    assert not point.has_hooks()
    for call in (point.has_hooks, point.remove_hooks):
        with unchecked_types(), pytest.raises(ValueError, match="'fwd', 'bwd' or 'both', got 'backward'"):
            call("backward")


class Guarded(Toy):
    """Refuses functions that would edit its last value."""

    def check_hooks_to_add(
        self, hook_point: HookPoint, hook_point_name: str, hook: HookFn, *args: Any, **kwargs: Any
    ) -> None:
        assert hook_point.name == hook_point_name
        if hook_point_name == "hook_last":
            raise PermissionError(hook_point_name)


def test_a_module_may_refuse_functions() -> None:
    guarded = Guarded()
    for call in (
        lambda: guarded.add_hook("hook_last", add(1)),
        lambda: guarded.add_hook(lambda name: True, add(1)),
        lambda: guarded.add_perma_hook("hook_last", add(1)),
        lambda: guarded.check_and_add_hook(guarded.hook_last, "hook_last", add(1)),
        lambda: guarded.run_with_hooks(X, fwd_hooks=[("hook_first", add(1)), ("hook_last", add(1))]),
        lambda: guarded.run_with_hooks(X, bwd_hooks=[("hook_last", add(1))]),
        lambda: guarded.hooks(fwd_hooks=[("hook_last", add(1))]).__enter__(),
    ):
        with pytest.raises(PermissionError, match="hook_last"):
            call()
        assert hooked_points(guarded) == []
    guarded.check_and_add_hook(guarded.hook_first, "hook_first", add(1), "fwd", True, 4)
    assert [(hook.is_permanent, hook.context_level) for hook in guarded.hook_first.hooks] == [(True, 4)]
    _, cache = guarded.run_with_cache(X)
    assert "hook_last" in cache, "looking is free"


def test_reset_may_take_one_direction(toy: Toy) -> None:
    toy.add_hook("hook_first", add(1))
    toy.add_hook("hook_first", lambda gradient, hook: gradient * 2, dir="bwd")
    toy.reset_hooks(direction="fwd")
    x = X.clone().requires_grad_()
    out = toy(x, stop=True)
    out.sum().backward()
    assert torch.equal(out, X)
    assert torch.equal(x.grad, torch.full_like(X, 2.0))
    toy.reset_hooks(direction="bwd")
    assert hooked_points(toy) == []


def test_a_handle_removes_exactly_its_own_hook(toy: Toy) -> None:
    first, second = (toy.add_hook("hook_first", add(number)) for number in (1, 10))
    first[0].remove()
    first[0].remove()  # twice is harmless
    assert torch.equal(toy(X, stop=True), X + 10)
    second[0].remove()
    assert hooked_points(toy) == []


@pytest.mark.parametrize("direction", ["forward", "both", ""])
def test_an_unknown_direction_is_refused(toy: Toy, direction: Any) -> None:
    with unchecked_types(), pytest.raises(ValueError, match="dir must be 'fwd' or 'bwd'"):
        toy.add_hook("hook_first", add(1), dir=direction)


def test_context_dicts_live_until_cleared(toy: Toy) -> None:
    def remember(value: Tensor, hook: HookPoint) -> None:
        hook.ctx["sum"] = float(value.sum())

    toy.run_with_hooks(X, fwd_hooks=[("hook_first", remember)])
    assert toy.hook_first.ctx == {"sum": 21.0}
    toy.run_with_hooks(X, fwd_hooks=[("hook_last", remember)], clear_contexts=True)
    assert toy.hook_first.ctx == toy.hook_last.ctx == {}
    toy.run_with_hooks(X, fwd_hooks=[("hook_first", remember)])
    kept = toy.hook_first.ctx
    toy.reset_hooks(clear_contexts=False)
    assert toy.hook_first.ctx is kept
    toy.reset_hooks()
    assert toy.hook_first.ctx == {}
    assert kept == {"sum": 21.0}, "who holds the old one keeps what it says"


def test_layer_of_a_point() -> None:
    point = HookPoint("batch")
    point.name = "blocks.12.attn.hook_z"
    assert point.layer() == 12
    for name in ("hook_embed", "blocks.hook_z", "ln_final.hook_scale"):
        point.name = name
        with pytest.raises(ValueError, match="is in no block"):
            point.layer()


# ---------------------------------------------------------------------------------------------- what a hook may return


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda value: value[:1], r"returned shape \[1, 3\]; expected \[batch=2, width=3\]"),
        (lambda value: value.double(), r"dtype torch.float64; expected torch.float32"),
        (lambda value: value.to("meta"), r"device meta; expected cpu"),
        (lambda value: value.tolist(), r"returned list; expected None .* \[batch=2, width=3\]"),
        (lambda value: 1.0, r"returned float; expected None"),
        (lambda value: value.numpy(), r"returned ndarray; expected None"),
    ],
)
def test_what_cannot_stand_in_is_refused(toy: Toy, returned: Any, said: str) -> None:
    with pytest.raises(BadHookValue, match=rf"a hook on inner.hook_inside returned .*{said}|.*{said}"):
        toy.run_with_hooks(X, fwd_hooks=[("inner.hook_inside", lambda value, hook: returned(value))])
    assert hooked_points(toy) == []


# ---------------------------------------------------------------------------------------------------------- gradients


def test_a_backward_hook_gets_and_replaces_the_gradient(toy: Toy) -> None:
    x, seen = X.clone().requires_grad_(), []

    def triple(gradient: Tensor, hook: HookPoint) -> Tensor:
        seen.append((hook.name, gradient.clone()))
        return 3 * gradient

    toy.run_with_hooks(x, bwd_hooks=[("inner.hook_inside", triple)]).sum().backward()
    name, gradient = seen[0]
    assert name == "inner.hook_inside"
    assert torch.equal(gradient, 2 * 2 * X), "d (inside^2) / d inside"
    assert torch.equal(x.grad, 3 * 2 * gradient), "what it returns flows on, through inside = 2 first"
    assert len(seen) == 1


def test_backward_hooks_run_in_order(toy: Toy) -> None:
    x = X.clone().requires_grad_()
    hooks = [("hook_first", add(1)), ("hook_first", lambda gradient, hook: gradient * 10)]
    toy.run_with_hooks(x, True, bwd_hooks=hooks).sum().backward()
    assert torch.equal(x.grad, torch.full_like(X, 20.0)), "(1 + 1) * 10"


def test_an_edit_in_place_of_a_gradient_counts(toy: Toy) -> None:
    def edit(gradient: Tensor, hook: HookPoint) -> None:
        gradient[0] = 0.0

    x = X.clone().requires_grad_()
    toy.run_with_hooks(x, True, bwd_hooks=[("hook_first", edit)]).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0], [1.0]]).expand(2, 3))


def test_a_gradient_of_wrong_shape_is_refused(toy: Toy) -> None:
    out = toy.run_with_hooks(
        X.clone().requires_grad_(), bwd_hooks=[("hook_first", lambda gradient, hook: gradient[:1])]
    )
    with pytest.raises(BadHookValue, match="hook_first"):
        out.sum().backward()


def test_a_backward_hook_sees_the_value_as_it_leaves_the_point(toy: Toy) -> None:
    """Behind a forward hook on the same point, whichever is written first."""
    x, seen = X.clone().requires_grad_(), []
    toy.run_with_hooks(
        x,
        True,
        fwd_hooks=[("hook_first", lambda value, hook: value * 5)],
        bwd_hooks=[("hook_first", lambda gradient, hook: seen.append(gradient.clone()))],
    ).sum().backward()
    assert torch.equal(seen[0], torch.ones_like(X))
    assert torch.equal(x.grad, torch.full_like(X, 5.0))


@pytest.mark.parametrize("name", ["inner.hook_inside", "hook_first"])
def test_a_backward_hook_where_no_gradient_flows_is_told(toy: Toy, name: str) -> None:
    """Also where the value is a leaf that would need a gradient if one were computed."""
    with torch.no_grad(), pytest.raises(HookDidNotFire, match=f"attached to {name}.*needs no gradient"):
        toy.run_with_hooks(X.clone().requires_grad_(), bwd_hooks=[(name, add(0))])
    assert hooked_points(toy) == []


# -------------------------------------------------------------------------------------------------- not passing there


def test_a_hook_that_the_pass_does_not_reach_is_told(toy: Toy) -> None:
    for call in (
        lambda: toy.run_with_hooks(X, True, fwd_hooks=[("hook_last", add(1))]),
        lambda: toy.run_with_cache(X, True, names_filter="hook_last"),
        lambda: toy.run_with_cache(X, True, names_filter=["hook_first", "hook_last"]),
    ):
        with pytest.raises(HookDidNotFire, match="never came by hook_last"):
            call()
        assert hooked_points(toy) == []


def test_a_filter_function_need_not_be_reached_everywhere(toy: Toy) -> None:
    _, cache = toy.run_with_cache(X, True, names_filter=lambda name: name.startswith("hook_"))
    assert list(cache) == ["hook_first"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blocks.1.hook_resid_pre", dict(stop_at_layer=1)),
        ("blocks.2.attn.hook_z", dict(stop_at_layer=2)),
        ("ln_final.hook_scale", dict(stop_at_layer=3)),
        ("unembed.hook_out", dict(return_type=None)),
    ],
)
def test_stopping_before_a_hook_is_told(plain: HookedTransformer, tokens: Tensor, name: str, options: Any) -> None:
    with pytest.raises(HookDidNotFire, match=name):
        plain.run_with_hooks(tokens, fwd_hooks=[(name, add(0))], **options)
    with pytest.raises(HookDidNotFire, match=name):
        plain.run_with_cache(tokens, names_filter=name, **options)


def test_stopping_before_a_backward_hook_is_told(toy: Toy) -> None:
    with pytest.raises(HookDidNotFire, match="hook_last"):
        toy.run_with_hooks(X.clone().requires_grad_(), True, bwd_hooks=[("hook_last", add(0))])
    assert hooked_points(toy) == []


def test_starting_behind_a_hook_is_told(plain: HookedTransformer) -> None:
    stream = torch.randn(2, 5, 12, dtype=torch.float64)
    for name in ("hook_embed", "blocks.1.hook_resid_post"):
        with pytest.raises(HookDidNotFire, match=name):
            plain.run_with_hooks(stream, start_at_layer=2, fwd_hooks=[(name, add(0))])


# ------------------------------------------------------------------------------------------------------------- copying


def test_a_copy_has_hook_points_of_its_own(toy: Toy) -> None:
    twin = copy.deepcopy(toy)
    twin.add_hook("hook_first", add(1))
    assert torch.equal(twin(X, stop=True), X + 1)
    assert torch.equal(toy(X, stop=True), X)
    assert twin.hook_dict["inner.hook_inside"] is twin.inner.hook_inside


def test_a_hooked_module_can_be_saved_whole(plain: HookedTransformer, tokens: Tensor) -> None:
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(tokens), plain(tokens))
    assert loaded.cfg == plain.cfg


@pytest.mark.parametrize("fn", [torch.relu, Tensor.relu, nn.ReLU(), nn.Linear(3, 3)])
def test_what_takes_only_a_value_is_told_to_be_wrapped(toy: Toy, fn: Any) -> None:
    told = r"must be a function of \(value, hook\)"
    for call in (
        lambda: toy.run_with_hooks(X, fwd_hooks=[("hook_first", fn)]),
        lambda: toy.run_with_hooks(X, bwd_hooks=[("hook_first", fn)]),
        lambda: toy.add_hook("hook_first", fn),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=told):
            call()
    assert hooked_points(toy) == []
    wrapped = toy.run_with_hooks(-X, True, fwd_hooks=[("hook_first", lambda value, hook: torch.relu(value))])
    assert torch.equal(wrapped, torch.zeros_like(X))


class TakesHook(nn.Module):
    """A module that is a hook function."""

    def forward(self, value: Tensor, hook: HookPoint) -> Tensor:
        return value + len(hook.name)


def test_a_module_that_takes_the_point_is_a_hook_function(toy: Toy) -> None:
    assert torch.equal(toy.run_with_hooks(X, True, fwd_hooks=[("hook_first", TakesHook())]), X + 10)


def test_the_hooks_of_torchs_modules_are_called_at_a_point_that_nobody_else_hooks() -> None:
    point, value = HookPoint("batch"), torch.ones(2, requires_grad=True)
    seen: list[str] = []
    handles = [
        point.register_forward_pre_hook(lambda *_: seen.append("before")),
        point.register_forward_hook(lambda *_: seen.append("after")),
        point.register_full_backward_pre_hook(lambda *_: seen.append("gradient")),
    ]
    point(value).sum().backward()
    assert seen == ["before", "after", "gradient"]
    for handle in handles:
        handle.remove()
    assert point(value) is value
