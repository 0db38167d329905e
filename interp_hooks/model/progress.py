"""The bar of a long computation, where somebody reads it.

Bars are of text everywhere. transformers takes those of `tqdm.auto`, which without ipywidgets warns in a notebook and
then has bars of text too: it is imported here, before transformers, so that nothing is said.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from tqdm import TqdmWarning, tqdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)
    import_module("tqdm.auto")


def progress_bar(items: Iterable[Any] | None = None, *, progress: bool, **options: Any) -> tqdm[Any]:
    """A bar on stderr that counts `items`, or, without these, its updates; silent if `progress` is off or nobody reads.

    A terminal reads it, and so does a notebook; a file, a pipe or a scheduler's log does not.
    """
    return tqdm(items, disable=not (progress and _is_read()), **options)


def _is_read() -> bool:
    """Whether stderr goes to a terminal or into a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
