"""`interp-hooks training`: find out what changed while a model was trained."""

from __future__ import annotations

import argparse
import sys

from interp_hooks.cli.shared import DONE, Commands, at_least, show, typed


def add(commands: Commands) -> None:
    training = commands.add_parser(
        "training",
        help="find out what changed while a model was trained, and write an HTML report",
        description="Measure every checkpoint of a training, find what changed abruptly and when, print it, and write "
        "an HTML report that opens offline.",
    )
    training.add_argument(
        "checkpoints",
        help="folder with step500, checkpoint-500, ... in it, bundled name, or a hub id whose steps are known",
    )
    training.add_argument("--out", default="training.html", help="file to write (default: training.html)")
    training.add_argument("--steps", type=steps, help="only these, as in 0,100,1000 (default: all)")
    training.add_argument("--corpus", help="file of documents to measure losses on, as `wiki` takes them")
    training.add_argument("--rows", type=at_least(1), default=32, help="rows of tokens that are read (default: 32)")
    training.add_argument("--modulus", type=at_least(3), help="of a model that adds residues: waves of its embedding")
    training.add_argument("--seed", type=at_least(0), default=0, help="which random tokens are drawn (default: 0)")
    training.add_argument("--save-to", metavar="FOLDER", help="keep what was measured there, and go on with it")
    training.set_defaults(run=run)


def steps(text: str) -> list[int]:
    return [at_least(0)(part) for part in text.split(",")]


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.corpus.reading import checked_file
    from interp_hooks.studies.training_runs.changes import phase_changes, refuse_few
    from interp_hooks.studies.training_runs.checkpoints import training_checkpoints
    from interp_hooks.views.report import check_destination

    check_destination(arguments.out)
    if arguments.corpus is not None:
        checked_file(arguments.corpus)
    checkpoints = training_checkpoints(arguments.checkpoints, steps=arguments.steps)
    refuse_few(len(checkpoints))
    from interp_hooks.studies.training_runs.measures import rows_of, usual_measures
    from interp_hooks.studies.training_runs.watching import watch_training
    from interp_hooks.views.training_report import summary, write_training_report

    model = checkpoints[-1].load()
    tokens = None if arguments.corpus is None else rows_of(model, arguments.corpus, arguments.rows)
    measures = usual_measures(model, tokens, modulus=arguments.modulus, n=arguments.rows, seed=arguments.seed)
    del model
    watched = watch_training(checkpoints, measures, save_to=arguments.save_to, progress=sys.stderr.isatty())
    changes = phase_changes(watched)
    show(summary(watched, changes))
    options = ("steps", "corpus", "rows", "modulus", "seed", "save_to", "out")
    command = typed(arguments, ["training", arguments.checkpoints], *options)
    place = write_training_report(arguments.out, watched, changes, arguments.checkpoints, command)
    show(f"\nreport: {place}")
    return DONE
