"""What the benchmarks share: random checkpoints, timing by turns, and peak memory."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

FOLDER = Path(__file__).parent / "checkpoints"

_SIZES = dict(vocab_size=32000, hidden_size=1024, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=4)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2-small-sized": lambda: GPT2LMHeadModel(GPT2Config()),
    "gpt2-untied": lambda: GPT2LMHeadModel(GPT2Config(tie_word_embeddings=False)),
    "gpt2-lens-sized": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=6, n_embd=256, n_head=8, vocab_size=8192, n_positions=128, bos_token_id=0, eos_token_id=0)
    ),
    "llama-sized": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, intermediate_size=2816)),  # untied, 155 M
    "mixtral-sized": lambda: MixtralForCausalLM(MixtralConfig(**_SIZES, intermediate_size=512, num_local_experts=8)),
}


def checkpoint(name: str, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with random weights of one of `MODELS`, made at the first call."""
    folder = FOLDER / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        MODELS[name]().to(dtype).save_pretrained(folder)
    return folder


def finished() -> None:
    """Wait for what was given to a GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def clock_of(device: str) -> Callable[[], float]:
    """What tells times best on a machine that others use too: CPU time (of all threads), for a GPU the clock."""
    return time.process_time if device == "cpu" else time.perf_counter


def by_turns(
    candidates: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; within a round they run one after the other, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for warm in range(rounds + 1):
        for name, run in candidates.items():
            start = clock()
            run()
            finished()
            if warm:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], a: str, b: str) -> float:
    """The median over rounds of a's time divided by b's in the same round."""
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))


def table_row(what: str, *numbers: Iterable[float], digits: int = 2) -> None:
    """Print a row of the table in `docs/performance.md`; `benchmarks/table.py` puts it there."""
    told = "; ".join(", ".join(f"{number:.{digits}f}" for number in group) for group in numbers)
    print(f"| {what} | {told} | `python benchmarks/{Path(sys.argv[0]).name}` |", flush=True)


def megabytes(work: Callable[[], object], device: str) -> float:
    """The most memory that it needs at a time, beyond what is in use already."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark falls back to what is in use

    def resident(field: str) -> float:
        return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) * 1.024e-3

    before = resident("VmRSS:")
    work()
    return resident("VmHWM:") - before
