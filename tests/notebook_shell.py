"""A notebook's cells executed by IPython in this process, where the package and torch are imported already.

A kernel of its own for each would import them for seconds. What a cell shows is kept in the order in which it comes, as
a kernel sends it; what it leaves in this process (random state, mode of gradients, renderer, `__main__`) is put back.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from typing import Any
from warnings import catch_warnings

import nbformat
import pandas
import plotly.io
import pytest
import torch
from IPython.core.displayhook import CapturingDisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.tiny import unchecked_types

FRESH = 67280421310721  # torch's seed in a process that sets none


class Written(TextIOBase):
    """A stream whose texts go among what else a cell shows."""

    def __init__(self, shown: list[Any], name: str) -> None:
        self.shown, self.name = shown, name

    def write(self, text: str) -> int:
        self.shown.append(nbformat.v4.new_output("stream", name=self.name, text=text))
        return len(text)


class Quiet(InteractiveShell):
    """A shell that raises what a cell raises, and prints no traceback."""

    def showtraceback(self, *_: Any, **__: Any) -> None:
        pass


class Shell:
    """Executes cells in one namespace."""

    def __init__(self, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
        self._shell, self._monkeypatch = shell, monkeypatch

    def run(self, source: str) -> list[Any]:
        """The outputs of a cell, as a notebook holds them.

        Raises:
            Exception: what the cell raised.
        """
        shown: list[Any] = []
        publisher = CapturingDisplayPublisher(parent=self._shell)
        publisher.outputs = shown
        with self._monkeypatch.context() as patched, self._shell.display_trap, unchecked_types():
            patched.setattr(self._shell, "display_pub", publisher)
            patched.setattr(sys, "displayhook", CapturingDisplayHook(shell=self._shell, outputs=shown))
            patched.setattr(sys, "stdout", Written(shown, "stdout"))
            patched.setattr(sys, "stderr", Written(shown, "stderr"))
            self._shell.run_cell(source, store_history=False).raise_error()
        return [
            one
            if "output_type" in one
            else nbformat.v4.new_output("display_data", data=one["data"], metadata=one["metadata"] or {})
            for one in shown
        ]


@contextmanager
def fresh_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell with an empty namespace, which is the one that `get_ipython` gives."""
    wide = pandas.option_context("display.max_columns", 20)  # as in a kernel, whose pages scroll
    with wide, monkeypatch.context() as patched, torch.enable_grad(), torch.random.fork_rng(), catch_warnings():
        patched.setitem(sys.modules, "__main__", sys.modules["__main__"])
        patched.setattr(plotly.io.renderers, "default", "plotly_mimetype")
        patched.setattr(sys, "excepthook", sys.excepthook)
        torch.manual_seed(FRESH)
        Quiet.clear_instance()
        shell = Quiet.instance(config=Config({"HistoryManager": {"enabled": False}}), user_ns={})
        try:
            yield Shell(shell, patched)
        finally:
            Quiet.clear_instance()
