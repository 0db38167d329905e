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
DEMO_OPTIONS = ("model", "prompts", "seed", "out", "wiki")


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
    _add_training(commands)
    _add_explain(commands)
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


def _add_training(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    training.add_argument("--steps", type=_steps, help="only these, as in 0,100,1000 (default: all)")
    training.add_argument("--corpus", help="file of documents to measure losses on, as `wiki` takes them")
    training.add_argument("--rows", type=_at_least(1), default=32, help="rows of tokens that are read (default: 32)")
    training.add_argument("--modulus", type=_at_least(3), help="of a model that adds residues: waves of its embedding")
    training.add_argument("--seed", type=_at_least(0), default=0, help="which random tokens are drawn (default: 0)")
    training.add_argument("--save-to", metavar="FOLDER", help="keep what was measured there, and go on with it")
    training.set_defaults(run=_training)


def _steps(text: str) -> list[int]:
    return [_at_least(0)(part) for part in text.split(",")]


def _add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    explain = commands.add_parser(
        "explain",
        help="let a language model explain heads and neurons by their examples in a wiki, and score what it says",
        description="Show a language model the examples of units of a wiki, ask what they answer to, and ask it where "
        "they fire by what it said, beside controls. It is any server that speaks OpenAI's chat protocol. What was "
        "answered is kept in a folder, and never asked again.",
    )
    explain.add_argument("model", help="the model of the wiki: bundled name, folder of a checkpoint, alias or hub id")
    explain.add_argument("wiki", help="folder that interp-hooks wiki wrote; --per-band 10 there gives enough examples")
    explain.add_argument("units", nargs="+", help="names of units: L1H0 (a head), L3N17 (a neuron), ...")
    explain.add_argument("--base-url", required=True, help="address of the server, such as http://localhost:8000/v1")
    explain.add_argument("--asked", required=True, metavar="NAME", help="the language model, as the server names it")
    explain.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        help="environment variable that holds the key, if there is one (default: OPENAI_API_KEY)",
    )
    explain.add_argument("--cache", default="answers", help="folder in which answers are kept (default: answers)")
    explain.add_argument("--out", help="folder to save the explanations and the scores in (default: print only)")
    explain.add_argument(
        "--active",
        type=float,
        default=0.25,
        help="from where on a unit fires: 0 its mean, 1 its largest (default: 0.25)",
    )
    explain.add_argument("--seed", type=_at_least(0), default=0, help="which examples are drawn (default: 0)")
    explain.add_argument("--log-probs", action="store_true", help="ask for probabilities, for an area under the curve")
    explain.add_argument("--no-score", action="store_true", help="explain only")
    explain.add_argument(
        "--dry-run", action="store_true", help="send nothing; print how many requests and tokens it would take"
    )
    explain.add_argument(
        "--prices", type=float, nargs=2, metavar=("IN", "OUT"), help="of a million tokens, for --dry-run"
    )
    explain.set_defaults(run=_explain)


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
    place = report.write(arguments.out, _command(arguments, "demo", *DEMO_OPTIONS), page)
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


def _training(arguments: argparse.Namespace) -> int:
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
    _print(summary(watched, changes))
    options = ("steps", "corpus", "rows", "modulus", "seed", "save_to", "out")
    command = _command(arguments, "training", arguments.checkpoints, *options)
    place = write_training_report(arguments.out, watched, changes, arguments.checkpoints, command)
    _print(f"\nreport: {place}")


STAND_IN = "words that stand for an explanation which nobody has written yet"  # in a dry run


def _explain(arguments: argparse.Namespace) -> int:
    from interp_hooks.studies import Endpoint, Wiki, explain, score_explanations, unit_examples
    from interp_hooks.studies.explanations.asking import library
    from interp_hooks.studies.wikis.tables import need_arrow

    try:
        need_arrow()
        library()
    except ImportError as error:
        print(f"interp-hooks: error: {error}", file=sys.stderr)
        return REFUSED
    endpoint = Endpoint(
        base_url=arguments.base_url,
        model=arguments.asked,
        key_variable=arguments.key_variable,
        cache=arguments.cache,
        log_probs=arguments.log_probs,
        prices=None if arguments.prices is None else (arguments.prices[0], arguments.prices[1]),
    )
    found = Wiki(arguments.wiki)
    from interp_hooks.model.transformer import HookedTransformer

    model = HookedTransformer.from_pretrained(arguments.model)
    examples = unit_examples(model, found, arguments.units, active=arguments.active, seed=arguments.seed)
    if arguments.dry_run:
        _print(f"explaining: {endpoint.dry_run(explain, examples)}")
        if not arguments.no_score:
            said = dict.fromkeys(examples, STAND_IN)
            _print(f"scoring: {endpoint.dry_run(score_explanations, examples, said)}")
        return DONE
    explanations = explain(endpoint, examples)
    _print(str(explanations))
    if arguments.out is not None:
        explanations.save(f"{arguments.out}/explanations", overwrite=True)
    told = {name: one for name, one in examples.items() if name in explanations.texts}
    if told and not arguments.no_score:
        scores = score_explanations(endpoint, told, explanations)
        _print(f"\n{scores}")
        if arguments.out is not None:
            scores.save(f"{arguments.out}/scores", overwrite=True)


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


def _command(arguments: argparse.Namespace, *words: str) -> str:
    """What a reader can type to do it again: the words that are no options, then the options that have a value."""
    options = [word for word in words if word in vars(arguments)]
    line = ["interp-hooks", *(word for word in words if word not in options)]
    for option in options:
        value = getattr(arguments, option)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        line += [] if value is None else [f"--{option.replace('_', '-')}", text]
    return shlex.join(line)


if __name__ == "__main__":
    sys.exit(main())
