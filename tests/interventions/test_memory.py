"""What runs take together stays within a third of `max_memory`, by torch's own count of what it allocates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp_hooks import KL, HookedTransformer, HookedTransformerConfig, LogitDiff, Loss, patch

BATCH, LENGTH, D_VOCAB = 4, 16, 3000
MOST = 4 * 2**20
TOKENS, OTHER = torch.randint(0, D_VOCAB, (2, BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
ANSWER, WRONG = torch.tensor([3, 1, 4, 1]), torch.tensor([5, 9, 2, 6])
METRICS: dict[str, Any] = {
    "two logits": LogitDiff(ANSWER, WRONG),
    "all logits at the end": KL(TOKENS),
    "all logits": Loss(),
    "a function of two logits": lambda logits: (logits[:, -1, 3] - logits[:, -1, 5]).mean(),
    "a function of all logits": lambda logits: logits.log_softmax(-1)[:, -1, 3],
}
SITES: dict[str, tuple[str, ...]] = {
    "resid_pre": ("layer", "pos"), "z": ("layer", "head"), "pattern": ("layer", "head"), "q_input": ("layer", "head"),
}  # fmt: skip


def peak(work: Callable[[], object]) -> int:
    """The most bytes that were allocated at a time while it worked."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    sizes = dict(n_layers=2, d_model=128, n_ctx=32, d_head=16, n_heads=8, d_mlp=512, d_vocab=D_VOCAB)
    return HookedTransformer(HookedTransformerConfig(**sizes, act_fn="gelu_new", seed=0))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("site", SITES)
def test_a_sweep_stays_within_its_memory(model: HookedTransformer, site: str, metric: str) -> None:
    def sweep() -> None:
        patch(model, TOKENS, OTHER, METRICS[metric], site, over=SITES[site], progress=False, max_memory=MOST)

    assert peak(lambda: model(TOKENS)) < MOST, "or a single run would not fit"
    assert peak(sweep) < 1.3 * MOST


def test_without_that_bound_it_would_take_more(model: HookedTransformer) -> None:
    """So that the test above can fail."""
    needed = peak(
        lambda: patch(model, TOKENS, OTHER, METRICS["two logits"], "q_input", over=SITES["q_input"], progress=False)
    )
    assert needed > 1.3 * MOST
