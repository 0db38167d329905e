"""What hook points need to know of automatic differentiation: whether torch.func is at work, and copies that share a
place in the graph.

A hook function gets a copy, so that what it writes in place is its own. The functions of one point nevertheless see one
value: each copy after the first is a `twin` of what the function before it left, so that a gradient that reaches one of
them, or is put in by one (`register_hook`), is a gradient of all.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.graph import saved_tensors_hooks


def transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is going on."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def twin(value: Tensor) -> Tensor:
    """A copy of a value's numbers at the value's own place in the graph; without a graph, just a copy.

    Writing into one of the two in place changes the other neither in its numbers nor in its gradient. A leaf has no
    place that could be shared, and at one place torch fills the `.grad` of one tensor only: of leaves, and of values
    that have said `retain_grad()`, the copy comes one step later in the graph.

    >>> value = torch.ones(2, requires_grad=True) * 3
    >>> other = twin(value)
    >>> handle = value.register_hook(lambda gradient: 10 * gradient)
    >>> value.requires_grad and other.grad_fn is value.grad_fn
    True
    """
    if value.grad_fn is None or value.retains_grad or not torch.is_grad_enabled() or _unsaved():
        return value.clone()
    with saved_tensors_hooks(_as_it_is, torch.clone):
        return _Keeper.apply(value).grad_fn.saved_tensors[0]  # pyright: ignore[reportOptionalMemberAccess]


def _unsaved() -> bool:
    return torch.compiler.is_compiling() or transformed()


def _as_it_is(value: Tensor) -> Tensor:
    return value


class _Keeper(Function):
    """Nothing, made of a value that it keeps for its backward pass: what autograd keeps comes back at its own place."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> None:
        return None
