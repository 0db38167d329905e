"""What hook points and passes need to know of automatic differentiation.

    transformed, numbers         whether a transform of torch.func is at work, and what it hides of a tensor
    twin                         a copy that shares a place in the graph
    refuse_second_derivatives    what fused attention cannot do, told where somebody asks for it

A hook function gets a copy, so that what it writes in place is its own. The functions of one point nevertheless see one
value: each copy after the first is a `twin` of what the function before it left, so that a gradient that reaches one of
them, or is put in by one (`register_hook`), is a gradient of all. Checks of a value need numbers, which a tensor of
vmap hides.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.graph import saved_tensors_hooks

from interp_hooks.errors import BadInput


def transformed() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is going on."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def numbers(tensor: Tensor) -> Tensor:
    """A tensor's numbers without the axes that a transform hides: all of them, in some order of axes."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while transformed() and functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


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


def refuse_second_derivatives(fused: Tensor) -> None:
    """Say what to do if somebody differentiates the gradient of a fused attention kernel, which torch cannot."""
    node = fused.grad_fn
    if node is None:
        return
    kind = type(node)
    if kind not in _FUSED:
        _FUSED[kind] = node.name().startswith("ScaledDotProduct")
    if _FUSED[kind]:
        node.register_hook(_told)


_FUSED: dict[type, bool] = {}  # by the kind of a graph's node, whether it is that of a fused kernel


def _told(gradients: tuple[Tensor | None, ...], _: Any) -> tuple[Any, ...] | None:
    if not torch.is_grad_enabled():
        return None
    return tuple(None if one is None else _Refused.apply(one) for one in gradients)


class _Refused(Function):
    """The identity, whose gradient is an error."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise BadInput(
            "fused attention has no second derivatives: run the forward pass within "
            "`with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):`, hook a pattern, or use the "
            "transforms of torch.func (hessian, jvp), for which attention is computed without the fused kernel"
        )
