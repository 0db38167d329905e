"""From a fresh process to a converted model: this package and TransformerLens 3.9.0, by turns in one run.

    python benchmarks/first_load.py [--rounds 5] [--models gpt2 qwen3] [--peer PYTHON]

Each process imports `HookedTransformer` and calls `from_pretrained` once, offline, from one HuggingFace cache that
holds a small random model of each kind with GPT-2's tokenizer, under a name that 3.9.0 knows: so the time is that of
imports, config and tokenizer, whatever the size of a model adds. `compat` imports `transformer_lens` after
`interp_hooks.compat.install()`; `folder` gives the path instead of the name, which 3.9.0 does not take. Prints seconds
of CPU and of the clock (medians), and the median over rounds of what 3.9.0 takes divided by ours. A first round, in
which bytecode is written, is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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


# The names by which the two packages ask for a kind of model; the first is what is typed. Of kinds of which 3.9.0
# has the sizes in its code (Mistral, Gemma 2) it loads no small model.
MODELS = {
    "gpt2": ("gpt2", "openai-community/gpt2"),
    "llama": ("01-ai/Yi-6B",),
    "qwen2": ("Qwen/Qwen2-0.5B",),
    "qwen3": ("Qwen/Qwen3-0.6B",),
}
SIZES: dict[str, Any] = dict(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=128,
    max_position_embeddings=128,
    vocab_size=50257,
)


def config_of(kind: str) -> Any:
    """The HuggingFace config of a small model of a kind."""
    from transformers import AutoConfig

    if kind == "gpt2":
        return AutoConfig.for_model(kind, n_embd=64, n_layer=2, n_head=4, n_positions=128, n_ctx=128)
    return AutoConfig.for_model(kind, **SIZES)


def fill(home: Path, kind: str) -> Path:
    """Write a model into the cache; the folder of the checkpoint in it."""
    from peer_suite_hub import COMMIT, GPT2_TOKENIZER
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_config(config_of(kind)), AutoTokenizer.from_pretrained(GPT2_TOKENIZER)
    for name in MODELS[kind]:
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
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


def compare(kind: str, rounds: int, peer: Path, home: Path) -> None:
    """Print the rows of one kind of model."""
    folder, name = fill(home, kind), MODELS[kind][0]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables |= dict(HF_HOME=str(home), HF_HUB_OFFLINE="1", PYTHONPYCACHEPREFIX=str(home / "bytecode"))
    ours = variables | dict(PYTHONPATH=str(HERE.parent))
    candidates = {
        "3.9.0": (peer, PEER, name, variables),
        "ours": (sys.executable, OURS, name, ours),
        "compat": (sys.executable, COMPAT, name, ours),
        "folder": (sys.executable, OURS, str(folder), ours),
    }
    seconds: dict[str, list[list[float]]] = {who: [] for who in candidates}
    for round in range(rounds + 1):
        for who, one in candidates.items():
            taken = timed(*one)
            if round:
                seconds[who].append(taken)
    print(f"{kind:8}{'import':>14}{'first load':>14}{'sum':>14}{'3.9.0 / ours':>16}   (seconds: CPU clock)", flush=True)
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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peer", type=Path, help="an interpreter that has transformer-lens 3.9.0 (default: made here)")
    given = parser.parse_args()
    if given.peer is None:
        from peers import environment

        given.peer = environment("transformer-lens==3.9.0")
    with TemporaryDirectory() as home:
        for kind in given.models:
            compare(kind, given.rounds, given.peer, Path(home))
