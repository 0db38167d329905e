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
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

from interp_hooks import __version__
from interp_hooks.errors import InterpHooksError

DONE, DIFFERS, REFUSED, BUG, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except InterpHooksError as error:
        print(f"interp-hooks: error: {error}", file=sys.stderr)
        return REFUSED
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
    demo = commands.add_parser(
        "demo",
        help="patch a model on indirect object identification and write an HTML report",
        description="Patch a model on indirect object identification, print the main numbers, and write an HTML report "
        "that opens offline.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--model", default="ioi-tiny", help="bundled name, folder of a checkpoint, alias or hub id")
    demo.add_argument("--out", default="report.html", help="file to write")
    demo.add_argument("--prompts", type=_at_least(1), default=32, help="pairs of prompts to average over")
    demo.add_argument("--seed", type=_at_least(0), default=0, help="which prompts are drawn")
    demo.add_argument("--wiki", metavar="FOLDER", help="write a wiki of the model there, too, and link to it")
    demo.set_defaults(run=_demo)
    verify = commands.add_parser(
        "verify",
        help="compare a converted checkpoint with transformers, number by number",
        description="Load a checkpoint with transformers and as a HookedTransformer, let both read the same tokens, "
        "and compare logits and what the hooks promise. Exit code 1 if they differ, 2 if they cannot be compared.",
    )
    verify.add_argument("model", help="bundled name, folder of a checkpoint, alias or hub id")
    verify.add_argument("--text", help="what both read (default: a few sentences)")
    verify.add_argument("--dtype", default="float32", help="float32 (default), float64, bfloat16 or float16")
    verify.add_argument("--no-processing", action="store_true", help="keep the checkpoint's own weights")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=_verify)
    _add_wiki(commands)
    _add_diff(commands)
    families = commands.add_parser("families", help="list the architectures that convert")
    families.add_argument("--markdown", action="store_true", help="as the README has it")
    families.set_defaults(run=_families)
    return whole


