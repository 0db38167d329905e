"""`interp-hooks diff`: compare two models, and write what differs, ranked, as one page."""

from __future__ import annotations

import argparse
import sys

from interp_hooks.cli.shared import CORPUS, DONE, MODEL, Commands, at_least, show, typed


def add(commands: Commands) -> None:
    diff = commands.add_parser(
        "diff",
        help="compare two models, and write what differs, ranked, as one page",
        description="Let two models read the same texts and do the same tasks, compare weights and activations where "
        "they are of one architecture, and write a folder: index.html, which opens without a network, has the findings "
        "ranked, each with its evidence and the call that gives it; the numbers lie beside it.",
    )
    diff.add_argument("model", help=MODEL)
    diff.add_argument("other", help="the same of the model that is set beside it: the fine-tuned one, say")
    diff.add_argument("--texts", help=CORPUS)
    diff.add_argument("--out", default="diff", help="folder to write (default: diff); a diff that is there is replaced")
    diff.add_argument("--limit", type=at_least(1), default=256, help="read so many documents (default: 256)")
    diff.add_argument("--prompts", type=at_least(2), default=32, help="prompts of each task (default: 32)")
    diff.add_argument("--seed", type=at_least(0), default=0, help="which prompts are drawn (default: 0)")
    diff.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.corpus.reading import checked_file
    from interp_hooks.views.differences import checked_folder, write_diff

    if arguments.texts is not None:
        checked_file(arguments.texts)
    checked_folder(arguments.out)
    from interp_hooks.model.transformer import HookedTransformer
    from interp_hooks.studies.comparisons.findings import diff_models

    model, other = (HookedTransformer.from_pretrained(name) for name in (arguments.model, arguments.other))
    found = diff_models(
        model,
        other,
        arguments.texts,
        limit=arguments.limit,
        n=arguments.prompts,
        seed=arguments.seed,
        names=(arguments.model, arguments.other),
        progress=sys.stderr.isatty(),
    )
    show(str(found))
    names = ["diff", arguments.model, arguments.other]
    command = typed(arguments, names, "texts", "limit", "prompts", "seed", "out")
    page = write_diff(found, (model, other), arguments.out, command)
    show(f"\ndiff: {page}")
    return DONE
