"""From a fresh process to a converted GPT-2: this package and TransformerLens 3.9.0, by turns in one run.

    python benchmarks/first_load.py [--rounds 5] [--peer PYTHON]

Each process imports `HookedTransformer` and calls `from_pretrained("gpt2")` once, offline, from one HuggingFace cache
that holds a small random GPT-2 with GPT-2's tokenizer: so the time is that of imports, config and tokenizer, whatever
the size of a model adds. `compat` imports `transformer_lens` after `interp_hooks.compat.install()`; `folder` gives the
path instead of the name, which 3.9.0 does not take. Prints seconds of CPU and of the clock (medians), and the median
over rounds of what 3.9.0 takes divided by ours. A first round, in which bytecode is written, is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
TIMED = """
import json, sys, time
def now(): return [time.process_time(), time.perf_counter()]
start = now()
{imports}
imported = now()
HookedTransformer.from_pretrained(sys.argv[1], device="cpu")
print(json.dumps([start, imported, now()]))
"""
OURS = "from interp_hooks import HookedTransformer"
PEER = "from transformer_lens import HookedTransformer"
COMPAT = f"from interp_hooks import compat; compat.install(); {PEER}"


def fill(home: Path) -> Path:
    """Write the cache; the folder of the checkpoint in it."""
    from peer_suite_hub import COMMIT, GPT2_TOKENIZER
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    sizes = dict(n_embd=64, n_layer=2, n_head=4, n_positions=128, n_ctx=128)
    model, tokenizer = GPT2LMHeadModel(GPT2Config(**sizes)), AutoTokenizer.from_pretrained(GPT2_TOKENIZER)
    for name in ("gpt2", "openai-community--gpt2"):  # by which the two packages ask for it
        repository = home / "hub" / f"models--{name}"
        folder = repository / "snapshots" / COMMIT
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    return folder


def timed(python: Path | str, imports: str, name: str, variables: dict[str, str]) -> list[float]:
    """Seconds of CPU and of the clock for the import, and for the load."""
    command = [str(python), "-c", TIMED.format(imports=imports), name]
    done = subprocess.run(command, env=variables, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{imports}\n{done.stderr}")
    start, imported, end = json.loads(done.stdout.splitlines()[-1])
    return [b - a for before, after in ((start, imported), (imported, end)) for a, b in zip(before, after, strict=True)]


def compare(rounds: int, peer: Path, home: Path) -> None:
    folder = fill(home)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables |= dict(HF_HOME=str(home), HF_HUB_OFFLINE="1", PYTHONPYCACHEPREFIX=str(home / "bytecode"))
    ours = variables | dict(PYTHONPATH=str(HERE.parent))
    candidates = {
        "3.9.0": (peer, PEER, "gpt2", variables),
        "ours": (sys.executable, OURS, "gpt2", ours),
        "compat": (sys.executable, COMPAT, "gpt2", ours),
        "folder": (sys.executable, OURS, str(folder), ours),
    }
    seconds: dict[str, list[list[float]]] = {who: [] for who in candidates}
    for round in range(rounds + 1):
        for who, one in candidates.items():
            taken = timed(*one)
            if round:
                seconds[who].append(taken)
    print(f"{'':8}{'import':>14}{'first load':>14}{'sum':>14}{'3.9.0 / ours':>16}   (seconds: CPU clock)")
    for who, rows in seconds.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        pairs = (medians[:2], medians[2:], [medians[0] + medians[2], medians[1] + medians[3]])
        slower = [
            statistics.median(
                (a[k] + a[k + 2]) / (b[k] + b[k + 2]) for a, b in zip(seconds["3.9.0"], rows, strict=True)
            )
            for k in (0, 1)
        ]
        cells = [f"{cpu:7.2f} {clock:6.2f}" for cpu, clock in (*pairs, slower)]
        print(f"{who:8}{cells[0]}{cells[1]}{cells[2]}{cells[3]:>16}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=Path, help="an interpreter that has transformer-lens 3.9.0 (default: made here)")
    given = parser.parse_args()
    if given.peer is None:
        from peers import environment

        given.peer = environment("transformer-lens==3.9.0")
    with TemporaryDirectory() as home:
        compare(given.rounds, given.peer, Path(home))
