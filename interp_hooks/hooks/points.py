"""Named places in a forward pass where anybody may look at the value, or put another in its stead.

    class Attention(nn.Module):
        self.hook_z = HookPoint("batch pos head d_head", head=4, d_head=16)
        def forward(...): z = self.hook_z(z)

A `HookPoint` is the identity until a function `fn(value, hook=point)` is attached. Functions run in the order in which
they were attached. What a function returns is what the next one sees; a function that returns None keeps the value.
Each function gets its own copy, so that an in-place edit changes this value and nothing that was cached or is used
elsewhere. These copies are one value all the same: what one function stores and another one differentiates, or puts a
gradient into, is at one place of the graph. Backward functions get the gradient with respect to the value as the last
function left it.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadHookValue, BadInput, HookDidNotFire
from interp_hooks.errors.arguments import Elsewhere, checked, told
from interp_hooks.hooks.autograd import twin
from interp_hooks.hooks.scopes import IN_FORCE, OPEN, Own, for_this_thread, refuse_to_be_lost, refuse_while_others_run

HookFn = Annotated[Callable[..., Tensor | None], Elsewhere()]
Direction = Literal["fwd", "bwd"]
Directions = Literal["fwd", "bwd", "both"]
NameFilter = Annotated[str | Callable[[str], bool] | Iterable[str], Elsewhere()]
HookSpec = tuple[NameFilter, HookFn]
HookSpecs = Annotated[Sequence[HookSpec], Elsewhere()]

POSITIONS = ("pos", "query")  # the axes along tokens; in a causal model what is at one depends on no later token


class Watcher:
    """A hook function that only looks at numbers, and gets the value itself, no copy.

    It neither edits nor returns nor differentiates anything. What a fused kernel leaves out is computed beside it for
    those who only look, so that the pass goes on with the very numbers it has without them.
    """

    @abstractmethod
    def __call__(self, value: Tensor, hook: HookPoint) -> None:
        """Look at the value of a hook point."""


class Parts(Protocol):
    """How several processes hold a value in parts, for a hook point that shows the whole to each of them."""

    def whole(self, part: Tensor) -> Tensor:
        """The whole value, of which each process has a part."""
        ...

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a value that all have."""
        ...


NUMBERS = itertools.count(1)  # of all attached functions, in the order in which they came


