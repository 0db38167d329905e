"""What threads that use one model at the same time cannot share: each has its own (`Own`), or it is refused.

Nothing is noted down as passes begin and end: who is in a pass is read from the stacks of the other threads, so that a
pass pays nothing for it, and an interrupted one leaves nothing behind.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from interp_hooks.errors import HookConflict

P = ParamSpec("P")
R = TypeVar("R")

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
