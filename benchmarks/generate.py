"""Greedy decoding against HuggingFace's own `generate` (sdpa attention), by turns in one run.

    python benchmarks/generate.py [--rounds 7] [--new 32] [--checkpoint gpt2-small-sized] [--device cpu]

Prints tokens per second (prompt included in the time), and the median over rounds of ours divided by HuggingFace's.
Both write the same tokens, which is checked first.
"""

import argparse
import statistics
from typing import Any

import torch
from common import MODELS, by_turns, checkpoint, ratio, table_row
from transformers import AutoModelForCausalLM

from interp_hooks import HookedTransformer

SHAPES = ((1, 32), (4, 64), (4, 256))


def generate(name: str, rounds: int, new: int, device: str) -> None:
    folder = str(checkpoint(name))
    hf: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    hf.eval().to(device)
    ours = HookedTransformer.from_pretrained_no_processing(folder, device=device)
    length = dict(max_new_tokens=new, min_new_tokens=new)
    print(f"\n{name}: {new} new tokens, {rounds} rounds, {torch.get_num_threads()} threads, {device}")
    print(f"{'batch x prompt':>15} {'HuggingFace':>12} {'ours':>12} {'ratio':>7}   (tokens/s)")
    found = []
    for batch, pos in SHAPES:
        tokens = torch.randint(1, hf.config.vocab_size, (batch, pos)).to(device)
        asked = dict(attention_mask=torch.ones_like(tokens), do_sample=False, pad_token_id=0)
        candidates = {
            "hf": lambda tokens=tokens, asked=asked: hf.generate(tokens, **asked, **length).cpu(),
            "ours": lambda tokens=tokens: ours.generate(
                tokens, new, stop_at_eos=False, do_sample=False, verbose=False
            ).cpu(),
        }
        written = {who: write() for who, write in candidates.items()}
        assert torch.equal(written["hf"], written["ours"]), "the two write different tokens"
        seconds = by_turns(candidates, rounds)
        rates = {who: batch * new / statistics.median(times) for who, times in seconds.items()}
        faster = ratio(seconds, "hf", "ours")
        found.append(faster)
        print(f"{batch:>6} x {pos:<6}{rates['hf']:>14.1f} {rates['ours']:>12.1f} {faster:>7.2f}")

    shapes = ", ".join(f"{batch} x {pos}" for batch, pos in SHAPES)
    table_row(f"greedy decoding, tokens per second / HuggingFace's: {name}, {shapes} tokens of prompt", found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--checkpoint", choices=MODELS, default="gpt2-small-sized")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    generate(arguments.checkpoint, arguments.rounds, arguments.new, arguments.device)
