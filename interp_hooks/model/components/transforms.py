"""What passes under torch.func (grad, vmap, jvp, hessian) and forward-mode differentiation need.

Fused attention has no rule for most of these, and checks of a value need numbers, which a tensor of vmap hides.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from interp_hooks.errors import BadInput
from interp_hooks.hooks.autograd import transformed


def numbers(tensor: Tensor) -> Tensor:
    """A tensor's numbers without the axes that a transform hides: all of them, in some order of axes."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while transformed() and functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


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
