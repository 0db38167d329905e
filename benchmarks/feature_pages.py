"""Pages of all 16,384 features of an SAE that is trained on SmolLM2-135M-Instruct: time, memory, size on disk; and
edges from as many features.

    python benchmarks/feature_pages.py [--steps 150] [--tokens 8192] [--out FOLDER] [--threads 2] [--text FILE]
    python benchmarks/feature_pages.py --edges

The model is that of `real_models.py`. Text is paragraphs out of four packages of Debian, where there is apt-get: a
dictionary, a book of questions and answers about politics, one about an operating system, and sayings; else the
docstrings of Python's library, or what `documents` reads of --text. The SAE (BatchTopK, of the stream after a layer in
the middle) is trained on some of it, its metrics and pages are of other documents. A training that was stopped goes on
in benchmarks/checkpoints. Times are in CPU time, since the machine may have other work.

--edges: EAP over a graph in which 16,384 features of a random dictionary write, and 64 active ones ablated and patched.
"""

import argparse
import html.parser
import random
import re
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import FOLDER, megabytes
from real_models import docstrings, smollm2

from interp_hooks import HookedTransformer, Intervention, Run, at, eap, record, sweep
from interp_hooks.circuits import circuit_metric
from interp_hooks.corpus.reading import documents
from interp_hooks.dictionaries import SAE, Dictionary, Recipe, TopK, dictionary_metrics, train_dictionaries
from interp_hooks.interventions.runs import SourceLike, as_run
from interp_hooks.studies import wiki
from interp_hooks.tasks import ioi

PACKAGES = ("anarchism", "debian-handbook", "dict-gcide", "fortunes")
TEXTS = FOLDER / "texts"
PAGES = ("anarchism/**/html/sec*.html", "debian-handbook/**/html/en-US/*.html")
SHORTEST = 200  # characters of a document
LAYER, FEATURES, K, LENGTH = 14, 16384, 32, 128
HELD_OUT = 4000  # documents for metrics and pages, which are not trained on


class Paragraphs(html.parser.HTMLParser):
    """The paragraphs of a page as plain text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = [""]

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("p", "pre", "blockquote", "div"):
            self.found.append("")

    def handle_data(self, data: str) -> None:
        self.found[-1] += data


def texts() -> list[str]:
    """Paragraphs of English text in random order: of Debian's packages, or docstrings where there is no apt-get."""
    found = list(_paragraphs()) if shutil.which("apt-get") else list(docstrings())
    plain = (" ".join(one.split()) for one in found)
    listed = list(dict.fromkeys(one for one in plain if len(one) >= SHORTEST))
    random.Random(0).shuffle(listed)
    return listed


def _paragraphs() -> Iterator[str]:
    for package in PACKAGES:
        if not (TEXTS / package).exists():
            TEXTS.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", "--quiet", package], cwd=TEXTS, check=True)
            (file,) = TEXTS.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", file, TEXTS / package], check=True)
    for path in sorted(path for pages in PAGES for path in TEXTS.glob(pages)):
        parser = Paragraphs()
        parser.feed(path.read_text(encoding="utf-8", errors="replace"))
        yield from parser.found
    for path in sorted(TEXTS.glob("fortunes/**/fortunes/*")):
        if path.is_file() and not path.suffix:
            yield from path.read_text(encoding="utf-8", errors="replace").split("\n%\n")
    (path,) = TEXTS.glob("dict-gcide/**/gcide.dict.dz")
    entries = zlib.decompress(path.read_bytes(), wbits=31).decode("utf-8", errors="replace")
    entries = re.sub(r"\[1913 Webster[^\]]*\]|[\\{}]|``|''", " ", entries)
    yield from random.Random(0).sample(re.split(r"\n(?=\S)", entries), 20_000)


def trained(model: HookedTransformer, corpus: list[str], steps: int) -> Dictionary:
    """The SAE, trained on texts; a training that was stopped goes on."""
    hook = f"resid_post{LAYER}"
    recipe = Recipe(hook=hook, n_features=FEATURES, k=K, learning_rate=1e-3)
    options: dict[str, Any] = dict(tokens_per_step=512, buffer=16 * 1024, length=LENGTH, tokens_at_once=2048)
    folder = FOLDER / f"sae-{hook}-{steps}"
    return train_dictionaries(model, corpus, recipe, steps=steps, **options, save_to=folder, save_every=50)[
        "dictionary"
    ]


