"""A module whose hook points, at any depth, are addressed by name: to look at, to attach functions to, to splice
modules into.

    model.points(["resid_post3", "z3"])
    model.add_hook("mlp_out1", fn)
    with model.hooks(bwd_hooks=[(lambda name: name.endswith("hook_z"), fn)]): ...
    model.run_with_hooks(x, fwd_hooks=[("blocks.0.hook_resid_pre", fn)])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from interp_hooks.errors import BadInput, HookDidNotFire, UnknownHook, nearest
from interp_hooks.errors.arguments import check_names, checked, fits, told
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.points import (
    Direction,
    Directions,
    Hook,
    HookFn,
    HookPoint,
    HookSpec,
    HookSpecs,
    NameFilter,
    Watcher,
    checked_direction,
    checked_directions,
)
from interp_hooks.hooks.scopes import IN_FORCE, Block, Scope, refuse_while_others_run
from interp_hooks.hooks.splicing import Splice, Spliceable, SplicedPoint, put_in

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

R = TypeVar("R")


class NamedPoints(nn.Module):
    """A module whose `HookPoint`s are named after their places in it, once `setup()` was called."""

    hook_dict: dict[str, HookPoint]
    mod_dict: dict[str, nn.Module]

    @property
    def context_level(self) -> int:
        """How many `hooks()` contexts of this module one is in."""
        return sum(scope.owner is self and scope.open for scope in IN_FORCE.get().scopes)

    def setup(self) -> None:
        """Name every hook point after its place in the module tree."""
        self.mod_dict = {name: module for name, module in self.named_modules() if name}
        self.hook_dict = {name: module for name, module in self.named_modules() if isinstance(module, HookPoint)}
        for name, point in self.hook_dict.items():
            point.name = name

    def hook_points(self) -> list[HookPoint]:
        """All hook points, in the order in which modules were made."""
        return list(self.hook_dict.values())

    def hook_table(self) -> pd.DataFrame:
        """A table of all hook points: name, axes, shape (`?` where the input decides), and whether a caching run
        without a filter collects the value."""
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
            BadInput: a predicate that takes something else than a name.
        """
        if isinstance(wanted, str):
            return [self._point(wanted)]
        if callable(wanted) and not isinstance(wanted, type):
            _check_filter(wanted)
            try:
                found = [point for name, point in self.hook_dict.items() if wanted(name)]
            except (AttributeError, TypeError) as error:
                raise BadInput(f"a filter must take a hook's name, and got one that fails: {error}") from error
            if not found:
                examples = ", ".join(list(self.hook_dict)[:4])
                raise UnknownHook(
                    f"the filter function selects none of the {len(self.hook_dict)} hook points ({examples}, ...)"
                )
            return found
        if isinstance(wanted, type) or not fits(wanted, Iterable[Any]):
            raise UnknownHook(f"hooks are selected by a name, several names or a function of names, got {told(wanted)}")
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

    # ---------------------------------------------------------------------------------------------- spliced modules

    @checked
    def splice(self, point: str, module: nn.Module, name: str = "spliced") -> Splice:
        """Let `module` stand at a hook point: the pass goes on with `module(value)` in place of the value.

        Hooks on the point itself run before the module and see the value as it came. The module becomes a part of this
        one, under the point's name and `name`, and so do its own hook points ("blocks.1.hook_mlp_out.sae.hook_acts").
        `remove()` of the handle that is returned, or the end of a `with` block around it, takes the module out.

            with model.splice("mlp_out1", sae, name="sae"):
                logits, cache = model.run_with_cache(tokens)

        Raises:
            UnknownHook: there is no such hook point.
            HookConflict: the hook point has a module spliced in already, or a pass of another thread is running.
            BadInput: no module, one that is a part of this model already, or a name that cannot be one.
            BadHookValue: (in a pass) the module returned another shape, dtype or device than the value has.
        """
        refuse_while_others_run(self, "spliced in")
        if any(part is module for part in self.modules()):
            raise BadInput(f"this {type(module).__name__} is a part of the model already; splice in a copy of it")
        made = Splice(put_in(self._point(point), module, name), self.setup)
        self.setup()
        return made

    @checked
    def spliced(self, *parts: Spliceable, name: str = "dictionary", **options: Any) -> AbstractContextManager[Self]:
        """Let dictionaries (or whatever says `splice_into`) stand in the model for the length of a `with` block.

            with model.spliced(sae, error_term=True):
                logits, cache = model.run_with_cache(tokens)
                cache["blocks.1.hook_mlp_out.dictionary.hook_features"]

        Of a dictionary `error_term` says whether the pass goes on with the reconstruction and what it leaves out, which
        together are what was there, to the bit, or with the reconstruction alone (the default). Gradients run through
        features and error, so that they are those of what is computed; with `through_error=False` the error counts as
        a constant, and they run through features alone. Several stand in the model at once; all are in, or none.

        Raises:
            UnknownHook, BadInput: a dictionary that does not fit this model.
            HookConflict: another module stands where one writes.
        """
        if wrong := [part for part in parts if not isinstance(part, Spliceable)]:
            raise BadInput(
                f"dictionaries are spliced in here, got {told(wrong[0])}; a module by model.splice(hook, module)"
            )
        for part in parts:
            check_names(options, self.spliced, part.splice_into)
        return self._spliced(parts, name, options)

    @contextmanager
    def _spliced(self, parts: Sequence[Spliceable], name: str, options: dict[str, Any]) -> Iterator[Self]:
        with ExitStack() as stack:
            for part in parts:
                stack.callback(part.splice_into(self, name=name, **options).remove)
            yield self

    @property
    def splices(self) -> dict[str, Splice]:
        """The handles of all spliced modules, by the name of their hook point."""
        points = [point for point in self.hook_points() if isinstance(point, SplicedPoint)]
        return {point.name: Splice(point, self.setup) for point in points}

    # --------------------------------------------------------------------------------------------- attached functions

    def check_hooks_to_add(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> None:
        """Override this to refuse a function, by raising, before anything is attached."""

    @checked
    def check_and_add_hook(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> Hook:
        """Attach a function to one point unless `check_hooks_to_add` refuses it."""
        self.check_hooks_to_add(hook_point, hook_point_name, hook, dir, is_permanent, prepend)
        return hook_point.add_hook(hook, dir, is_permanent, level, prepend)

    @checked
    def add_hook(
        self,
        name: NameFilter,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> list[Hook]:
        """Attach `hook(value, hook=point)` to one or more points until `reset_hooks()`; every thread sees it.

        Raises:
            UnknownHook: nothing is selected.
            HookConflict: a pass of another thread is running, a part of which would see it.
        """
        points = self.points(name)
        for point in points:
            self.check_hooks_to_add(point, point.name, hook, dir, is_permanent, prepend)
        made = [Hook(point, hook, checked_direction(dir), is_permanent, level, prepend=prepend) for point in points]
        HookPoint.attach(made)
        return made

    @checked
    def add_perma_hook(self, name: NameFilter, hook: HookFn, dir: Direction = "fwd") -> list[Hook]:
        """Attach a function that stays until hooks are removed with `including_permanent=True`.

        Raises:
            UnknownHook: nothing is selected.
        """
        return self.add_hook(name, hook, dir, is_permanent=True)

    @checked
    def list_hooks(
        self, name_filter: NameFilter | None = None, dir: Directions = "both", including_permanent: bool = True
    ) -> dict[str, list[Hook]]:
        """The functions that are attached, by hook name; points without any are left out."""
        dir = checked_directions(dir)
        points = self.hook_points() if name_filter is None else self.points(name_filter)
        among = {
            point.name: [hook for hook in point.hooks if hook.is_among(dir, including_permanent, None)]
            for point in points
        }
        return {name: hooks for name, hooks in among.items() if hooks}

    @checked
    def remove_all_hook_fns(
        self, direction: Directions = "both", including_permanent: bool = False, level: int | None = None
    ) -> None:
        """Detach all functions of a direction and of a level (None: any); permanent ones only if asked to."""
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent, level)

    @checked
    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """`remove_all_hook_fns`, and empty every `hook.ctx`.

        `level` 1 are the functions that an outermost `hooks()` context attached, 2 those of a context inside of it,
        and so on.
        """
        self.remove_all_hook_fns(direction, including_permanent, level)
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        """Give every hook point a new, empty `ctx`, in this thread."""
        for point in self.hook_points():
            point.clear_context()

    @checked
    def hooks(
        self,
        fwd_hooks: HookSpecs = (),
        bwd_hooks: HookSpecs = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> AbstractContextManager[Self]:
        """Attach functions for the length of a `with` block; only these are removed at its end.

        Each entry is (name or predicate on names, function). Passes of other threads don't see them. With
        `reset_hooks_end=False` they stay attached after the block, for all threads, unless it raises.

        Raises:
            UnknownHook: an entry that selects no hook point; nothing is attached then.
        """

        def ended(scope: Scope, raised: bool) -> None:
            self._leave(scope, raised or reset_hooks_end, clear_contexts)

        return Block(self, lambda: self.scope_of(fwd_hooks, bwd_hooks)[0], ended)

    def scope_of(
        self, fwd_hooks: Sequence[HookSpec], bwd_hooks: HookSpecs = ()
    ) -> tuple[Scope, list[tuple[NameFilter, list[Hook]]]]:
        """A scope of these functions, and for each entry what was made of it."""
        directions: list[tuple[Direction, Sequence[HookSpec]]] = [
            ("fwd", _pairs("fwd_hooks", fwd_hooks)),
            ("bwd", _pairs("bwd_hooks", bwd_hooks)),
        ]
        planned: list[tuple[NameFilter, list[HookPoint], HookFn, Direction]] = [
            (wanted, self.points(wanted), fn, direction) for direction, specs in directions for wanted, fn in specs
        ]
        for _, points, fn, direction in planned:
            for point in () if isinstance(fn, Watcher) else points:
                self.check_hooks_to_add(point, point.name, fn, direction)
        level = self.context_level + 1
        made = [
            (wanted, [Hook(point, fn, way, False, level, isinstance(fn, Watcher)) for point in points])
            for wanted, points, fn, way in planned
        ]
        return Scope(self, [hook for _, hooks in made for hook in hooks]), made

    def _leave(self, scope: Scope, remove: bool, clear_contexts: bool) -> None:
        """What the end of a call or block does to its functions, and to what was noted down in `ctx`."""
        try:
            if not remove:
                HookPoint.attach([hook for hooks in scope.hooks.values() for hook in hooks if not hook.removed])
        finally:
            if clear_contexts:
                self.clear_contexts()

    def _call_with(
        self,
        function: Callable[[], R],
        fwd_hooks: Sequence[HookSpec],
        bwd_hooks: Sequence[HookSpec],
        reset_hooks_end: bool,
        clear_contexts: bool,
    ) -> R:
        """What `function` returns while functions are in force, all of which have to fire."""
        scope, made = self.scope_of(fwd_hooks, bwd_hooks)
        raised = True
        try:
            returned = scope.run(function)
            self._check_fired(made)
            raised = False
        finally:
            self._leave(scope, raised or reset_hooks_end, clear_contexts)
        return returned

    def _check_fired(self, attached: Sequence[tuple[NameFilter, Sequence[Hook]]]) -> None:
        """Raise HookDidNotFire for a name or a filter, of whose functions the pass that is over reached none."""
        for wanted, hooks in attached:
            if not any(hook.reached for hook in hooks):
                named = wanted if isinstance(wanted, str) else ", ".join(hook.point.name for hook in hooks[:3])
                raise HookDidNotFire(
                    f"the forward pass never came by {named}: it started after that point or stopped before it; "
                    "check start_at_layer, stop_at_layer and return_type"
                )

    @checked
    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: HookSpecs = (),
        bwd_hooks: HookSpecs = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> Any:
        """One forward pass with functions attached; what `forward(*args, **kwargs)` returns.

        A backward hook belongs to this pass: it is called whenever somebody later differentiates its output.

        Raises:
            UnknownHook: an entry that selects no hook point.
            HookDidNotFire: an entry of whose points the pass reached none (it stopped early, or started late).
            WrongType: an argument that neither this method nor `forward` has.
        """
        check_names(kwargs, self.run_with_hooks, self.forward)
        return self._call_with(lambda: self(*args, **kwargs), fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts)


def _pairs(argument: str, specs: Any) -> list[HookSpec]:
    """The entries of `fwd_hooks` or `bwd_hooks` as a list.

    Raises:
        BadInput: an entry that is not a pair.
    """
    if not fits(specs, Iterable[Any]) or isinstance(specs, str):
        raise BadInput(f"{argument} must be a list of (name, function), got {told(specs)}")
    pairs = list(specs)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadInput(f"{argument} must be a list of (name, function), got an entry {told(pair)}")
    return pairs


def _check_filter(wanted: Callable[[str], bool]) -> None:
    """Raises BadInput if a filter does not take a name, and nothing else."""
    try:
        taken = signature(wanted)
    except ValueError:  # of C
        return
    try:
        taken.bind("")
    except TypeError as error:
        raise BadInput(f"a filter must be a function of a hook's name, got one of {taken}") from error
