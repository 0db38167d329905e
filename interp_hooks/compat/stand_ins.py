"""Modules that a client puts where a hook point was: `block.hook_mlp_out = module`, as SAELens and auto-circuit do.

As with `model.splice`, which is the way to do it here, whatever a part makes only for hooks is then made for the
module, and the pass goes on with what the module returns.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from interp_hooks.hooks.points import HookPoint


def let_modules_stand_in() -> RemovableHandle:
    """From now on, let every module that takes a hook point's place answer what parts of a model ask a hook point."""
    return register_module_module_registration_hook(_registered)


def _registered(parent: nn.Module, name: str, module: nn.Module | None) -> None:
    before = parent._modules.get(name)
    point = before if before is None or isinstance(before, HookPoint) else vars(before).get("stands_for")
    if point is not None and module is not None and not isinstance(module, HookPoint):
        passed = partial(_passed, module, point)  # of which a deep copy is one of the module's copy
        vars(module).update(hooked=True, edited=True, hooks=(), beside=passed, expand=passed, stands_for=point)


def _passed(module: nn.Module, point: HookPoint, value: Tensor, **new_axis: int) -> Any:
    return module(point.with_axis(value, **new_axis))
