"""Functions of one point see one value: gradients are shared, and what one writes in place is its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookPoint
from interp_hooks.hooks.autograd import twin

X = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)


def keep(into: list[Tensor]) -> Callable[..., None]:
    """A function that stores what it gets."""
    return lambda value, hook: into.append(value)


def a_value(**options: Any) -> Tensor:
    """Something that is computed from a leaf."""
    return X.clone().requires_grad_(**options).sin()


def point_with(*functions: Callable[..., Any]) -> HookPoint:
    """A point to which these functions are attached, in this order."""
    point = HookPoint("row column")
    for function in functions:
        point.add_hook(function)
    return point


# ------------------------------------------------------------------------------------------------------ one value


def test_a_gradient_put_into_what_one_function_stored_is_that_of_what_another_one_stored() -> None:
    """The value itself goes on without gradient, so that all gradient comes by what the first function stored."""
    first, second = list[Tensor](), list[Tensor]()
    leaf = X.clone().requires_grad_()
    out = point_with(keep(first), keep(second), lambda value, hook: value.detach())(leaf * 2)
    skipped = out + 5 * first[0]  # as a skip connection around what stands behind the point
    second[0].register_hook(lambda gradient: torch.full_like(gradient, 7.0))
    (gradient,) = torch.autograd.grad(skipped.sum(), leaf)
    assert torch.equal(gradient, torch.full_like(X, 14.0))


def test_every_function_stores_what_has_the_whole_gradient() -> None:
    stored = [list[Tensor]() for _ in range(3)]
    out = point_with(*map(keep, stored))(a_value())
    total = (out.exp() + stored[0][0].square() + 3 * stored[1][0]).sum()
    expected = X.sin().exp() + 2 * X.sin() + 3
    for gradient in torch.autograd.grad(total, [one for (one,) in stored]):
        assert torch.allclose(gradient, expected, rtol=1e-14)


def test_what_a_function_returns_is_what_the_next_one_sees_gradients_included() -> None:
    returned, seen = [], list[Tensor]()

    def double(value: Tensor, hook: HookPoint) -> Tensor:
        returned.append(2 * value)
        return returned[0]

    out = point_with(double, keep(seen))(a_value())
    gradients = torch.autograd.grad(out.sum() + 4 * returned[0].sum(), [returned[0], seen[0]])
    assert torch.equal(gradients[0], torch.full_like(X, 5.0))
    assert torch.equal(gradients[1], gradients[0])


def test_functions_of_nested_contexts_see_one_value_too() -> None:
    from tests.tiny import build, random_tokens

    model, stored = build(), (list[Tensor](), list[Tensor]())
    name = "blocks.1.hook_resid_mid"
    model.add_hook(name, keep(stored[0]))
    with model.hooks(fwd_hooks=[(name, keep(stored[1]))]):
        loss = model(random_tokens(d_vocab=23)).square().sum() + stored[0][0].sum()
    one, other = torch.autograd.grad(loss, [stored[0][0], stored[1][0]])
    assert torch.equal(one, other)
    assert bool(one.any())


# ------------------------------------------------------------------------------------------------- writing in place


@pytest.mark.parametrize("gradients", [True, False])
def test_what_one_function_writes_in_place_reaches_what_comes_after_and_nothing_that_was_stored(
    gradients: bool,
) -> None:
    before, after = list[Tensor](), list[Tensor]()

    def halve(value: Tensor, hook: HookPoint) -> None:
        value.mul_(0.5)

    given = a_value()
    with torch.set_grad_enabled(gradients):
        out = point_with(keep(before), halve, keep(after))(given)
    assert torch.equal(given, X.sin())
    assert torch.equal(before[0], X.sin())
    assert torch.equal(after[0], X.sin() / 2)
    assert torch.equal(out, X.sin() / 2)
    if gradients:
        earlier, later = torch.autograd.grad(out.sum(), [before[0], after[0]])
        assert torch.equal(earlier, torch.full_like(X, 0.5))
        assert torch.equal(later, torch.ones_like(X))


def test_what_was_computed_from_a_stored_value_can_be_differentiated_after_another_function_wrote() -> None:
    squared = []

    def square(value: Tensor, hook: HookPoint) -> None:
        squared.append(value.square())

    def clear(value: Tensor, hook: HookPoint) -> None:
        value[0] = 0.0

    leaf = X.clone().requires_grad_()
    out = point_with(square, clear)(leaf * 1)
    (gradient,) = torch.autograd.grad(out.sum() + squared[0].sum(), leaf)
    assert torch.equal(gradient, 2 * X + torch.tensor([[0.0], [1.0]]))


def test_a_stored_value_that_is_written_later_changes_no_other() -> None:
    stored = (list[Tensor](), list[Tensor]())
    out = point_with(*map(keep, stored))(a_value())
    with torch.no_grad():
        stored[0][0].zero_()
    assert torch.equal(stored[1][0], X.sin())
    assert torch.equal(out, X.sin())


# ---------------------------------------------------------------------------------------------------------- of twins


def test_values_that_keep_their_gradients_all_get_them() -> None:
    def retain(into: list[Tensor]) -> Callable[..., None]:
        def function(value: Tensor, hook: HookPoint) -> None:
            value.retain_grad()
            into.append(value)

        return function

    stored = (list[Tensor](), list[Tensor]())
    point_with(*map(retain, stored))(a_value()).sum().backward()
    for (one,) in stored:
        assert torch.equal(one.grad, torch.ones_like(X))


def test_a_leaf_that_a_function_makes_can_be_written_by_the_next() -> None:
    leaves = []

    def leaf(value: Tensor, hook: HookPoint) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[0]

    def clear(value: Tensor, hook: HookPoint) -> None:
        value[0] = 0.0

    point_with(leaf, clear)(a_value()).sum().backward()
    assert torch.equal(leaves[0].grad, torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, 3))


def test_a_twin_can_be_differentiated_twice() -> None:
    leaf = X.clone().requires_grad_()
    value = leaf.square()
    (gradient,) = torch.autograd.grad(twin(value).pow(3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaf)
    assert torch.allclose(second, 30 * X**4, rtol=1e-14), "of x^6"


def test_under_transforms_functions_get_copies() -> None:
    point = point_with(lambda value, hook: 2 * value, lambda value, hook: value.square())
    gradient = torch.func.grad(lambda x: point(x).sum())(X)
    assert torch.equal(gradient, 8 * X)


def test_within_what_is_computed_again_functions_see_one_value() -> None:
    from torch.utils.checkpoint import checkpoint

    def part(x: Tensor) -> Tensor:
        stored = (list[Tensor](), list[Tensor]())
        point = HookPoint("row column")
        for one in stored:
            point.add_hook(keep(one), is_permanent=True)
        out = point(x * 2)
        stored[1][0].register_hook(lambda gradient: 3 * gradient)
        return out.detach() + stored[0][0]

    leaf = X.clone().requires_grad_()
    checkpoint(part, leaf, use_reentrant=False).sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(X, 6.0))
