"""Switches of the thread that are turned for one call, and are as before after it however the call ends.

    no_gradients, with_gradients    gradients off, or on
    study                           gradients off in a function that users call, whose arguments are checked
    keeps_gradient_mode             on or off after the call as before it, whatever is done within it
    with_constant_weights           gradients on, of anything but weights

`torch.no_grad()` and torch's function modes are turned back in Python methods of their own; Ctrl-C that comes as such a
method begins leaves the thread switched. Here everything is turned back twice, so that one interruption at any moment
cannot keep it from happening.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from interp_hooks.errors.arguments import checked

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def no_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """A function that is computed without gradients."""
    return _switched(function, torch.is_grad_enabled, torch.set_grad_enabled, lambda before: False)


def study(function: Callable[P, R]) -> Callable[P, R]:
    """A function that users call to look at a model: arguments are checked, and there are no gradients."""
    return no_gradients(checked(function))


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """A function that is computed with gradients on."""
    return _switched(function, torch.is_grad_enabled, torch.set_grad_enabled, lambda before: True)


def keeps_gradient_mode(function: Callable[P, R]) -> Callable[P, R]:
    """A function after which gradients are on or off as they were before it."""
    return _switched(function, torch.is_grad_enabled, torch.set_grad_enabled, lambda before: before)


def with_constant_weights(function: Callable[P, R]) -> Callable[P, R]:
    """A function that is computed with gradients on, but for weights, so that autograd keeps nothing for them."""
    return with_gradients(
        _switched(
            function,
            _get_current_function_mode_stack,
            _set_function_modes,
            lambda before: [*before, _ConstantWeights()],
        )
    )


def _switched(
    function: Callable[P, R], now: Callable[[], S], switch: Callable[[S], object], to: Callable[[S], S]
) -> Callable[P, R]:
    """A function during which something of the thread is switched: `to` says to what, from what it is `now`."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        before = now()
        try:
            try:
                switch(to(before))
                return function(*args, **kwargs)
            finally:
                switch(before)
        finally:
            switch(before)

    return called


def _set_function_modes(modes: list[TorchFunctionMode]) -> None:
    while _get_current_function_mode_stack():
        _pop_mode()
    for mode in modes:
        _push_mode(mode)


class _ConstantWeights(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*map(_constant, args), **{name: _constant(value) for name, value in kwargs.items()})


def _constant(given: Any) -> Any:
    """Weights, also in a list, without their gradient; anything else as it is."""
    if isinstance(given, nn.Parameter):
        return given.detach() if given.requires_grad else given
    return type(given)(map(_constant, given)) if type(given) in (list, tuple) else given
