"""`interp-hooks families`: list the architectures that convert."""

from __future__ import annotations

import argparse

from interp_hooks.cli.shared import DONE, Commands, show


def add(commands: Commands) -> None:
    families = commands.add_parser("families", help="list the architectures that convert")
    families.add_argument("--markdown", action="store_true", help="as the manual has it")
    families.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.loading.listing import listing, markdown

    show(markdown() if arguments.markdown else listing())
    return DONE