def timed(name: str, work: Callable[[], Any]) -> Any:
    """What some work gives; printed are the CPU time and the memory that it takes beyond what is there."""
    found: list[Any] = []
    start = time.process_time()
    used = megabytes(lambda: found.append(work()), "cpu")
    print(f"{name}: {time.process_time() - start:.1f} s of CPU time, {used:.0f} MB beyond what was there", flush=True)
    return found[0]


def pages(model: HookedTransformer, corpus: list[str], sae: Dictionary, n_tokens: int, out: Path) -> None:
    """Write the pages, and tell what they take."""
    read, few = 0, list[str]()
    for text in corpus:
        if read < n_tokens:
            few.append(text)
            read += model.to_tokens(text, truncate=False).shape[1] - 1
    options: dict[str, Any] = dict(dictionaries={"stream": sae}, kinds=["stream_feature"], length=LENGTH)
    made = timed(
        f"pages of {FEATURES:,} features, from {read:,} tokens in {len(few):,} documents",
        lambda: wiki(model, few, out, corpus_name="paragraphs of English text", **options),
    )
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.0f} MB, in {out}")
    table = made.table("stream_features")
    print(f"{(table['label'] == 'dead').sum():,} features are active at none of these tokens")


def edges(model: HookedTransformer) -> None:
    """EAP, a circuit, and single features, in a model with a dictionary of random directions at an MLP's output."""
    task = ioi(model, 4)
    clean, corrupt = as_run(model, task.clean), as_run(model, task.corrupt)
    rows = torch.randn(FEATURES, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=1)
    zeros = dict(b_enc=torch.zeros(FEATURES), b_dec=torch.zeros(model.cfg.d_model))
    sae = SAE(hook=f"mlp_out{LAYER}", W_enc=rows.T.contiguous(), W_dec=rows, activation=TopK(K), **zeros)
    print(f"4 prompts of up to {clean.tokens.shape[1]} tokens")
    timed("EAP without features", lambda: eap(model, task))
    hook = f"blocks.{LAYER}.hook_mlp_out.dictionary.hook_features"
    with model.spliced(sae, error_term=True):
        scored = timed("EAP with features", lambda: eap(model, task))
        print(scored)
        circuit = scored.top(2000, absolute=True).pruned()
        features = sum(".f" in node for node in circuit.nodes)
        told = f"a circuit of {len(circuit):,} edges, with {features} features"
        timed(told, lambda: circuit_metric(model, circuit, task.clean, task.corrupt, task.metric))
        active = record(model, clean, [hook])[hook].flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        print(f"{len(active):,} features are active at some token")
        for name, base, source in (("ablated", clean, 0.0), ("patched", corrupt, clean)):
            runs = features_put(hook, base, source)
            over = {"feature": active[:64]}
            timed(f"64 of these, {name}", lambda: sweep(model, runs, task.metric, over=over, progress=False))  # noqa: B023


def features_put(hook: str, base: Run, source: SourceLike) -> Callable[[int], Run]:
    """The runs in which a feature takes its value from a source."""
    return lambda feature: Run(base.tokens, [Intervention(at(hook, feature=feature), source)], base.attention_mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=FOLDER / "feature-pages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", help="texts, as `documents` reads them")
    parser.add_argument("--edges", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = smollm2()
    if arguments.edges:
        edges(model)
        return
    listed = texts() if arguments.text is None else [str(text) for text in documents(model, arguments.text)]
    train_on, held_out = listed[HELD_OUT:], listed[:HELD_OUT]
    sae = timed(f"{arguments.steps} steps of 512 tokens", lambda: trained(model, train_on, arguments.steps))
    print(dictionary_metrics(model, sae, held_out[-100:], length=LENGTH).table())
    pages(model, held_out, sae, arguments.tokens, arguments.out)


if __name__ == "__main__":
    main()
