"""A module that stands at a hook point: the pass goes on with what the module makes of the value.

    with model.splice("mlp_out1", sae, name="sae"): ...

    blocks.1.hook_mlp_out                  the value as it came; hooks on the point itself run before the module
    blocks.1.hook_mlp_out.sae              the module, now a part of the model: moved, trained and saved with it
    blocks.1.hook_mlp_out.sae.hook_acts    the module's own hook points, if it has some, addressed like all others

A point with a module in it counts as hooked, so that values which are only computed for hooks are computed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from interp_hooks.errors import BadInput, HookConflict
from interp_hooks.hooks.points import Hook, HookPoint
from interp_hooks.hooks.scopes import refuse_while_others_run


class SplicedPoint(HookPoint):
    """A hook point while a module stands in it.

    It is the same object as before, which hooks and handles refer to; only its class is another one, so that a point
    without a module need not ask for one in every pass.
    """

    @property
    def hooked(self) -> bool:
        return True

    @property
    def edited(self) -> bool:
        return True

    @property
    def spliced(self) -> tuple[str, nn.Module]:
        """The module's name, and the module."""
        ((name, module),) = self.named_children()
        return name, module

    def forward(self, value: Tensor) -> Tensor:
        return self._shown(value, self.hooks)

    def _run(self, value: Tensor, hooks: Sequence[Hook]) -> Tensor:
        value = super()._run(value, hooks)
        name, module = self.spliced
        return self.checked(module(value.clone()), like=value, by=f"the module {name!r} that is spliced in at")

    def beside(self, value: Tensor) -> Tensor:
        """Pass a value through hooks and module, which is what the pass has to go on with."""
        return self(value)


class Splice:
    """The handle of a spliced module: `remove()`, or the end of a `with` block, takes it out of the model again."""

    def __init__(self, point: SplicedPoint, name_anew: Callable[[], None]) -> None:
        self.point: HookPoint = point
        self.name, self.module = point.spliced
        self._name_anew = name_anew

    def remove(self) -> None:
        """Take the module out; its own hook points get back the names that they have within it."""
        if self.module not in self.point.children():
            return  # removed before
        refuse_while_others_run(self.point, "taken out")
        del self.point._modules[self.name]
        self.point.__class__ = HookPoint
        for name, part in self.module.named_modules():
            if isinstance(part, HookPoint):
                part.name = name
        self._name_anew()

    def __enter__(self) -> Splice:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Splice({self.name!r} at {self.point.name})"


@runtime_checkable
class Removable(Protocol):
    """What can be taken out again."""

    def remove(self) -> None:
        """Take it out."""
        ...


@runtime_checkable
class Spliceable(Protocol):
    """Something that knows by itself which modules it puts where in a model: a dictionary."""

    def splice_into(self, model: Any, *, name: str, **options: Any) -> Removable:
        """Splice its modules in, all or none."""
        ...


def put_in(point: HookPoint, module: nn.Module, name: str) -> SplicedPoint:
    """Let a module stand at a hook point.

    Raises:
        HookConflict: another module stands there.
        BadInput: not a name that an attribute of the point could have.
    """
    if isinstance(point, SplicedPoint):
        raise HookConflict(
            f"{point.name} has a module spliced in already, {point.spliced[0]!r}: remove() that one first, or splice "
            "in one module that does both (nn.Sequential)"
        )
    if not name.isidentifier() or name in dir(point):
        raise BadInput(f"the module's name becomes a part of hook names, such as 'sae'; {name!r} cannot be one")
    point.add_module(name, module)
    point.__class__ = SplicedPoint
    assert isinstance(point, SplicedPoint)
    return point
