"""Prompts, metrics and a measure for tests of experiments that pass some prompts at a time."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_hooks import KL, HookedTransformer, HookedTransformerConfig, LogitDiff, Loss, Metric, Run
from tests.experiments.by_hand import shapes_counted
from tests.interventions.test_memory import peak
from tests.tiny import random_tokens

BATCH, LENGTH = 5, 6
TOKENS, OTHER = (random_tokens(batch=BATCH, pos=LENGTH, d_vocab=19, seed=seed) for seed in (1, 2))
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1]] + [[1] * LENGTH] * 3 + [[0, 1, 1, 1, 1, 1]])
PLACES = {"verb": torch.tensor([2, 3, 4, 3, 2]), "end": -1}
WITHIN = 1e-9  # relative, in float64
ANSWERS = LogitDiff([3, 1, 4, 1, 5], [9, 2, 6, 5, 3])


def mixed(logits: Tensor) -> Tensor:
    """A number for each prompt that depends on all prompts."""
    some = logits[:, -1, 3] - logits[:, -2, 5]
    return some * some.softmax(0) + some.std()


METRICS: dict[str, Any] = {
    "two logits": ANSWERS,
    "divergence": KL(OTHER),
    "all positions": Loss(),
    "a mean over prompts": lambda logits: (logits[:, -1, 3] - logits[:, -1, 5]).mean(),
    "prompts that are mixed": mixed,
    "all logits": lambda logits: logits.log_softmax(-1)[..., 3].exp().sum().log(),
}
PROMPTS = {
    "of one length": (Run(TOKENS), Run(OTHER)),
    "padded on the left": (Run(TOKENS, (), PADDED), Run(OTHER, (), PADDED)),
}


def split(model: HookedTransformer, experiment: Callable[[], Any]) -> Any:
    """What an experiment gives that must have passed one prompt at a time."""
    with shapes_counted(model, "blocks.1") as shapes:
        found = experiment()
    assert {rows for rows, _ in shapes["blocks.1"]} == {1}
    return found


SIZES: dict[str, Any] = dict(n_layers=2, d_model=64, n_ctx=32, d_head=16, n_heads=4, d_mlp=256, act_fn="gelu_new")
SHAPES = {"a large vocabulary": dict(d_vocab=5000), "many heads": dict(d_vocab=300, n_heads=16, d_head=8)}
N = 8
LONG, LONG_OTHER = torch.randint(0, 300, (2, N, 32), generator=torch.Generator().manual_seed(0))
MEASURED: dict[str, Metric] = {
    "divergence": KL(LONG_OTHER), "two logits": LogitDiff(torch.arange(N), torch.arange(N) + 20)
}  # fmt: skip


def sized(shape: str) -> HookedTransformer:
    return HookedTransformer(HookedTransformerConfig(**{**SIZES, **SHAPES[shape]}, seed=0))


def check_memory(experiment: Callable[[int], object]) -> None:
    """With half of what it takes by itself, or what a prompt at a time takes, it stays within a third of that."""

    def taken(most: int) -> int:
        gc.collect()
        return peak(lambda: experiment(most))

    most = max(taken(2**40) // 2, taken(1))
    assert taken(most) < 1.3 * most
