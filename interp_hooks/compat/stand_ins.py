"""Modules that a client puts where a hook point was, as SAELens does with a dictionary: `block.hook_mlp_out = module`.

    stand_in(module, point)     the module answers what parts of a model ask a hook point

As with `model.splice`, which is the way to do it here, whatever a part makes only for hooks is made for the module, and
the pass goes on with what the module returns.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint


def stand_in(module: nn.Module, point: HookPoint) -> None:
    """Let a module answer for the hook point in whose place it is."""

    def passed(value: Tensor, **new_axis: int) -> Any:
        return module(point.with_axis(value, **new_axis))

    module.__dict__ |= dict(hooked=True, edited=True, hooks=(), beside=passed, expand=passed)


def stand_where_points_were(points: Mapping[str, HookPoint], modules: Mapping[str, nn.Module]) -> None:
    """Let all modules stand in that now have the name of a hook point."""
    for name, point in points.items():
        if not isinstance(module := modules.get(name, point), HookPoint):
            stand_in(module, point)
