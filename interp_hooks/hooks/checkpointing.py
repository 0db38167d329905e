"""Parts of a pass that torch.utils.checkpoint computes again in the backward pass, when its functions are gone.

    Again     one part of a pass, with the functions that it had: the second time they are in force as they were then
    refused   everything else that is checkpointed while functions are attached from outside of it

Blocks of a transformer are such parts: they are given their `Again` as an argument, which torch keeps with the others.
Whether anything else is being checkpointed, or computed again, is read from the stack.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from interp_hooks.errors import HookConflict
from interp_hooks.hooks.scopes import IN_FORCE, OPEN, InForce, Scope
from interp_hooks.hooks.threads import LENT, this_thread

P = ParamSpec("P")
R = TypeVar("R")

IN_A_PART: ContextVar[bool] = ContextVar("IN_A_PART", default=False)


class Functions:
    """The functions that are in force as a pass begins that is to be differentiated, by hook point."""

    def __init__(self, points: Iterable[Any]) -> None:
        self.points, self.context = points, copy_context()
        self.context.run(LENT.set, this_thread())
        staying = [point for point in points if point.attached]
        hooked = dict.fromkeys([*staying, *IN_FORCE.get().at] if OPEN else staying)
        self.hooks: dict[Any, Any] = {point: point.hooks for point in hooked}
        for point, hooks in self.hooks.items():
            refuse_to_be_lost(hooks, point.name)

    def as_then(self) -> Scope:
        """A scope of just these functions, whatever was attached or removed since."""
        since = {point: () for point in self.points if point.attached}
        return _AsThen(since | self.hooks)


class _AsThen(Scope):
    """Functions that are in force instead of all others of their points."""

    alone = True

    def __init__(self, hooks: Mapping[Any, Any]) -> None:
        super().__init__(None, ())
        self.hooks = dict(hooks)

    def of(self, point: Any) -> list[Any]:
        return list(self.hooks[point])

    def joined(self, others: InForce) -> InForce:
        return InForce((), {}).within(self)


class Again:
    """A part of a pass, which is computed once, and perhaps again in its backward pass."""

    def __init__(self, functions: Functions) -> None:
        self.functions, self.begun = functions, False

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns: the first time as things are, from then on as they were."""
        if self.begun:
            context: Context = self.functions.context.copy()
            return self.functions.as_then().run_in(context, function, *args, **kwargs)
        self.begun = True
        outside = IN_A_PART.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            IN_A_PART.reset(outside)


PART, CALL = (inspect.unwrap(function).__code__ for function in (Again.__call__, Scope._inside))
TORCHS = inspect.unwrap(checkpoint).__code__.co_filename
FIRST, OF_REENTRANT, SECOND = checkpoint.__name__, "forward", ("backward", "recompute_fn")
"""Functions of that file that are on the stack the first time; then, where torch keeps no graph; the second time."""


def refuse_to_be_lost(hooks: Iterable[Any], name: str) -> None:
    """Raises HookConflict if torch is checkpointing something within which functions are attached from outside.

    Those that are permanent will be there again; those of a part or of a call within it too. What only watches may go.
    """
    if torch.compiler.is_compiling() or all(hook.is_permanent or hook.watches for hook in hooks):
        return
    frame, kept = sys._getframe(1), torch.is_grad_enabled() or IN_A_PART.get()
    while frame is not None and (code := frame.f_code) is not PART:
        if code is CALL and _of_one_call(hooks):
            return
        if code.co_filename == TORCHS:
            kept = kept or (code.co_name == OF_REENTRANT and any(frame.f_locals["ctx"].needs_input_grad))
            if code.co_name in SECOND or (code.co_name == FIRST and kept):
                raise HookConflict(f"{name} is hooked, and {_MAY_BE_GONE if code.co_name == FIRST else _CAME_SINCE}")
        frame = frame.f_back


def _of_one_call(hooks: Iterable[Any]) -> bool:
    scopes = [scope for scope in IN_FORCE.get().scopes if scope.hooks]
    return len(scopes) == 1 and all(hook.context_level is not None for hook in hooks)


_MAY_BE_GONE = (
    "within something that torch.utils.checkpoint computes again in the backward pass, when its functions may be gone. "
    "Checkpoint whole blocks (model.blocks[i].forward), which keep theirs; or call run_with_hooks within what is "
    "checkpointed; or attach them with is_permanent=True"
)
_CAME_SINCE = (
    "torch.utils.checkpoint computes it again in the backward pass, while the first time it was not. Remove the "
    "functions before the backward pass, or checkpoint whole blocks (model.blocks[i].forward), which keep those of "
    "their pass"
)
