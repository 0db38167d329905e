"""`interp-hooks verify`: compare a converted checkpoint with transformers, number by number."""

from __future__ import annotations

import argparse

from interp_hooks.cli.shared import DIFFERS, DONE, MODEL, Commands, show


def add(commands: Commands) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare a converted checkpoint with transformers, number by number",
        description="Load a checkpoint with transformers and as a HookedTransformer, let both read the same tokens, "
        "and compare logits and what the hooks promise. Exit code 1 if they differ, 2 if they cannot be compared.",
    )
    verify.add_argument("model", help=MODEL)
    verify.add_argument("--text", help="what both read (default: a few sentences)")
    verify.add_argument("--dtype", default="float32", help="float32 (default), float64, bfloat16 or float16")
    verify.add_argument("--no-processing", action="store_true", help="keep the checkpoint's own weights")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.loading.parity import verify_checkpoint

    report = verify_checkpoint(
        arguments.model, text=arguments.text, dtype=arguments.dtype, processing=not arguments.no_processing
    )
    show(report.to_json() if arguments.json else str(report))
    return DONE if report.passed else DIFFERS
