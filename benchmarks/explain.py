"""Explanations of neurons of `ioi-tiny` by a real language model, and how well it scores them, beside the controls.

    transformers serve FOLDER --port 8123 --device cpu                 or any other server that speaks OpenAI's protocol
    python benchmarks/explain.py http://localhost:8123/v1 FOLDER       prints what came out

Nothing is asked twice: answers stay in the folder `--cache`.
"""

import argparse
import time

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Bands, TopK, neurons, scan
from interp_hooks.errors import EndpointError
from interp_hooks.studies import Endpoint, explain, score_explanations, unit_examples
from interp_hooks.studies.wikis.making import generated_corpus

BY_HAND = {  # in our own words, for language models that find none
    "L1N17": "the second of two names of people at the beginning of a sentence",
    "L1N174": "a man's name right after another name and the word 'and'",
    "L1N208": "a comma, or the word 'to' or 'before', after two people and a place were named",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("base_url")
    arguments.add_argument("model")
    arguments.add_argument("--cache", default="answers")
    arguments.add_argument("--test", type=int, default=5, help="texts of either kind for each unit")
    given = arguments.parse_args()
    endpoint = Endpoint(
        base_url=given.base_url, model=given.model, cache=given.cache, concurrency=1, timeout=600.0, log_probs=True
    )
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    corpus, _ = generated_corpus(model)
    reducers = {"bands": Bands(neurons(), n=20), "top": TopK(neurons(), k=10)}
    examples = unit_examples(
        model, scan(model, corpus, reducers), [*BY_HAND], active=0.5, width=16, train=8, test=given.test
    )
    try:
        print(endpoint.dry_run(explain, examples))
        begin = time.perf_counter()
        explanations = explain(endpoint, examples)
        print(f"{explanations}\n{explanations.model}: {time.perf_counter() - begin:.1f} s\n")
        texts = BY_HAND | dict(explanations.texts)
        print(endpoint.dry_run(score_explanations, examples, texts))
        begin = time.perf_counter()
        print(f"{score_explanations(endpoint, examples, texts)}\n{time.perf_counter() - begin:.1f} s")
        print(endpoint.abilities())
    except EndpointError as error:
        raise SystemExit(f"no language model answered: {error}") from error


if __name__ == "__main__":
    main()
