"""`interp-hooks wiki`: write a page for every head and neuron of a model."""

from __future__ import annotations

import argparse

from interp_hooks.cli.shared import CORPUS, DONE, MODEL, REFUSED, Commands, at_least, refused, show


def add(commands: Commands) -> None:
    wiki = commands.add_parser(
        "wiki",
        help="write a page for every head and neuron of a model, and tables for programs",
        description="Read a corpus with a model and write a folder: index.html opens without a network and leads to a "
        "page for every head and every neuron; heads.parquet, neurons.parquet, examples.parquet, listings.parquet and "
        "tokens.parquet are for programs. A run that was stopped goes on where it was if it is started again.",
    )
    wiki.add_argument("model", help=MODEL)
    wiki.add_argument("--corpus", help=CORPUS)
    wiki.add_argument("--out", default="wiki", help="folder to write (default: wiki)")
    wiki.add_argument("--limit", type=at_least(1), help="read so many documents of the corpus (default: all)")
    wiki.add_argument("--length", type=at_least(2), help="tokens that are read at once (default: 256, or the context)")
    wiki.add_argument("--top", type=at_least(1), default=10, help="top documents on a page (default: 10)")
    wiki.add_argument("--per-band", type=at_least(1), default=2, help="random ones of each band (default: 2)")
    wiki.add_argument(
        "--sample", type=at_least(1), default=16, help="documents for attention statistics and effects (default: 16)"
    )
    wiki.add_argument(
        "--examined",
        type=at_least(0),
        default=8,
        help="neurons of each layer that are ablated on their own contexts, and get a minimal prompt (default: 8)",
    )
    wiki.add_argument("--seed", type=at_least(0), default=0, help="which examples are drawn (default: 0)")
    wiki.add_argument("--no-causal", action="store_true", help="leave out effects of ablation, which take long")
    wiki.add_argument("--neuronpedia", action="store_true", help="also JSON per unit for Neuronpedia and SAEDashboard")
    wiki.set_defaults(run=run)


def can_write_wiki(folder: str) -> bool:
    """Whether a wiki can be written to a folder; prints why not where a package is missing."""
    from interp_hooks.studies.wikis.folder import checked_place
    from interp_hooks.studies.wikis.tables import need_arrow

    try:
        need_arrow()
    except ImportError as error:
        refused(error)
        return False
    checked_place(folder)
    return True


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.corpus.reading import checked_file
    from interp_hooks.studies.wikis.making import wiki

    if not can_write_wiki(arguments.out):
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
    show(f"wiki: {made.page}")
    return DONE