def _add_wiki(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    wiki = commands.add_parser(
        "wiki",
        help="write a page for every head and neuron of a model, and tables for programs",
        description="Read a corpus with a model and write a folder: index.html opens without a network and leads to a "
        "page for every head and every neuron; heads.parquet, neurons.parquet, examples.parquet, listings.parquet and "
        "tokens.parquet are for programs. A run that was stopped goes on where it was if it is started again.",
    )
    wiki.add_argument("model", help="bundled name, folder of a checkpoint, alias or hub id")
    wiki.add_argument(
        "--corpus",
        help="file of documents: text (one a line), .jsonl or .parquet with a column 'text', or a folder of these "
        "(default: 256 generated sentences about giving; for models without tokenizer random tokens that repeat)",
    )
    wiki.add_argument("--out", default="wiki", help="folder to write (default: wiki)")
    wiki.add_argument("--limit", type=_at_least(1), help="read so many documents of the corpus (default: all)")
    wiki.add_argument("--length", type=_at_least(2), help="tokens that are read at once (default: 256, or the context)")
    wiki.add_argument("--top", type=_at_least(1), default=10, help="top documents on a page (default: 10)")
    wiki.add_argument("--per-band", type=_at_least(1), default=2, help="random ones of each band (default: 2)")
    wiki.add_argument(
        "--sample", type=_at_least(1), default=16, help="documents for attention statistics and effects (default: 16)"
    )
    wiki.add_argument(
        "--examined",
        type=_at_least(0),
        default=8,
        help="neurons of each layer that are ablated on their own contexts, and get a minimal prompt (default: 8)",
    )
    wiki.add_argument("--seed", type=_at_least(0), default=0, help="which examples are drawn (default: 0)")
    wiki.add_argument("--no-causal", action="store_true", help="leave out effects of ablation, which take long")
    wiki.add_argument("--neuronpedia", action="store_true", help="also JSON per unit for Neuronpedia and SAEDashboard")
    wiki.set_defaults(run=_wiki)


def _add_diff(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    diff = commands.add_parser(
        "diff",
        help="compare two models, and write what differs, ranked, as one page",
        description="Let two models read the same texts and do the same tasks, compare weights and activations where "
        "they are of one architecture, and write a folder: index.html, which opens without a network, has the findings "
        "ranked, each with its evidence and the call that gives it; the numbers lie beside it.",
    )
    diff.add_argument("model", help="bundled name, folder of a checkpoint, alias or hub id")
    diff.add_argument("other", help="the same of the model that is set beside it: the fine-tuned one, say")
    diff.add_argument(
        "--texts",
        help="file of documents: text (one a line), .jsonl or .parquet with a column 'text', or a folder of these "
        "(default: 256 generated sentences about giving; for models without tokenizer random tokens that repeat)",
    )
    diff.add_argument("--out", default="diff", help="folder to write (default: diff); a diff that is there is replaced")
    diff.add_argument("--limit", type=_at_least(1), default=256, help="read so many documents (default: 256)")
    diff.add_argument("--prompts", type=_at_least(2), default=32, help="prompts of each task (default: 32)")
    diff.add_argument("--seed", type=_at_least(0), default=0, help="which prompts are drawn (default: 0)")
    diff.set_defaults(run=_diff)


def _at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {number}")
        return number

    return whole_number


def _demo(arguments: argparse.Namespace) -> int:
    from interp_hooks.views.report import check_destination

    check_destination(arguments.out)
    if arguments.wiki is not None and not _can_write_wiki(arguments.wiki):
        return REFUSED
    from interp_hooks.model.transformer import HookedTransformer
    from interp_hooks.views.demo import ioi_report, summary

    model = HookedTransformer.from_pretrained(arguments.model)
    report = ioi_report(model, prompts=arguments.prompts, seed=arguments.seed, progress=sys.stderr.isatty())
    _print(summary(report))
    page = None
    if arguments.wiki is not None:
        from interp_hooks.studies.wikis.making import wiki

        page = wiki(model, out=arguments.wiki, seed=arguments.seed).page
        _print(f"\nwiki: {page}")
    place = report.write(arguments.out, _command(arguments), page)
    _print(f"\nreport: {place}")
    return DONE


def _verify(arguments: argparse.Namespace) -> int:
    from interp_hooks.loading.parity import verify_checkpoint

    report = verify_checkpoint(
        arguments.model, text=arguments.text, dtype=arguments.dtype, processing=not arguments.no_processing
    )
    _print(report.to_json() if arguments.json else str(report))
    return DONE if report.passed else DIFFERS


def _can_write_wiki(folder: str) -> bool:
    """Whether a wiki can be written to a folder; prints why not where a package is missing."""
    from interp_hooks.studies.wikis.folder import checked_place
    from interp_hooks.studies.wikis.tables import need_arrow

    try:
        need_arrow()
    except ImportError as error:
        print(f"interp-hooks: error: {error}", file=sys.stderr)
        return False
    checked_place(folder)
    return True


def _wiki(arguments: argparse.Namespace) -> int:
    from interp_hooks.corpus.reading import checked_file
    from interp_hooks.studies.wikis.making import wiki

    if not _can_write_wiki(arguments.out):
        return REFUSED
    if arguments.corpus is not None:
        checked_file(arguments.corpus)
    from interp_hooks.model.transformer import HookedTransformer

    made = wiki(
        HookedTransformer.from_pretrained(arguments.model),
        arguments.corpus,
        arguments.out,
        limit=arguments.limit,
        length=arguments.length,
        top=arguments.top,
        per_band=arguments.per_band,
        sample=arguments.sample,
        examined=arguments.examined,
        seed=arguments.seed,
        causal=not arguments.no_causal,
        neuronpedia=arguments.neuronpedia,
    )
    _print(f"wiki: {made.page}")
    return DONE


def _diff(arguments: argparse.Namespace) -> int:
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
    _print(str(found))
    given = {name: getattr(arguments, name) for name in ("texts", "limit", "prompts", "seed", "out")}
    options = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    command = shlex.join(["interp-hooks", "diff", arguments.model, arguments.other, *options])
    page = write_diff(found, (model, other), arguments.out, command)
    _print(f"\ndiff: {page}")
    return DONE


def _families(arguments: argparse.Namespace) -> int:
    from interp_hooks.loading.listing import listing, markdown

    _print(markdown() if arguments.markdown else listing())
    return DONE


def _print(text: str) -> None:
    """Print; characters that the terminal's encoding does not have become "?"."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def _command(arguments: argparse.Namespace) -> str:
    given = {name: getattr(arguments, name) for name in ("model", "prompts", "seed", "out", "wiki")}
    options = {name: str(value) for name, value in given.items() if value is not None}
    return shlex.join(
        ["interp-hooks", "demo", *(part for name, text in options.items() for part in (f"--{name}", text))]
    )


if __name__ == "__main__":
    sys.exit(main())
