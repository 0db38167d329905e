"""`interp-hooks demo`: patch a model on indirect object identification, and write a report."""

from __future__ import annotations

import argparse
import sys

from interp_hooks.cli.shared import DONE, MODEL, REFUSED, Commands, at_least, show, typed
from interp_hooks.cli.wiki import can_write_wiki


def add(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="patch a model on indirect object identification and write an HTML report",
        description="Patch a model on indirect object identification, print the main numbers, and write an HTML report "
        "that opens offline.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--model", default="ioi-tiny", help=MODEL)
    demo.add_argument("--out", default="report.html", help="file to write")
    demo.add_argument("--prompts", type=at_least(1), default=32, help="pairs of prompts to average over")
    demo.add_argument("--seed", type=at_least(0), default=0, help="which prompts are drawn")
    demo.add_argument("--wiki", metavar="FOLDER", help="write a wiki of the model there, too, and link to it")
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.views.report import check_destination

    check_destination(arguments.out)
    if arguments.wiki is not None and not can_write_wiki(arguments.wiki):
        return REFUSED
    from interp_hooks.model.transformer import HookedTransformer
    from interp_hooks.views.demo import ioi_report, summary

    model = HookedTransformer.from_pretrained(arguments.model)
    report = ioi_report(model, prompts=arguments.prompts, seed=arguments.seed, progress=sys.stderr.isatty())
    show(summary(report))
    page = None
    if arguments.wiki is not None:
        from interp_hooks.studies.wikis.making import wiki

        page = wiki(model, out=arguments.wiki, seed=arguments.seed).page
        show(f"\nwiki: {page}")
    place = report.write(arguments.out, typed(arguments, ["demo"], "model", "prompts", "seed", "out", "wiki"), page)
    show(f"\nreport: {place}")
    return DONE
