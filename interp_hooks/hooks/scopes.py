"""Who sees the functions that are attached to hook points, and when: one call, one thread, or a part computed again.

    HookPoint.attached    functions that stay until they are removed (add_hook); all threads see them
    Scope                 functions of one call, in force in that call alone
    OPEN                  a token for each scope that is in force somewhere, so that a pass without any asks no further
    Own, OneAtATime       what each thread has for itself, and what is refused while several run
    Again                 a part of a pass that torch.utils.checkpoint computes again, with the functions that it had

Which scopes are in force is said by a context variable. A call runs in a context of its own, which vanishes with it,
however it ends: with a result, an error, or Ctrl-C at any moment. Other threads have contexts of their own. Nothing is
noted down as passes begin and end: which threads are in a pass, and whether a part is computed again, is read from
stacks, so that a pass pays nothing for it, and an interrupted one leaves nothing behind.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ContextDecorator
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from interp_hooks.errors import HookConflict

P = ParamSpec("P")
R = TypeVar("R")

OPEN: list[object] = []  # one that is left here by an interruption costs a look into the context, and changes nothing


def run_noted(tokens: list[object], context: Context, function: Callable[[], R]) -> R:
    """What a function returns, called in a context, while `tokens` say that there is somebody with one of his own."""
    token = object()
    tokens.append(token)
    try:
        return context.run(function)
    finally:
        tokens.remove(token)


@runtime_checkable
class Attached(Protocol):
    """What a scope holds: a function that is attached to a point, until it is removed."""

    point: Any
    removed: bool


class InForce:
    """The scopes that are in force, outermost first, and for every point those that have functions there."""

    def __init__(self, scopes: tuple[Scope, ...], at: Mapping[Any, tuple[Scope, ...]]) -> None:
        self.scopes, self.at = scopes, at

    def within(self, scope: Scope) -> InForce:
        """The same, and one more scope."""
        if not all(other.open for other in self.scopes):  # left behind by an interrupted block
            return InForce((), {}).joined(one for one in (*self.scopes, scope) if one.open)
        at = {point: (*self.at.get(point, ()), scope) for point in scope.hooks}
        return InForce((*self.scopes, scope), {**self.at, **at})

    def without(self, scope: Scope) -> InForce:
        """The same without one of the scopes, which need not be the innermost."""
        return InForce((), {}).joined(other for other in self.scopes if other is not scope and other.open)

    def joined(self, scopes: Iterable[Scope]) -> InForce:
        """The same, and some more scopes."""
        joined = self
        for scope in scopes:
            joined = joined.within(scope)
        return joined


IN_FORCE: ContextVar[InForce] = ContextVar("IN_FORCE", default=InForce((), {}))  # noqa: B039  (nobody changes it)


class Scope:
    """Functions that are in force together, by hook point; `owner` is the module that was asked to attach them.

    Where a scope is `alone`, functions that are attached to its points from outside of it are not called.
    """

    alone = False

    def __init__(self, owner: object, hooks: Iterable[Attached]) -> None:
        self.owner, self.open = owner, True
        self.hooks: dict[Any, list[Any]] = {}
        for hook in hooks:
            self.hooks.setdefault(hook.point, []).append(hook)

    def of(self, point: Any) -> list[Any]:
        """The functions at one of its points."""
        return [hook for hook in self.hooks[point] if not hook.removed] if self.open else []

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, called with this scope in force."""
        return self.run_in(copy_context(), function, *args, **kwargs)

    def run_in(self, context: Context, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same in another context than the caller's, which nobody else may be in."""
        return run_noted(OPEN, context, lambda: self._inside(function, *args, **kwargs))

    def _inside(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        IN_FORCE.set(self.joined(IN_FORCE.get()))
        return function(*args, **kwargs)

    def joined(self, others: InForce) -> InForce:
        """What is in force inside of it."""
        return others.within(self)


class Block(ContextDecorator):
    """A `with` block, in whose thread (or copies of its context) a scope is in force.

    `made` makes the scope, as the block begins; `ended` is told of it, and whether the block raised. An interruption in
    the few steps in which the block begins or ends leaves nothing in force once the object is gone.
    """

    _open: list[tuple[Scope, object]] = []  # noqa: RUF012  (of one that was interrupted as it was made)

    def __init__(self, given: Any, made: Callable[[], Scope], ended: Callable[[Scope, bool], None]) -> None:
        self._given, self._made, self._ended = given, made, ended
        self._open = []

    def _recreate_cm(self) -> Block:  # what ContextDecorator asks for, at every call of a decorated function
        return Block(self._given, self._made, self._ended)

    def __enter__(self) -> Any:
        scope, token = self._made(), object()
        try:
            self._open.append((scope, token))
            OPEN.append(token)
            IN_FORCE.set(IN_FORCE.get().within(scope))
        except BaseException:
            scope.open = False
            raise
        return self._given

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        scope, token = self._open[-1]
        scope.open = False
        self._open.pop()
        IN_FORCE.set(IN_FORCE.get().without(scope))
        OPEN.remove(token)
        self._ended(scope, kind is not None)

    def __del__(self) -> None:
        for scope, _ in self._open:
            scope.open = False


# -------------------------------------------------------------------------------------------------------------- threads

_CALL = nn.Module._call_impl.__code__


class Thread:
    """What is a thread's own is found by this; it goes when the thread ends."""


class _Here(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()


_HERE = _Here()
LENT: ContextVar[Thread | None] = ContextVar("LENT", default=None)
"""The thread for which another one works, as those do in which torch differentiates on a GPU."""


def this_thread() -> Thread:
    """The thread one is in, or the one for which it works."""
    return LENT.get() or _HERE.thread


def for_this_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which finds what is this thread's own, whichever thread calls it."""
    thread = this_thread()

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        before = LENT.set(thread)
        try:
            return function(*args, **kwargs)
        finally:
            LENT.reset(before)

    return called


class Own:
    """A dict for each thread, empty at first. A copy holds, for the thread that made it, a copy of that thread's."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Thread, dict[Any, Any]] = WeakKeyDictionary()

    @property
    def here(self) -> dict[Any, Any]:
        """That of this thread."""
        return self._of.setdefault(this_thread(), {})

    @here.setter
    def here(self, own: dict[Any, Any]) -> None:
        self._of[this_thread()] = own

    def __getstate__(self) -> dict[str, Any]:
        return {"here": self.here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self.here = state["here"]


def is_running(part: nn.Module, thread: int) -> bool:
    """Whether a thread is in a call of this module, or of one that it is a part of."""
    frame = sys._current_frames().get(thread)
    called: list[nn.Module] = []
    while frame is not None:
        if frame.f_code is _CALL:
            called.append(frame.f_locals["self"])
        frame = frame.f_back
    return any(one is part for module in reversed(called) for one in module.modules())


def others(part: nn.Module) -> Iterator[str]:
    """The names of other threads that are in a call of this module, or of one that it is a part of."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for thread in sys._current_frames():
        if thread != threading.get_ident() and is_running(part, thread):
            yield names.get(thread, str(thread))


def refuse_while_others_run(part: nn.Module, what: str) -> None:
    """Raises HookConflict if another thread is in a pass, which would see one thing before and another one after."""
    for name in others(part):
        raise HookConflict(
            f"what stays on a model can't be {what} while a pass of another thread ({name}) is running: do it before "
            "the threads start, or attach functions for a call or block only, with run_with_hooks(fwd_hooks=...) or "
            "model.hooks(...), which no other thread sees"
        )


class OneAtATime:
    """Refuses values of passes of two threads that are running at once; one after the other they may come."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.thread, self._lock = module, threading.get_ident(), threading.Lock()

    def check(self) -> None:
        """Raises HookConflict if the pass that the value before came from is still running, in another thread."""
        if (here := threading.get_ident()) == self.thread:
            return
        with self._lock:
            if is_running(self.module, self.thread):
                raise HookConflict(
                    "passes of two threads would fill one cache at the same time; let each thread have its own, with "
                    "run_with_cache or get_caching_hooks"
                )
            self.thread = here


# --------------------------------------------------------------------------------------------------- checkpointed parts

# Blocks of a transformer are such parts: they are given their `Again` as an argument, which torch keeps with others.
# What else is checkpointed while functions are attached from outside of it is refused.

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
