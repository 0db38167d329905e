"""What the benchmarks share: a GPT-2-small-sized random checkpoint, and timing by turns."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent / "checkpoints"


def checkpoint(name: str) -> Path:
    """A folder with random weights, made at the first call: "gpt2-small-sized", or "llama-sized" (untied, 155 M)."""
    folder = FOLDER / name
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        if name == "gpt2-small-sized":
            model = GPT2LMHeadModel(GPT2Config())
        else:
            sizes = dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=8)
            model = LlamaForCausalLM(
                LlamaConfig(vocab_size=32000, num_attention_heads=16, num_key_value_heads=4, **sizes)
            )
        model.save_pretrained(folder)
    return folder


def by_turns(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; within a round they run one after the other, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for warm in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], a: str, b: str) -> float:
    """The median over rounds of a's time divided by b's in the same round."""
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
