"""pandas, under its usual name: it is imported when the first table is made, and not before.

from interp_hooks.hooks.tables import pd
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _AtFirstUse(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas as pd
else:
    pd = _AtFirstUse("pandas")

__all__ = ["pd"]
