"""Peak memory while loading, relative to the checkpoint in its own dtype.

    python benchmarks/memory.py

Each case is a process of its own, which loads a checkpoint and reads every weight once (memory-mapped files are read
when first touched). Counted is its peak resident memory beyond what it had after the imports. Targets: at most 1.15 for
untied checkpoints without processing, at most 1.3 with it.
"""

import itertools
import subprocess
import sys

import torch
from common import checkpoint

MODELS = ("gpt2-untied", "llama-sized", "mixtral-sized", "gpt2-small-sized")
DTYPES = (torch.float32, torch.bfloat16)

NOTES = {
    "gpt2-small-sized": "   tied: W_E and W_U become two",
    "mixtral-sized": "   transformers fuses the file's experts, part of which stays mapped beside them",
}

LOAD = """
import os, torch
import transformers.models.gpt2.modeling_gpt2, transformers.models.llama.modeling_llama
import transformers.models.mixtral.modeling_mixtral
from transformers import AutoModelForCausalLM
from interp_hooks import HookedTransformer
from interp_hooks.loading import load

def kib(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])

before = kib("VmHWM")
model = {load}({folder!r}, {device}dtype={dtype!r})
for weight in model.parameters():  # memory-mapped files are read when first touched
    torch.empty(0, dtype=weight.dtype).set_(weight.untyped_storage())[::512].float().sum()
size = os.path.getsize({folder!r} + "/model.safetensors") / 1024
print((kib("VmHWM") - before) / size)
"""


LOADERS = {
    "transformers": "AutoModelForCausalLM.from_pretrained",
    "no processing": "HookedTransformer.from_pretrained_no_processing",
    "processed": "HookedTransformer.from_pretrained",
}


def peak(name: str, dtype: torch.dtype, loader: str) -> float:
    """Peak memory of loading over the size of the checkpoint's file."""
    script = LOAD.format(
        folder=str(checkpoint(name, dtype)),
        load=LOADERS[loader],
        device="" if loader == "transformers" else 'device="cpu", ',
        dtype=str(dtype).removeprefix("torch."),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    print(f"{'checkpoint':<18} {'dtype':<10}" + "".join(f"{loader:>15}" for loader in LOADERS))
    for name, dtype in itertools.product(MODELS, DTYPES):
        peaks = "".join(f"{peak(name, dtype, loader):>15.2f}" for loader in LOADERS)
        print(f"{name:<18} {str(dtype).removeprefix('torch.'):<10}{peaks}{NOTES.get(name, '')}", flush=True)
