"""What commands have in common: exit codes, numbers, what is printed, and the line that a reader can type again.

Each command is a module with two functions: `add` says its arguments, `run` does it and returns the exit code.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import TypeAlias

DONE, DIFFERS, REFUSED, BUG, INTERRUPTED = 0, 1, 2, 3, 130
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
MODEL = "bundled name, folder of a checkpoint, alias or hub id"
CORPUS = (
    "file of documents: text (one a line), .jsonl or .parquet with a column 'text', or a folder of these "
    "(default: 256 generated sentences about giving; for models without tokenizer random tokens that repeat)"
)


def at_least(least: int) -> Callable[[str], int]:
    """What reads a whole number that is not less."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {number}")
        return number

    return whole_number


def show(text: str) -> None:
    """Print; characters that the terminal's encoding does not have become "?"."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def refused(error: Exception | str) -> int:
    """Say why nothing was done, and give the exit code for that."""
    print(f"interp-hooks: error: {error}", file=sys.stderr)
    return REFUSED


def typed(arguments: argparse.Namespace, words: list[str], *options: str) -> str:
    """What a reader can type to do it again: the words after interp-hooks, then the options that have a value."""
    line = ["interp-hooks", *words]
    for option in options:
        value = getattr(arguments, option)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        line += [] if value is None else [f"--{option.replace('_', '-')}", text]
    return shlex.join(line)