class Hook:
    """One attached function; `remove()` detaches this one and no other.

    `reached` counts the passes that came to the point since it was attached. `context_level` is how many `hooks()`
    contexts were open when it was attached, None outside of them. At a point functions are called by `order`.
    """

    def __init__(
        self,
        point: HookPoint,
        fn: HookFn,
        direction: Direction,
        is_permanent: bool = False,
        context_level: int | None = None,
        watches: bool = False,
        prepend: bool = False,
    ) -> None:
        self.point, self.fn, self.direction = point, fn, direction
        self.is_permanent, self.context_level, self.watches = is_permanent, context_level, watches
        self._watches_forward = watches and direction == "fwd"
        self._looks = self._watches_forward and isinstance(fn, Watcher)
        self.by_name = watches or _takes_hook(fn)
        self.order = -next(NUMBERS) if prepend else next(NUMBERS)
        self.reached, self.removed = 0, False

    @property
    def user_hook(self) -> HookFn:
        return self.fn

    @property
    def hook(self) -> Hook:
        """Itself: code for handles that are wrapped around those of torch finds here what it asks them."""
        return self

    def hooks_dict_ref(self) -> dict[int, Hook]:
        """All functions at its point that are of its direction, in their order."""
        return {one.order: one for one in self.point.hooks if one.direction == self.direction}

    @property
    def __name__(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn))

    def is_among(self, dir: Directions, including_permanent: bool, level: int | None) -> bool:
        """Whether the function is of this direction and of this level (None: of any level)."""
        return (
            dir in ("both", self.direction)
            and (including_permanent or not self.is_permanent)
            and level in (None, self.context_level)
        )

    @property
    def takes_part(self) -> bool:
        """Whether it may change the value, or have to do with its gradient; one that only looks does neither."""
        return not (self._looks or (self._watches_forward and not torch.is_grad_enabled()))

    def remove(self) -> None:
        """Detach it.

        Raises:
            HookConflict: it stays attached until it is removed, and a pass of another thread is running.
        """
        if self in self.point.attached:
            refuse_while_others_run(self.point, "removed")
            self.point.attached.remove(self)
        self.removed = True

    def __call__(self, value: Tensor, copied: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
        """The value after this function, which gets a copy of it unless it only watches."""
        if self.watches:
            self.fn(value, hook=self.point)
            return value
        given = copied(value)
        returned: Any = self.fn(given, hook=self.point) if self.by_name else self.fn(given, self.point)
        if self.direction == "bwd" and isinstance(returned, tuple) and len(returned) == 1:
            (returned,) = returned  # as the backward hooks of torch's modules give a gradient
        return given if returned is None else self.point.checked(returned, like=value)


_WRAP = "a hook must be a function of (value, hook): wrap what takes only a value: `lambda value, hook: fn(value)`"


def _takes_hook(fn: HookFn) -> bool:
    """Whether a hook function takes its second argument as `hook=`; otherwise it is passed by position.

    Raises:
        BadInput: `fn` is not a function of two arguments.
    """
    if not callable(fn):
        raise BadInput(f"a hook must be a function of (value, hook), got {told(fn)}")
    module = isinstance(fn, nn.Module)
    try:
        taken = signature(fn.forward if module else fn)
    except ValueError as error:  # of C, such as torch.relu
        raise BadInput(f"{_WRAP}, since {fn!r} does not tell what it takes") from error
    parameters = taken.parameters
    named = "hook" in parameters and parameters["hook"].kind is not Parameter.POSITIONAL_ONLY
    by_name = named or any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        taken.bind(None, hook=None) if by_name else taken.bind(None, None)
    except TypeError as error:
        if module:
            name = type(fn).__name__
            raise BadInput(f"{_WRAP}, or let the {name} stand there with model.splice(point, module)") from error
        raise BadInput(f"a hook must be a function of (value, hook), got one of {taken}") from error
    return by_name


class HookPoint(nn.Module):
    """The identity, with a name and named axes: a place in a forward pass where functions can be attached.

    `axes` names every dimension in order ("batch pos head d_head"); `sizes` gives the sizes that the architecture
    fixes. `collected` says whether a caching run without a filter keeps the value. `ctx` is a dict in which hook
    functions can leave things for each other; each thread has its own.

        >>> point = HookPoint("batch pos d_model", d_model=4)
        >>> handle = point.add_hook(lambda value, hook: 2 * value)
        >>> point(torch.ones(1, 1, 4))
        tensor([[[2., 2., 2., 2.]]])
        >>> handle.remove()
    """

    @checked
    def __init__(self, axes: str = "", *, collected: bool = True, **sizes: int) -> None:
        super().__init__()
        self.parts: Parts | None = None  # of a value that this process has only a part of
        self.axes = tuple(axes.split())
        self.sizes = sizes
        self.collected = collected
        self.name = ""
        self.attached: list[Hook] = []  # those that stay; see `hooks`
        self._left = Own()

    @property
    def ctx(self) -> dict[Any, Any]:
        """What functions have left here in passes of this thread."""
        return self._left.here

    @ctx.setter
    def ctx(self, left: dict[Any, Any]) -> None:
        self._left.here = left

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The functions that a pass would call here and now, in their order: those that stay, and those of the call."""
        scopes = IN_FORCE.get().at.get(self) if OPEN else None
        if not scopes:
            return tuple(self.attached)
        of_call = scopes[0].of(self) if len(scopes) == 1 else [hook for scope in scopes for hook in scope.of(self)]
        if not self.attached or scopes[0].alone:
            return tuple(of_call)
        return tuple(sorted((*self.attached, *of_call), key=lambda hook: hook.order))

    @property
    def hooked(self) -> bool:
        """Whether any function, forward or backward, would be called here and now."""
        return bool(self.hooks) if OPEN and self in IN_FORCE.get().at else bool(self.attached)

    @property
    def edited(self) -> bool:
        """Whether a function would be called here and now that does more than look at numbers."""
        return any(hook.takes_part for hook in self.hooks)

    @property
    def fwd_hooks(self) -> list[Hook]:
        return [hook for hook in self.hooks if hook.direction == "fwd"]

    @property
    def bwd_hooks(self) -> list[Hook]:
        return [hook for hook in self.hooks if hook.direction == "bwd"]

    def __init_subclass__(cls) -> None:
        if "forward" in vars(cls):  # which has more to do than to call functions
            cls.__call__ = nn.Module.__call__

    def __call__(self, value: Tensor) -> Tensor:
        """The value after the functions; where nobody looks, without torch's call of a module, which takes longer."""
        torchs = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return super().__call__(value) if self.attached or OPEN or torchs else value

    def forward(self, value: Tensor) -> Tensor:
        return self._shown(value, self.hooks) if self.attached or (OPEN and self in IN_FORCE.get().at) else value

    def expand(self, value: Tensor, **new_axis: int) -> Tensor:
        """Give `value` the axis that it lacks (`head=8`) and run the hooks; return it as it came if none takes part."""
        shown = self.beside(self.with_axis(value, **new_axis)) if self.hooked else None
        return value if shown is None else shown

    def beside(self, value: Tensor) -> Tensor | None:
        """Show a value that the pass can do without: what it has to go on with, None if nobody takes part."""
        hooks = self.hooks
        shown = self._shown(value, hooks) if hooks else value
        return shown if any(hook.takes_part for hook in hooks) else None

    def with_axis(self, value: Tensor, **new_axis: int) -> Tensor:
        """`value` with the axis that it lacks, if it lacks one, along which it is the same."""
        if value.ndim == len(self.axes) or not new_axis:
            return value
        ((axis, size),) = new_axis.items()
        dim = self.axes.index(axis)
        return value.unsqueeze(dim).expand(*value.shape[:dim], size, *value.shape[dim:])

    def _shown(self, value: Tensor, hooks: Sequence[Hook]) -> Tensor:
        """What the functions leave of a value. Each sees the whole, even where this process has only a part."""
        if self.parts is None:
            return self._run(value, hooks)
        whole = self._run(self.parts.whole(value), hooks)
        return self.parts.part(whole) if self.edited else value

    def _run(self, value: Tensor, hooks: Sequence[Hook]) -> Tensor:
        backward, copied = [], torch.clone
        for hook in hooks:
            if not hook.watches:
                refuse_to_be_lost([hook], self.name)
            hook.reached += 1
            if hook.direction == "fwd":
                value, copied = hook(value, copied), copied if hook.watches else twin
            else:
                backward.append(hook)
        return self._listen_to_gradient(value, backward) if backward else value

    def _listen_to_gradient(self, value: Tensor, backward: list[Hook]) -> Tensor:
        if not (value.requires_grad and torch.is_grad_enabled()):
            if all(hook.watches for hook in backward):
                return value
            raise HookDidNotFire(
                f"a backward hook is attached to {self.name}, but its value needs no gradient, so that the hook would "
                "never be called; enable gradients (torch.set_grad_enabled(True)) or remove the hook"
            )
        value = value.view_as(value)  # a graph node of its own, even where one tensor passes two points
        for hook in backward:
            value.register_hook(for_this_thread(hook))
        return value

    @checked
    def add_hook(
        self,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        *,
        watches: bool = False,
    ) -> Hook:
        """Attach `hook(value, hook=point)` and return the handle that removes it.

        If the function's second argument has another name, it gets the point by position. `watches=True` promises that
        the function neither returns nor edits anything: it then gets the tensor itself instead of a copy. A permanent
        hook survives `reset_hooks()`; `level` is a mark by which `reset_hooks(level=...)` finds it. All threads see it.

        Raises:
            BadInput: a direction other than "fwd" and "bwd", or no function of (value, hook).
            HookConflict: a pass of another thread is running, a part of which would see it.
        """
        attached = Hook(self, hook, checked_direction(dir), is_permanent, level, watches, prepend)
        self.attach([attached])
        return attached

    @staticmethod
    def attach(hooks: Sequence[Hook]) -> None:
        """Let functions stay at their points, all of one module: all of them, or none."""
        if hooks:
            refuse_while_others_run(hooks[0].point, "attached")
        try:
            for hook in hooks:
                staying = hook.point.attached
                staying.insert(0 if hook.order < 0 else len(staying), hook)
        except BaseException:
            for hook in hooks:
                hook.remove()
            raise

    def add_perma_hook(self, hook: HookFn, dir: Direction = "fwd") -> Hook:
        """Attach a function that stays until hooks are removed with `including_permanent=True`."""
        return self.add_hook(hook, dir, is_permanent=True)

    @checked
    def has_hooks(self, dir: Directions = "both", including_permanent: bool = True, level: int | None = None) -> bool:
        """Whether a function of this direction and of this level (None: any) is attached."""
        dir = checked_directions(dir)
        return any(hook.is_among(dir, including_permanent, level) for hook in self.hooks)

    @checked
    def remove_hooks(
        self, dir: Directions = "fwd", including_permanent: bool = False, level: int | None = None
    ) -> None:
        """Detach the functions of a direction and of a level (None: any); permanent ones only if asked to."""
        dir = checked_directions(dir)
        for hook in self.hooks:
            if hook.is_among(dir, including_permanent, level):
                hook.remove()

    def clear_context(self) -> None:
        """Give the point a new, empty `ctx`, in this thread."""
        self.ctx = {}

    def layer(self) -> int:
        """The layer of a point inside `blocks.{layer}`.

        Raises:
            BadInput: the point is in no block.
        """
        parts = self.name.split(".")
        if len(parts) < 3 or parts[0] != "blocks":
            raise BadInput(f"{self.name!r} is in no block, so it has no layer")
        return int(parts[1])

    def checked(self, returned: object, like: Tensor, by: str = "a hook on") -> Tensor:
        """`returned` if it can stand in for `like`; `by` says for the error what returned it.

        Raises:
            BadHookValue: not a tensor, or of another shape, dtype or device.
        """
        if not isinstance(returned, Tensor):
            raise BadHookValue(
                f"{by} {self.name} returned {type(returned).__name__}; "
                f"expected None (keep the value) or a tensor of shape {self.describe(like.shape)}"
            )
        for what in ("dtype", "device"):
            came, expected = getattr(returned, what), getattr(like, what)
            if came != expected:
                raise BadHookValue(
                    f"{by} {self.name} returned a tensor of {what} {came}; expected {expected}: "
                    "convert it with .to(value) before returning it"
                )
        if returned.shape != like.shape:
            raise BadHookValue(
                f"{by} {self.name} returned shape {list(returned.shape)}; expected {self.describe(like.shape)}"
            )
        return returned

    def describe(self, shape: Sequence[int]) -> str:
        """A shape in words: '[batch=2, pos=5, d_model=16]', or without names where the axes have none."""
        if len(self.axes) != len(shape):
            return str(list(shape))
        return "[" + ", ".join(f"{axis}={size}" for axis, size in zip(self.axes, shape, strict=True)) + "]"

    def extra_repr(self) -> str:
        attached = ((len(self.fwd_hooks), "fwd"), (len(self.bwd_hooks), "bwd"))
        counts = " ".join(f"{number} {direction}" for number, direction in attached if number)
        return ", ".join(filter(None, (self.name, " ".join(self.axes), counts)))


def checked_direction(dir: str) -> Direction:
    if dir == "fwd" or dir == "bwd":
        return dir
    raise BadInput(f"dir must be 'fwd' or 'bwd', got {dir!r}")


def checked_directions(dir: str) -> Directions:
    if dir == "fwd" or dir == "bwd" or dir == "both":
        return dir
    raise BadInput(f"dir must be 'fwd', 'bwd' or 'both', got {dir!r}")
