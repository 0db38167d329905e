"""Forward pass and caching, against HuggingFace's own model (sdpa attention) in the same run.

    python benchmarks/forward.py [--models GPT-2 Llama ...] [--shapes 1x8 4x64 ...] [--rounds 15] [--threads 2]
                                 [--device cpu] [--dtype float32]

Prints ratios: time relative to HuggingFace's forward pass on the same tokens (median over rounds in which all ran one
after the other), without hooks, while the stream after every layer is cached, and while everything is. Times are CPU
time (of all threads), or on a GPU those of the clock.

The models have random weights and layers of realistic shape; they have four of them and few tokens, since the
unembedding, which is one product on both sides, would hide what differs.
"""

import argparse
import gc
from collections.abc import Callable

import torch
from common import by_turns, clock_of, ratio, table_row
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from interp_hooks import HookedTransformer

FEW = dict(vocab_size=4000, num_hidden_layers=4, bos_token_id=0, eos_token_id=0, pad_token_id=None)
SIZES = dict(FEW, hidden_size=1024, num_attention_heads=16, num_key_value_heads=4)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(**FEW)),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=2816)),
    "Qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=128, intermediate_size=3072)),
    "Gemma 3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES | dict(num_key_value_heads=1), head_dim=64, intermediate_size=4096)
    ),
    "Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, intermediate_size=512, num_local_experts=8)),
}
SHAPES = ("1x8", "1x32", "4x64", "8x128", "4x256")  # prompts x tokens
LONG_ENOUGH = 60  # tokens; shorter passes are repeated
CACHED = {"no hooks": None, "every `resid_post`": "hook_resid_post", "everything": ""}  # how the names of hooks end


def repeated(run: Callable[[], object], tokens: torch.Tensor) -> Callable[[], None]:
    """A pass over these tokens, several times if they are few."""

    def several() -> None:
        for _ in range(max(1, LONG_ENOUGH // tokens.numel())):
            run()

    return several


@torch.no_grad()
def forward(name: str, shapes: list[str], rounds: int, device: str, dtype: torch.dtype) -> None:
    """The ratios of one model at each of the shapes, by what is cached."""
    torch.manual_seed(0)
    hf = MODELS[name]().eval().to(device, dtype)
    ours = HookedTransformer.from_pretrained(name, hf_model=hf, device=device, dtype=dtype)
    hf.set_attn_implementation("sdpa")
    found: dict[str, list[float]] = {what: [] for what in CACHED}
    for shape in shapes:
        tokens = torch.randint(0, ours.cfg.d_vocab, tuple(map(int, shape.split("x"))), device=device)

        def cached(end: str, tokens: torch.Tensor = tokens) -> object:
            return ours.run_with_cache(tokens, names_filter=(lambda name: name.endswith(end)) if end else None)

        candidates = {
            "hf": lambda tokens=tokens: hf(tokens, use_cache=False).logits,
            "no hooks": lambda tokens=tokens: ours(tokens),
            **{what: lambda end=end: cached(end) for what, end in CACHED.items() if end is not None},
        }
        passes = {what: repeated(run, tokens) for what, run in candidates.items()}
        seconds = by_turns(passes, rounds, clock_of(device))
        for what, ratios in found.items():
            ratios.append(ratio(seconds, what, "hf"))
        print(f"{name:>10} {shape:>11}" + "".join(f"{one[-1]:>20.3f}" for one in found.values()))
    for what, ratios in found.items():
        while_caching = "" if CACHED[what] is None else f", caching {what}"
        table_row(f"forward pass / HuggingFace's (sdpa), {name}, {', '.join(shapes)} tokens{while_caching}", ratios)


def main(names: list[str], shapes: list[str], rounds: int, device: str, dtype: str) -> None:
    told = f"{device}, {dtype}, {torch.get_num_threads()} threads"
    print(f"time relative to HuggingFace's forward pass, median of {rounds} rounds, {told}")
    print(" " * 22 + "".join(f"{what:>20}" for what in CACHED))
    for name in names:
        forward(name, shapes, rounds, device, getattr(torch, dtype))
        gc.collect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), help="prompts x tokens, such as 4x64")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.models, arguments.shapes, arguments.rounds, arguments.device, arguments.dtype)
