"""Induction in a trained model: which heads do it, through which edges, and which method sees that."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, LogProb, ablate, detect_head, eap, eap_ig, faithfulness, tasks
from interp_hooks.circuits.circuit import Circuit


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("induction-2l", device="cpu").requires_grad_(False)


def test_one_layer_cannot_tell_and_two_can(model: HookedTransformer) -> None:
    task = tasks.induction(200, model.cfg.d_vocab, length=24, seed=5)
    control = HookedTransformer.from_pretrained("induction-1l", device="cpu")
    right = [float((one(task.clean)[:, -1].argmax(-1) == task.answer).double().mean()) for one in (model, control)]
    assert right[0] > 0.99
    assert right[1] < 0.2


def test_heads_are_found_by_where_they_look_and_what_is_lost_without(model: HookedTransformer) -> None:
    task = tasks.induction(200, model.cfg.d_vocab, length=24, seed=5)
    first, second = (detect_head(model, task.clean[:16], f"{name}_head") for name in ("previous_token", "induction"))
    assert int(first.argmax()) < 4 <= int(second.argmax()), "in layer 0, in layer 1"
    lost = ablate(
        model,
        task.clean,
        LogProb(task.answer),
        method="resample",
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    change = lost.mean - lost.baselines["original"].mean()
    assert int(change.argmin()) == int(first.argmax())
    assert float(change.min()) < -2


@pytest.fixture(scope="module")
def found(model: HookedTransformer) -> tuple[tasks.Task, Any, dict[str, Circuit]]:
    """Attributions against prompts about other words."""
    task, other = (tasks.induction(128, model.cfg.d_vocab, length=24, seed=seed) for seed in (0, 1))
    pair = model, task.clean, other.clean, task.metric
    return task, other.clean, {"EAP": eap(*pair), "EAP-IG": eap_ig(*pair, steps=10)}


def test_integrated_gradients_find_the_circuit_and_plain_ones_do_not(
    model: HookedTransformer, found: tuple[tasks.Task, Any, dict[str, Circuit]]
) -> None:
    """In the clean run attention is decided, so that its gradient is nearly 0."""
    task, other, scores = found
    left = {
        name: faithfulness(model, one.top(32, absolute=True), task.clean, other, task.metric).recovered_fraction.item()
        for name, one in scores.items()
    }
    assert left["EAP-IG"] > 0.75
    assert left["EAP"] < 0.3


def test_layer_0_is_heard_by_keys(found: tuple[tasks.Task, Any, dict[str, Circuit]]) -> None:
    """Of what the two heads that look at the token before tell layer 1, most goes to its keys."""
    scores = found[2]["EAP-IG"].scores
    assert scores is not None
    total = dict.fromkeys("qkv", 0.0)
    for (writer, reader), score in scores.items():
        if writer in ("a0.h2", "a0.h3") and reader.startswith("a1"):
            total[reader[-2]] += score
    assert total["k"] > 2 * abs(total["v"])
    assert total["k"] > 5 * abs(total["q"])
