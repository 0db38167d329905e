"""Forward pass, caching and loading, against HuggingFace's own model (sdpa attention) in the same run.

    python benchmarks/forward.py [--rounds 15]

Prints ratios: time relative to HuggingFace's forward pass on the same tokens (median over rounds in which both ran one
after the other), and peak resident memory of a process that loads a checkpoint and reads every weight once, beyond what
it had after the imports, relative to the size of the file.
"""

import argparse
import subprocess
import sys

import torch
from common import by_turns, checkpoint, ratio
from transformers import AutoModelForCausalLM

from interp_hooks import HookedTransformer

SHAPES = ((1, 32), (4, 64), (4, 256))

LOADS = {  # name: (checkpoint, arguments)
    "GPT-2, processed": ("gpt2-small-sized", ""),
    "GPT-2, no processing": ("gpt2-small-sized", "_no_processing"),
    "Llama, processed": ("llama-sized", ""),
    "Llama, no processing": ("llama-sized", "_no_processing"),
}

LOAD = """
import os, transformers.models.gpt2.modeling_gpt2, transformers.models.llama.modeling_llama
from interp_hooks import HookedTransformer
from interp_hooks.loading import load

def kib(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

before = kib("VmHWM")
model = HookedTransformer.from_pretrained{variant}({folder!r}, device="cpu")
sum(weight.sum() for weight in model.parameters())  # memory-mapped files are read when first touched
size = os.path.getsize({folder!r} + "/model.safetensors") / 1024
print((kib("VmHWM") - before) / size)
"""


@torch.no_grad()
def forward(rounds: int) -> None:
    folder = str(checkpoint("gpt2-small-sized"))
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    ours = HookedTransformer.from_pretrained(folder, device="cpu")
    print(
        f"\ntime relative to HuggingFace's forward pass, median of {rounds} rounds, {torch.get_num_threads()} threads"
    )
    print(f"{'batch x pos':>12} {'no hooks':>10} {'caching resid_post':>20}")
    for batch, pos in SHAPES:
        tokens = torch.randint(0, 50257, (batch, pos))
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


def loading() -> None:
    print("\npeak resident memory while loading and reading every weight, relative to the checkpoint's file")
    for name, (folder, variant) in LOADS.items():
        script = LOAD.format(folder=str(checkpoint(folder)), variant=variant)
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        print(f"{name:>24} {float(printed):>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    loading()
    forward(arguments.rounds)
