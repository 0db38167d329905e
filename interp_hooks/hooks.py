"""Named places in a forward pass where anybody may look at the value, or put another in its stead.

    class Attention(nn.Module):
        self.hook_z = HookPoint("batch pos head d_head", head=4, d_head=16)
        def forward(...): z = self.hook_z(z)

A `HookPoint` is the identity until a function `fn(value, hook=point)` is attached. Functions run in the order they were
attached; what one returns is what the next one sees, and None keeps the value. Each function gets its own copy, so
that an in-place edit is an edit of this value and of nothing that was cached or is used elsewhere. Backward functions
get the gradient with respect to the value as it leaves the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadHookValue, BadInput, HookDidNotFire, UnknownHook, nearest
from interp_hooks.names import get_act_name

if TYPE_CHECKING:
    import pandas as pd

HookFn = Callable[..., Tensor | None]
Direction = Literal["fwd", "bwd"]
NameFilter = str | Callable[[str], bool] | Iterable[str]
HookSpec = tuple[NameFilter, HookFn]
Attached = tuple[NameFilter, list["Hook"]]


class Hook:
    """One attached function; `remove()` takes exactly this one away.

    `reached` counts the passes that came by: a forward function was called then, a backward one will be.
    """

    def __init__(self, point: HookPoint, fn: HookFn, direction: Direction, is_permanent: bool, watches: bool) -> None:
        self.point, self.fn, self.direction = point, fn, direction
        self.is_permanent, self.watches = is_permanent, watches
        self.reached = 0

    def remove(self) -> None:
        if self in self.point.hooks:
            self.point.hooks.remove(self)

    def __call__(self, value: Tensor) -> Tensor:
        """The value after this function: a watcher sees the tensor itself, anybody else gets a copy."""
        if self.watches:
            self.fn(value, hook=self.point)
            return value
        given = value.clone()
        returned = self.fn(given, hook=self.point)
        return given if returned is None else self.point.checked(returned, like=value)


class HookPoint(nn.Module):
    """The identity with a name and named axes.

    `axes` names every dimension in order ("batch pos head d_head"); `sizes` gives those that the architecture fixes.
    `collected` says whether a caching run without a filter keeps the value. `ctx` is a dict for hook functions that
    want to remember something.
    """

    def __init__(self, axes: str = "", *, collected: bool = True, **sizes: int) -> None:
        super().__init__()
        self.axes = tuple(axes.split())
        self.sizes = sizes
        self.collected = collected
        self.name = ""
        self.hooks: list[Hook] = []
        self.ctx: dict[Any, Any] = {}

    @property
    def hooked(self) -> bool:
        """Whether any function, forward or backward, is attached."""
        return bool(self.hooks)

    def forward(self, value: Tensor) -> Tensor:
        return self._run(value) if self.hooks else value

    def expand(self, value: Tensor, **new_axis: int) -> Tensor:
        """Give `value` the axis that it lacks (`head=8`) and run the hooks; without hooks return it as it came."""
        if not self.hooks:
            return value
        if value.ndim < len(self.axes):
            ((axis, size),) = new_axis.items()
            dim = self.axes.index(axis)
            value = value.unsqueeze(dim).expand(*value.shape[:dim], size, *value.shape[dim:])
        return self._run(value)

    def _run(self, value: Tensor) -> Tensor:
        backward = []
        for hook in tuple(self.hooks):
            hook.reached += 1
            if hook.direction == "fwd":
                value = hook(value)
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
            value.register_hook(hook)
        return value

    def add_hook(
        self,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
        *,
        watches: bool = False,
    ) -> Hook:
        """Attach `hook(value, hook=point)` and return the handle that removes it.

        `watches=True` promises that the function neither returns nor edits anything: it then sees the tensor itself
        instead of a copy. A permanent hook survives `reset_hooks()`.

        Raises:
            ValueError: a direction other than "fwd" and "bwd".
        """
        if dir not in ("fwd", "bwd"):
            raise ValueError(f"dir must be 'fwd' or 'bwd', got {dir!r}")
        attached = Hook(self, hook, dir, is_permanent, watches)
        self.hooks.insert(0 if prepend else len(self.hooks), attached)
        return attached

    def remove_hooks(self, dir: Literal["fwd", "bwd", "both"] = "both", including_permanent: bool = False) -> None:
        """Detach all functions of a direction; permanent ones only if asked for."""
        if dir not in ("fwd", "bwd", "both"):
            raise ValueError(f"dir must be 'fwd', 'bwd' or 'both', got {dir!r}")
        self.hooks[:] = [
            hook
            for hook in self.hooks
            if (hook.is_permanent and not including_permanent) or dir not in ("both", hook.direction)
        ]

    def layer(self) -> int:
        """The layer of a point inside `blocks.{layer}`.

        Raises:
            ValueError: the point is in no block.
        """
        parts = self.name.split(".")
        if len(parts) < 3 or parts[0] != "blocks":
            raise ValueError(f"{self.name!r} is in no block, so it has no layer")
        return int(parts[1])

    def checked(self, returned: object, like: Tensor) -> Tensor:
        """`returned` if it can stand in for `like`.

        Raises:
            BadHookValue: not a tensor, or of another shape, dtype or device.
        """
        if not isinstance(returned, Tensor):
            raise BadHookValue(
                f"a hook on {self.name} returned {type(returned).__name__}; "
                f"expected None (keep the value) or a tensor of shape {self.describe(like.shape)}"
            )
        for what in ("dtype", "device"):
            came, expected = getattr(returned, what), getattr(like, what)
            if came != expected:
                raise BadHookValue(
                    f"a hook on {self.name} returned a tensor of {what} {came}; expected {expected}: "
                    "convert it with .to(value) before returning it"
                )
        if returned.shape != like.shape:
            raise BadHookValue(
                f"a hook on {self.name} returned shape {list(returned.shape)}; expected {self.describe(like.shape)}"
            )
        return returned

    def describe(self, shape: Sequence[int]) -> str:
        """'[batch=2, pos=5, d_model=16]', or the bare shape where the axes have no names."""
        if len(self.axes) != len(shape):
            return str(list(shape))
        return "[" + ", ".join(f"{axis}={size}" for axis, size in zip(self.axes, shape, strict=True)) + "]"

    def extra_repr(self) -> str:
        return ", ".join(filter(None, (self.name, " ".join(self.axes))))


class HookedRootModule(nn.Module):
    """A module whose `HookPoint`s, at any depth, can be addressed by name.

    Subclass it, create the submodules, and call `self.setup()` at the end of `__init__`.
    """

    hook_dict: dict[str, HookPoint]

    def setup(self) -> None:
        """Name every hook point after its place in the module tree."""
        self.hook_dict = {name: module for name, module in self.named_modules() if isinstance(module, HookPoint)}
        for name, point in self.hook_dict.items():
            point.name = name

    def hook_points(self) -> list[HookPoint]:
        return list(self.hook_dict.values())

    def hook_table(self) -> pd.DataFrame:
        """Every hook point, a row each: name, axes, shape (`?` where the input decides) and whether a caching run
        without a filter collects it."""
        import pandas as pd

        rows = [
            {
                "name": point.name,
                "axes": " ".join(point.axes),
                "shape": "(" + ", ".join(str(point.sizes.get(axis, "?")) for axis in point.axes) + ")",
                "collected": point.collected,
            }
            for point in self.hook_points()
        ]
        return pd.DataFrame(rows, columns=["name", "axes", "shape", "collected"])

    def points(self, wanted: NameFilter) -> list[HookPoint]:
        """The hook points that a name, several names, or a predicate on names selects.

        A name may be full ("blocks.0.attn.hook_z") or short ("z0", "mlp_out3").

        Raises:
            UnknownHook: a name that is no hook point, or a predicate that selects none.
        """
        if isinstance(wanted, str):
            return [self._point(wanted)]
        if callable(wanted):
            found = [point for name, point in self.hook_dict.items() if wanted(name)]
            if not found:
                examples = ", ".join(list(self.hook_dict)[:4])
                raise UnknownHook(
                    f"the filter function selects none of the {len(self.hook_dict)} hook points ({examples}, ...)"
                )
            return found
        names = list(wanted)
        if not names:
            raise UnknownHook("the list of hook names is empty; pass None to select every hook point")
        return [self._point(name) for name in names]

    def _point(self, name: str) -> HookPoint:
        if not isinstance(name, str):
            raise UnknownHook(f"a hook is named by a string, got {type(name).__name__} {name!r}")
        found = self.hook_dict.get(name) or self.hook_dict.get(get_act_name(name))
        if found is None:
            raise UnknownHook(
                f"there is no hook point {name!r}.{nearest(get_act_name(name), self.hook_dict)} "
                "hook_table() lists all of them."
            )
        return found

    def add_hook(
        self,
        name: NameFilter,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> list[Hook]:
        """Attach `hook(value, hook=point)` to one or more points until `reset_hooks()`.

        Raises:
            UnknownHook: nothing is selected.
        """
        return [point.add_hook(hook, dir, is_permanent, prepend) for point in self.points(name)]

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
    ) -> None:
        """Detach every function that is not permanent, and empty every `hook.ctx`."""
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent)
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        for point in self.hook_points():
            point.ctx.clear()

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[HookSpec] = (),
        bwd_hooks: Sequence[HookSpec] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[HookedRootModule]:
        """Attach functions for the length of a `with` block; only these are removed at its end.

        Each entry is (name or predicate on names, function). With `reset_hooks_end=False` they stay attached, unless
        the block raises.

        Raises:
            UnknownHook: an entry that selects no hook point; nothing is attached then.
        """
        with self._attached(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            yield self

    @contextmanager
    def _attached(
        self,
        fwd_hooks: Sequence[HookSpec],
        bwd_hooks: Sequence[HookSpec],
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        watches: bool = False,
    ) -> Iterator[list[Attached]]:
        """Attach, yield for each entry what was asked for and what was attached, detach."""
        directions: list[tuple[Direction, Sequence[HookSpec]]] = [("fwd", fwd_hooks), ("bwd", bwd_hooks)]
        planned: list[tuple[NameFilter, list[HookPoint], HookFn, Direction]] = [
            (wanted, self.points(wanted), fn, direction) for direction, specs in directions for wanted, fn in specs
        ]
        attached: list[Attached] = [
            (wanted, [point.add_hook(fn, direction, watches=watches) for point in points])
            for wanted, points, fn, direction in planned
        ]
        finished = False
        try:
            yield attached
            finished = True
        finally:
            if reset_hooks_end or not finished:
                for _, hooks in attached:
                    for hook in hooks:
                        hook.remove()
            if clear_contexts:
                self.clear_contexts()

    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: Sequence[HookSpec] = (),
        bwd_hooks: Sequence[HookSpec] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> Any:
        """One forward pass with functions attached; what `forward(*args, **kwargs)` returns.

        A backward hook belongs to this pass: it is called whenever somebody later differentiates its output.

        Raises:
            UnknownHook: an entry that selects no hook point.
            HookDidNotFire: an entry none of whose points this pass came by (stopped early, started late).
        """
        with self._attached(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts) as attached:
            output = self(*args, **kwargs)
            _check_fired(attached)
        return output

    def run_with_cache(
        self,
        *args: Any,
        names_filter: NameFilter | None = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Mapping[str, Tensor]]:
        """One forward pass, and the activations it went through, detached, by hook name in order of execution.

        `names_filter` is a name, a collection of names, a predicate on names, or None for every collected point.
        With `incl_bwd` the output must be a scalar; it is differentiated, and gradients appear as `<name>_grad`.

        Raises:
            UnknownHook: the filter selects nothing.
            HookDidNotFire: this pass did not come by something that was named.
            BadInput: `remove_batch_dim` with several prompts.
        """
        stored: dict[str, Tensor] = {}

        def kept(value: Tensor) -> Tensor:
            value = value.detach().to(device) if device is not None else value.detach()
            if not remove_batch_dim:
                return value
            if value.shape[0] != 1:
                raise BadInput(f"the batch axis can only be removed from a single prompt, got {value.shape[0]}")
            return value[0]

        def keep(value: Tensor, hook: HookPoint) -> None:
            stored[hook.name] = kept(value)

        def keep_gradient(gradient: Tensor, hook: HookPoint) -> None:
            stored[f"{hook.name}_grad"] = kept(gradient)

        if names_filter is None:
            wanted: list[NameFilter] = [lambda name: self.hook_dict[name].collected]
        elif isinstance(names_filter, str) or callable(names_filter):
            wanted = [names_filter]
        else:
            wanted = [[point.name] for point in self.points(names_filter)]
        forward, backward = [(one, keep) for one in wanted], [(one, keep_gradient) for one in wanted if incl_bwd]
        with self._attached(forward, backward, reset_hooks_end, clear_contexts, watches=True) as attached:
            output = self(*args, **kwargs)
            if incl_bwd:
                output.backward()
            _check_fired(attached)
        return output, stored


def _check_fired(attached: list[Attached]) -> None:
    for wanted, hooks in attached:
        if not any(hook.reached for hook in hooks):
            named = wanted if isinstance(wanted, str) else ", ".join(hook.point.name for hook in hooks[:3])
            raise HookDidNotFire(
                f"the forward pass never came by {named}: it started after that point or stopped before it; "
                "check start_at_layer, stop_at_layer and return_type"
            )
