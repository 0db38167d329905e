"""Functions that belong to one call or one `with` block: nobody else sees them, and nobody has to take them away.

    HookPoint.attached    functions that stay until they are removed (add_hook)
    Scope                 functions of one call, in force in that call alone
    OPEN                  a token for each scope that is in force somewhere, so that a pass without any asks no further

Which scopes are in force is said by a context variable. A call runs in a context of its own, which vanishes with it,
however it ends: with a result, an error, or Ctrl-C at any moment. Other threads have contexts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ContextDecorator
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

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
