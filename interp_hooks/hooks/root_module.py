"""A module whose hook points are addressed by name, and the passes that keep what goes through them.

    output, cache = model.run_with_cache(x, names_filter=["resid_post3", "z3"])

Attaching functions is the business of `NamedPoints`; here is what a caching run does at a hook point: keep the value,
and end the pass once nothing is left to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Device, as_device, check_names, checked
from interp_hooks.hooks.named_points import NamedPoints
from interp_hooks.hooks.points import POSITIONS, Direction, Hook, HookPoint, HookSpec, NameFilter, Watcher
from interp_hooks.hooks.scopes import OneAtATime
from interp_hooks.hooks.slices import Slice, SliceInput


@dataclass(frozen=True)
class Keep(Watcher):
    """A hook function that stores each value, detached, under its point's name and `suffix`.

    `pos_slice` chooses positions (a single one keeps the axis); a value without positions is stored whole.

    Raises:
        BadInput: a position outside the prompt, positions of a value whose axes have no names, or
            `remove_batch_dim` with several prompts.
        HookConflict: passes of two threads fill the cache at once.
    """

    cache: dict[str, Tensor]
    threads: OneAtATime
    device: torch.device | str | None = None
    remove_batch_dim: bool = False
    pos_slice: Slice | None = None
    suffix: str = ""

    def __call__(self, value: Tensor, hook: HookPoint) -> None:
        self.threads.check()
        kept = value.detach()
        if self.pos_slice is not None:
            kept = self.sliced(kept, hook, self.pos_slice)
        if self.remove_batch_dim:
            kept = self.without_batch(kept)
        self.cache[hook.name + self.suffix] = kept.to(self.device)

    def sliced(self, value: Tensor, hook: HookPoint, chosen: Slice) -> Tensor:
        if chosen.mode == "identity":
            return value
        if len(hook.axes) != value.ndim:
            raise BadInput(f"pos_slice needs to know which axis of {hook.name} is 'pos'; HookPoint(axes) names them")
        for dim, axis in enumerate(hook.axes):
            if axis in POSITIONS:
                return chosen.apply(value, dim).clone()  # no view, which would hold all positions
        return value

    def without_batch(self, value: Tensor) -> Tensor:
        if value.shape[0] != 1:
            raise BadInput(f"the batch axis can only be removed from a single prompt, got {value.shape[0]}")
        return value[0]


class Ended(Exception):
    """Raised by an `End` in the middle of a pass, and caught by the caching run that started the pass."""

    def __init__(self, by: End) -> None:
        self.by = by


class End(Watcher):
    """A hook function that ends the pass once it has come to all `points`.

    It waits for the hooks in `others`, which somebody else attached, to be called first.

    Raises:
        Ended: the pass is over.
    """

    def __init__(self, points: Collection[HookPoint], others: Collection[Hook]) -> None:
        self.left = {point.name for point in points}
        self.before = {other: other.reached for other in others}

    def __call__(self, value: Tensor, hook: HookPoint) -> None:
        self.left.discard(hook.name)
        if not self.left and all(
            other.direction == "fwd" and other.reached > reached for other, reached in self.before.items()
        ):
            raise Ended(self)


class HookedRootModule(NamedPoints):
    """A module whose `HookPoint`s, at any depth, can be hooked and cached by name.

    Subclass it, make the submodules, and call `self.setup()` at the end of `__init__`.

        >>> class Doubling(HookedRootModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.hook_twice = HookPoint("batch")
        ...         self.setup()
        ...     def forward(self, x):
        ...         return self.hook_twice(2 * x)
        >>> Doubling().run_with_cache(torch.ones(2))[1]["hook_twice"]
        tensor([2., 2.])
    """

    def has_output(self, *args: Any, **kwargs: Any) -> bool:
        """Whether `forward(*args, **kwargs)` returns or fills anything; override it where an argument decides that.

        A pass without output is run for its hooks alone, so that `run_with_cache` ends it after the last value wanted.
        """
        return True

    @checked
    def get_caching_hooks(
        self,
        names_filter: NameFilter | None = None,
        incl_bwd: bool = False,
        device: Device | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: SliceInput = None,
    ) -> tuple[dict[str, Tensor], list[HookSpec], list[HookSpec]]:
        """A dict, and the `fwd_hooks` and `bwd_hooks` that fill it; the arguments are those of `run_with_cache`.

        While they are attached (`with model.hooks(fwd_hooks, bwd_hooks)`), passes leave their activations in the dict,
        and backward passes their gradients.

        Raises:
            UnknownHook: a name that is no hook point, or no name.
        """
        cache = {} if cache is None else cache
        device = None if device is None else as_device(device)
        if names_filter is None:
            wanted: list[NameFilter] = [lambda name: self.hook_dict[name].collected]
        elif isinstance(names_filter, str) or callable(names_filter):
            wanted = [names_filter]
        else:
            wanted = [point.name for point in self.points(names_filter)]
        chosen = None if pos_slice is None else Slice.unwrap(pos_slice)
        threads = OneAtATime(self)
        keep, keep_gradient = (
            Keep(cache, threads, device, remove_batch_dim, chosen, suffix) for suffix in ("", "_grad")
        )
        return cache, [(one, keep) for one in wanted], [(one, keep_gradient) for one in wanted if incl_bwd]

    @checked
    def add_caching_hooks(
        self,
        names_filter: NameFilter | None = None,
        incl_bwd: bool = False,
        device: Device | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Let every pass from now until `reset_hooks()` put its activations into a dict, and return that dict.

        Raises:
            UnknownHook: the filter selects nothing.
        """
        cache, forward, backward = self.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache)
        directions: list[tuple[Direction, list[HookSpec]]] = [("fwd", forward), ("bwd", backward)]
        HookPoint.attach(
            [
                Hook(point, keep, direction, watches=True)
                for direction, specs in directions
                for wanted, keep in specs
                for point in self.points(wanted)
            ]
        )
        return cache

    @checked
    def cache_all(
        self,
        cache: dict[str, Tensor] | None,
        incl_bwd: bool = False,
        device: Device | None = None,
        remove_batch_dim: bool = False,
    ) -> dict[str, Tensor]:
        """`add_caching_hooks` of every collected point."""
        return self.add_caching_hooks(None, incl_bwd, device, remove_batch_dim, cache)

    @checked
    def cache_some(
        self,
        cache: dict[str, Tensor] | None,
        names: NameFilter,
        incl_bwd: bool = False,
        device: Device | None = None,
        remove_batch_dim: bool = False,
    ) -> dict[str, Tensor]:
        """`add_caching_hooks` of some points."""
        return self.add_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache)

    @checked
    def run_with_cache(
        self,
        *args: Any,
        names_filter: NameFilter | None = None,
        device: Device | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool | Callable[[Any], Tensor] = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: SliceInput = None,
        **kwargs: Any,
    ) -> tuple[Any, Mapping[str, Tensor]]:
        """One forward pass: its output, and its activations, detached, by hook name in order of execution.

        `names_filter` is a name, a collection of names, a predicate on names, or None for every collected point.
        With `incl_bwd` the output, or the number that `incl_bwd(output)` makes of it, is differentiated, and gradients
        are kept as `<name>_grad`. `pos_slice` keeps some positions; a single one keeps the axis. A pass without an
        output (`has_output`) ends after the last value that is wanted.

        Raises:
            UnknownHook: the filter selects nothing.
            HookDidNotFire: the pass did not come to a point that was named.
            BadInput: `remove_batch_dim` with several prompts, or `incl_bwd` of something that is not one number.
            WrongType: an argument that neither this method nor `forward` has.
        """
        check_names(kwargs, self.run_with_cache, self.forward)
        cache, forward, backward = self.get_caching_hooks(
            names_filter, bool(incl_bwd), device, remove_batch_dim, None, pos_slice
        )
        may_end = reset_hooks_end and not incl_bwd and not self.has_output(*args, **kwargs)
        end = self._end(forward) if may_end else None
        watchers = forward if end is None else [*forward, *((wanted, end) for wanted, _ in forward)]

        def run() -> Any:
            try:
                output = self(*args, **kwargs)
            except Ended as ended:
                if ended.by is not end:
                    raise
                output = None
            if incl_bwd:
                _differentiate(incl_bwd(output) if callable(incl_bwd) else output)
            return output

        return self._call_with(run, watchers, backward, reset_hooks_end, clear_contexts), cache

    def _end(self, forward: Sequence[HookSpec]) -> End:
        points = [point for wanted, _ in forward for point in self.points(wanted)]
        return End(points, [hook for point in self.hook_points() for hook in point.hooks])


def _differentiate(number: Any) -> None:
    if not isinstance(number, Tensor) or number.numel() != 1:
        came = f"shape {list(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
        raise BadInput(
            f"incl_bwd differentiates one number, got {came}; have the pass return one (return_type='loss'), or pass "
            "a function of its output, incl_bwd=lambda output: ..."
        )
    if not number.requires_grad:
        raise BadInput("incl_bwd needs gradients, which are off: torch.set_grad_enabled(True)")
    number.backward()
