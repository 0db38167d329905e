"""Forward pass and caching, against HuggingFace's own model (sdpa attention) in the same run.

    python benchmarks/forward.py [--models gpt2-small-sized ...] [--rounds 15] [--threads 2] [--device cpu]
                                 [--dtype float32]

Prints ratios: time relative to HuggingFace's forward pass on the same tokens (median over rounds in which all ran one
after the other), without hooks, while the stream after every layer is cached, and while everything is. Times are CPU
time (of all threads), or on a GPU those of the clock. The last lines are rows of the table in `docs/performance.md`.
"""

import argparse
import gc

import torch
from common import by_turns, checkpoint, clock_of, ratio
from transformers import AutoModelForCausalLM

from interp_hooks import HookedTransformer

MODELS = {  # checkpoints, and what the table calls them
    "gpt2-small-sized": "GPT-2",
    "llama-sized": "Llama",
    "qwen3-sized": "Qwen 3",
    "gemma3-sized": "Gemma 3",
    "mixtral-sized": "Mixtral",
}
SHAPES = ((1, 8), (1, 32), (4, 64), (8, 128), (4, 256))
CACHED = {"no hooks": None, "every `resid_post`": "hook_resid_post", "everything": ""}  # ends of the names


@torch.no_grad()
def forward(name: str, rounds: int, device: str, dtype: str) -> dict[str, list[float]]:
    """The ratios of one checkpoint at each of the shapes, by what is cached."""
    folder = str(checkpoint(name))
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    hf.eval().to(device)
    ours = HookedTransformer.from_pretrained(folder, device=device, dtype=dtype)
    found: dict[str, list[float]] = {what: [] for what in CACHED}
    for batch, pos in SHAPES:
        tokens = torch.randint(0, ours.cfg.d_vocab, (batch, pos), device=device)

        def cached(end: str, tokens: torch.Tensor = tokens) -> object:
            return ours.run_with_cache(tokens, names_filter=(lambda name: name.endswith(end)) if end else None)

        candidates = {
            "hf": lambda tokens=tokens: hf(tokens, use_cache=False).logits,
            "no hooks": lambda tokens=tokens: ours(tokens),
            **{what: lambda end=end: cached(end) for what, end in CACHED.items() if end is not None},
        }
        seconds = by_turns(candidates, rounds, clock_of(device))
        for what, ratios in found.items():
            ratios.append(ratio(seconds, what, "hf"))
        shown = "".join(f"{ratios[-1]:>20.3f}" for ratios in found.values())
        print(f"{MODELS[name]:>10} {batch:>4} x {pos:<4}{shown}", flush=True)
    return found


def main(names: list[str], rounds: int, device: str, dtype: str) -> None:
    told = f"{device}, {dtype}, {torch.get_num_threads()} threads"
    print(f"time relative to HuggingFace's forward pass, median of {rounds} rounds, {told}")
    print(" " * 22 + "".join(f"{what:>20}" for what in CACHED))
    rows = {}
    for name in names:
        rows[name] = forward(name, rounds, device, dtype)
        gc.collect()
    for what in CACHED:
        told = "; ".join(f"{MODELS[name]} {', '.join(f'{one:.2f}' for one in rows[name][what])}" for name in names)
        print(f"| {what} | {told} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.models, arguments.rounds, arguments.device, arguments.dtype)
