"""The command `interp-hooks`, also `python -m interp_hooks`.

Arguments are checked and the place of the output is tried before anything is computed. Exit codes:

    0     done; of `verify`: no difference
    1     `verify` found a difference
    2     what was asked for is refused, with one message on stderr
    3     anything else, which is a bug and shows its traceback
    130   interrupted
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from interp_hooks import __version__
from interp_hooks.cli import demo, diff, explain, families, training, verify, wiki
from interp_hooks.cli.shared import BUG, INTERRUPTED, refused
from interp_hooks.errors import InterpHooksError

COMMANDS = (demo, verify, wiki, training, diff, explain, families)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except InterpHooksError as error:
        return refused(error)
    except KeyboardInterrupt:
        print("interp-hooks: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    whole = argparse.ArgumentParser(
        prog="interp-hooks", description="Find out which parts of a language model do what."
    )
    whole.add_argument("--version", action="version", version=f"interp-hooks {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole
