"""A first load without transformers' table of activation functions, until somebody looks into it.

The config class of Llama checks a number by a module that can check names of activations too, and so imports that
table, and with it torch's compiler, DTensor and sympy: half as much again as all that a plain checkpoint needs.
"""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

ACTIVATIONS, TABLE, CHECKS = "transformers.activations", "ACT2FN", "transformers.utils.type_validators"


class Deferred(Mapping[str, Any]):
    """The mapping `name` of a module, which is imported when it is first looked into."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    @property
    def _itself(self) -> Mapping[str, Any]:
        return getattr(import_module(self._module), self._name)

    def __getitem__(self, key: str) -> Any:
        return self._itself[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._itself)

    def __len__(self) -> int:
        return len(self._itself)


def defer_activations() -> None:
    """Import transformers' checks of config fields, which then import activation functions when they first check one.

    Where the functions or the checks are there already, or a version of transformers has none that can be imported
    so, nothing happens.
    """
    if ACTIVATIONS in sys.modules or CHECKS in sys.modules:
        return
    stand_in = ModuleType(ACTIVATIONS)
    setattr(stand_in, TABLE, Deferred(ACTIVATIONS, TABLE))
    sys.modules[ACTIVATIONS] = stand_in
    try:
        import_module(CHECKS)
    except ImportError:
        pass
    finally:
        del sys.modules[ACTIVATIONS]
