"""What scripts of clients share: steps in order, each of which tells its values, its seconds or its error; tiny models.

A client is a package that is written for TransformerLens. Its script knows that name only, and nothing of this package;
`clients.py` runs it in an environment with the real one, and again with `interp_hooks.compat` under that name.
"""

import json
import sys
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch

huggingface_hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False  # circuit-tracer reads it; versions from 1 lack it
STEPS: list[Callable[[], Any]] = []
CPU, DRAWS = torch.device("cpu"), torch.Generator()
SIZES = dict(n_layers=2, d_model=16, n_ctx=32, d_head=8, n_heads=2, d_mlp=24, d_vocab=50)
SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")


def step(function: Callable[[], Any]) -> Callable[[], Any]:
    """Make a function a step of the script."""
    STEPS.append(function)
    return function


def numbers(value: Any) -> list[float]:
    """Whatever numbers there are in what a step returns."""
    if isinstance(value, torch.Tensor):
        value = value.detach().double().to_dense().flatten().tolist()
    if isinstance(value, dict):
        return [number for key in sorted(value, key=str) for number in numbers(value[key])]
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, (int, float)) else []


def run() -> None:
    """Run the steps; a line of JSON for each: its name, its seconds of CPU, and its numbers or its error."""
    for function in STEPS:
        torch.manual_seed(0)
        DRAWS.manual_seed(0)
        start, found, error = time.process_time(), [], None
        try:
            found = numbers(function())
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"[:300]
            if "debug" in sys.argv:
                raise
        seconds = time.process_time() - start
        told = {"step": function.__name__, "seconds": seconds, "error": error}
        print(json.dumps(told | {"numbers": found}), flush=True)


def let_cuda_be_the_cpu() -> None:
    """Let `torch.zeros(device="cuda")` of clients that name it in their code work without one."""
    zeros = torch.zeros

    def here(*sizes: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return zeros(*sizes, device=None if device == "cuda" else device, **options)

    if not torch.cuda.is_available():
        torch.zeros = here


def let_draws_be_alone() -> None:
    """Let a step's whole numbers at random (`torch.randint`) be the same whatever else was drawn before."""
    drawing = torch.randint

    def alone(*sizes: Any, generator: torch.Generator | None = None, **options: Any) -> torch.Tensor:
        generator = DRAWS if generator is None and torch.device(options.get("device") or "cpu") == CPU else generator
        return drawing(*sizes, generator=generator, **options)

    torch.randint = alone


def let_moved_names_be_there() -> None:
    """Give the real TransformerLens the names that 3.9.0 has elsewhere, for clients older than that."""
    import transformer_lens as real

    if not real.__spec__.origin:
        return
    caches = {"HookedTransformerKeyValueCache": real.TransformerLensKeyValueCache}
    vars(real).update(caches)
    for name, has in {
        "HookedTransformerConfig": {"HookedTransformerConfig": real.HookedTransformerConfig},
        "past_key_value_caching": caches,
    }.items():
        sys.modules[f"{real.__name__}.{name}"] = module = types.ModuleType(f"{real.__name__}.{name}")
        vars(module).update(has)


def draw(module: torch.nn.Module, std: float = 0.3) -> None:
    """Draw every parameter at random, by its name, whatever other parameters there are."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            name = name.replace("._", ".")  # grouped keys and values there
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
            if name.endswith("b_gate"):  # TransformerLens has none
                weight.zero_()


def tokenizer(folder: Path) -> Any:
    """A tokenizer of the words w4, w5, ..., with BOS, EOS and padding of their own, from a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").exists():
        names = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), SIZES["d_vocab"]))]
        vocabulary = {name: number for number, name in enumerate(names)}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=words,
            **dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL, strict=True)),
        ).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def tiny(folder: Path | None, kind: Any = None, **fields: Any) -> Any:
    """A model (of the class `kind`) with random weights, a GPT-2 unless fields say otherwise.

    Its tokenizer is in a folder; None: it has none.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    options = SIZES | dict(act_fn="gelu_new", normalization_type="LN", device="cpu", seed=0) | fields
    ungrouped = options.pop("ungroup_grouped_query_attention", False)
    model = (kind or HookedTransformer)(HookedTransformerConfig(**options), tokenizer=folder and tokenizer(folder))
    draw(model)
    if ungrouped:
        model.set_ungroup_grouped_query_attention(True)
    return model.eval()


def texts(count: int = 40, words: int = 12) -> list[str]:
    """Texts of random words."""
    drawn = torch.randint(4, SIZES["d_vocab"], (count, words), generator=torch.Generator().manual_seed(1))
    return [" ".join(f"w{number}" for number in row) for row in drawn.tolist()]
