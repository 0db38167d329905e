"""The import name of TransformerLens, for code that cannot be edited: a table of aliases.

    from interp_hooks import compat
    compat.install()
    from transformer_lens import HookedTransformer, utils        # a subclass of interp_hooks.HookedTransformer, ...

A name is the very object that this package has, under whatever name, or a thin class over it that also takes what code
for TransformerLens does: edits of a config, parts that are built and called alone, entries of a cache. What has no
counterpart is an error that says what to do instead. Code that can be edited imports from `interp_hooks`.
"""

import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from interp_hooks import lazily, without_collecting
from interp_hooks.compat.absent import ABSENT
from interp_hooks.compat.table import MODULES
from interp_hooks.errors import nearest

NAME = "transformer_lens"

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "answers": ["test_prompt"],
        "ioi_dataset": ["IOIDataset", "ioi_eval"],
        "mmlu": ["mmlu_eval"],
        "sae_transformer": ["HookedSAETransformer"],
    },
)
__all__ += ["install"]


class _Alias(ModuleType):
    """A module of the table; its names are looked up when they are used."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{NAME}.{path}" if path else NAME, f"Names of interp_hooks; see {__name__}.")
        self._table = MODULES[path]
        self.__path__ = []  # a package, so that the import of what it lacks comes to `_Missing`
        self.__spec__ = ModuleSpec(self.__name__, None, is_package=True)

    @cached_property
    def _homes(self) -> Mapping[str, str]:
        table = self._table
        return {name: f"{table}:{name}" for name in import_module(table).__all__} if isinstance(table, str) else table

    @property
    def __all__(self) -> list[str]:
        return sorted(self._homes)

    def __dir__(self) -> list[str]:
        inside = [name.rpartition(".")[2] for name in sys.modules if name.rpartition(".")[0] == self.__name__]
        return sorted({*self._homes, *inside})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module there is, as by `inspect`
            raise AttributeError(name)
        if name in self._homes:
            home, _, ours = self._homes[name].partition(":")
            with without_collecting():
                return getattr(import_module(home), ours)
        if isinstance(submodule := sys.modules.get(f"{self.__name__}.{name}"), _Alias):
            return submodule
        raise AttributeError(_absent(self, name))


class _Missing:
    """Tells an import of something that has no alias why, where Python would only say that it is not there."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        parent, _, name = fullname.rpartition(".")
        if isinstance(module := sys.modules.get(parent), _Alias):
            raise ImportError(_absent(module, name), name=fullname)


def _absent(module: _Alias, name: str) -> str:
    instead = f": {ABSENT[name]}." if name in ABSENT else f".{nearest(name, dir(module))}"
    return f"interp_hooks has no counterpart of {module.__name__}.{name}{instead}"


def install() -> None:
    """Make `import transformer_lens`, and its submodules in `MODULES`, mean this package in this process.

    Raises:
        ImportError: the real one is imported already.
    """
    there = sys.modules.get(NAME)
    if isinstance(there, _Alias):
        return
    if there is not None:
        raise ImportError(
            f"{NAME} itself is imported already ({there}), so that some code has its classes: call "
            "interp_hooks.compat.install() in a fresh process, before anything imports it"
        )
    for path in MODULES:
        module = _Alias(path)
        sys.modules[module.__name__] = module
    sys.meta_path.insert(0, _Missing)
    import_module("interp_hooks.compat.stand_ins").let_modules_stand_in()
