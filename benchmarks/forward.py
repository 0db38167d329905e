"""Forward pass and caching, against HuggingFace's own model (sdpa attention) in the same run.

    python benchmarks/forward.py [--rounds 15] [--device cpu] [--dtype float32]

Prints ratios: time relative to HuggingFace's forward pass on the same tokens (median over rounds in which both ran one
after the other).
"""

import argparse

import torch
from common import by_turns, checkpoint, ratio
from transformers import AutoModelForCausalLM

from interp_hooks import HookedTransformer

SHAPES = ((1, 32), (4, 64), (4, 256))


@torch.no_grad()
def forward(rounds: int, device: str, dtype: str) -> None:
    folder = str(checkpoint("gpt2-small-sized"))
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    hf.eval().to(device)
    ours = HookedTransformer.from_pretrained(folder, device=device, dtype=dtype)
    print(
        f"\ntime relative to HuggingFace's forward pass, median of {rounds} rounds, {device}, {dtype}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'batch x pos':>12} {'no hooks':>10} {'caching resid_post':>20}")
    for batch, pos in SHAPES:
        tokens = torch.randint(0, 50257, (batch, pos), device=device)
        seconds = by_turns(
            {
                "hf": lambda tokens=tokens: hf(tokens, use_cache=False).logits,
                "ours": lambda tokens=tokens: ours(tokens),
                "cache": lambda tokens=tokens: ours.run_with_cache(
                    tokens, names_filter=lambda name: name.endswith("hook_resid_post")
                ),
            },
            rounds,
        )
        print(f"{batch:>6} x {pos:<4}{ratio(seconds, 'ours', 'hf'):>10.3f} {ratio(seconds, 'cache', 'hf'):>20.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    forward(arguments.rounds, arguments.device, arguments.dtype)
