"""What a pass costs beside its arithmetic: 12 layers 64 wide on 8 tokens, against HuggingFace in the same run.

    python benchmarks/overhead.py [--rounds 50] [--threads 1] [--device cpu]

Prints the time of a pass relative to HuggingFace's on the same tokens (median over rounds in which both ran
one after the other): without hooks, while something watches the stream of every layer, and while everything is cached.
"""

import argparse
from collections.abc import Callable

import torch
from common import by_turns, ratio, table_row
from transformers import GPT2Config, GPT2LMHeadModel

from interp_hooks import HookedTransformer

PASSES = 20  # in a round, so that one lasts long enough to be timed
ALLOWED = 1.3


def times(run: Callable[[], object]) -> Callable[[], None]:
    def several() -> None:
        for _ in range(PASSES):
            run()

    return several


@torch.no_grad()
def overhead(rounds: int, device: str) -> None:
    config = GPT2Config(
        n_layer=12, n_embd=64, n_head=4, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    hf = GPT2LMHeadModel(config).eval().to(device)
    ours = HookedTransformer.from_pretrained("tiny", hf_model=hf, device=device)
    tokens = torch.randint(1000, (1, 8), device=device)
    seconds = by_turns(
        {
            "hf": times(lambda: hf(tokens, use_cache=False).logits),
            "no hooks": times(lambda: ours(tokens)),
            "caching resid_post": times(
                lambda: ours.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_post"))
            ),
            "caching everything": times(lambda: ours.run_with_cache(tokens)),
        },
        rounds,
    )
    print(
        f"time relative to HuggingFace's pass, median of {rounds} rounds, {torch.get_num_threads()} threads, {device}"
    )
    for name in list(seconds)[1:]:
        print(f"{name:>20} {ratio(seconds, name, 'hf'):6.2f}")
    told = "forward pass / HuggingFace's on a model of 12 layers 64 wide, 8 tokens: no hooks"
    table_row(told, [ratio(seconds, "no hooks", "hf")])
    assert ratio(seconds, "no hooks", "hf") <= ALLOWED, f"a pass without hooks may take {ALLOWED} of HuggingFace's time"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overhead(arguments.rounds, arguments.device)
