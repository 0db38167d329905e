"""`interp-hooks explain`: let a language model explain units of a wiki, and score what it says."""

from __future__ import annotations

import argparse

from interp_hooks.cli.shared import DONE, MODEL, Commands, at_least, refused, show

STAND_IN = "words that stand for an explanation which nobody has written yet"  # in a dry run


def add(commands: Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="let a language model explain heads and neurons by their examples in a wiki, and score what it says",
        description="Show a language model the examples of units of a wiki, ask what they answer to, and ask it where "
        "they fire by what it said, beside controls. It is any server that speaks OpenAI's chat protocol. What was "
        "answered is kept in a folder, and never asked again.",
    )
    explain.add_argument("model", help=f"the model of the wiki: {MODEL}")
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
    explain.add_argument("--seed", type=at_least(0), default=0, help="which examples are drawn (default: 0)")
    explain.add_argument("--log-probs", action="store_true", help="ask for probabilities, for an area under the curve")
    explain.add_argument("--no-score", action="store_true", help="explain only")
    explain.add_argument(
        "--dry-run", action="store_true", help="send nothing; print how many requests and tokens it would take"
    )
    explain.add_argument(
        "--prices", type=float, nargs=2, metavar=("IN", "OUT"), help="of a million tokens, for --dry-run"
    )
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from interp_hooks.studies import Endpoint, Wiki, explain, score_explanations, unit_examples
    from interp_hooks.studies.explanations.asking import library
    from interp_hooks.studies.wikis.tables import need_arrow

    try:
        need_arrow()
        library()
    except ImportError as error:
        return refused(error)
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
        show(f"explaining: {endpoint.dry_run(explain, examples)}")
        if not arguments.no_score:
            stand_ins = dict.fromkeys(examples, STAND_IN)
            show(f"scoring: {endpoint.dry_run(score_explanations, examples, stand_ins)}")
        return DONE
    explanations = explain(endpoint, examples)
    show(str(explanations))
    if arguments.out is not None:
        explanations.save(f"{arguments.out}/explanations", overwrite=True)
    told = {name: one for name, one in examples.items() if name in explanations.texts}
    if told and not arguments.no_score:
        scores = score_explanations(endpoint, told, explanations)
        show(f"\n{scores}")
        if arguments.out is not None:
            scores.save(f"{arguments.out}/scores", overwrite=True)
    return DONE
