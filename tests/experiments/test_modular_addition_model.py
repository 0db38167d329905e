"""`mod-add` grokked, its waves are what it adds with, and its checkpoints show how it came to that."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp_hooks import HookedTransformer
from interp_hooks.loading.checkpoints import bundled
from interp_hooks.loading.training_steps import checkpoint_labels

P = 53
A, B = torch.arange(P * P) // P, torch.arange(P * P) % P
PROMPTS = torch.stack((A, B, torch.full_like(A, P)), dim=1)
ANSWERS = (A + B) % P
ORDER = torch.randperm(P * P, generator=torch.Generator().manual_seed(1))
SEEN, NEW = ORDER[: round(0.4 * P * P)], ORDER[round(0.4 * P * P) :]
CARD = (bundled()["mod-add"] / "README.md").read_text(encoding="utf-8")


def load(**options: int) -> HookedTransformer:
    return HookedTransformer.from_pretrained_no_processing("mod-add", device="cpu", **options)


@torch.no_grad()
def answers(model: HookedTransformer) -> Tensor:
    """Logits [sum, c] at "="."""
    return model(PROMPTS)[:, -1].double()


def accuracy(logits: Tensor, rows: Tensor) -> float:
    return (logits.argmax(-1) == ANSWERS)[rows].double().mean().item()


def loss(logits: Tensor, rows: Tensor = ORDER) -> float:
    return cross_entropy(logits[rows], ANSWERS[rows]).item()


def wave_power(logits: Tensor) -> Tensor:
    """Of the variance over c: the share of cos(w_k (a + b - c)), for k = 0..p//2."""
    centred = logits - logits.mean(1, keepdim=True)
    aligned = torch.stack([centred[row].roll(-int(ANSWERS[row])) for row in range(P * P)]).mean(0)  # c - a - b first
    cosine = torch.fft.rfft(aligned).real / P
    return 2 * cosine.square() * P / centred.square().sum(1).mean()


def without(logits: Tensor, keys: list[int]) -> Tensor:
    """No waves exp(i w (a + b)) with these frequencies: the transform over a and b has them apart."""
    spectrum = torch.fft.fft2(logits.reshape(P, P, -1), dim=(0, 1))
    for key in keys:
        spectrum[key, key] = spectrum[-key, -key] = 0
    return torch.fft.ifft2(spectrum, dim=(0, 1)).real.reshape(P * P, -1)


def only(logits: Tensor, keys: list[int]) -> Tensor:
    """Waves exp(i w (a + b)) with these frequencies, and the constant."""
    part = logits - without(logits, keys)
    return part + logits.mean(0)


@pytest.fixture(scope="module")
def final() -> Tensor:
    return answers(load())


@pytest.fixture(scope="module")
def keys(final: Tensor) -> list[int]:
    return (wave_power(final) > 0.01).nonzero().flatten().tolist()


# ------------------------------------------------------------------------------------------------------------- grokked


def test_it_adds_and_first_learned_by_heart(final: Tensor) -> None:
    assert accuracy(final, ORDER) == 1
    early = answers(load(checkpoint_value=1000))
    assert accuracy(early, SEEN) == 1
    assert accuracy(early, NEW) < 0.5
    assert loss(early, NEW) > 10 > 0.01 > loss(final, NEW)


def test_checkpoints_are_in_order_and_the_last_is_the_model() -> None:
    steps, what = checkpoint_labels("mod-add")
    assert what == "step"
    assert steps == sorted(steps)
    assert (len(steps) >= 8, steps[0]) == (True, 0)
    last, model = load(checkpoint_index=-1).state_dict(), load().state_dict()
    assert all(torch.equal(weight, last[name]) for name, weight in model.items())
    right = [accuracy(answers(load(checkpoint_value=step)), NEW) for step in steps]
    assert right[0] < 0.05
    assert sum(0.5 < share < 1 for share in right) >= 2, "the change itself is seen"


def test_all_that_is_stored_is_small() -> None:
    files = [file for file in Path(bundled()["mod-add"]).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2e6


def test_the_card_says_what_is_measured(keys: list[int], final: Tensor) -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", CARD, re.MULTILINE)
    assert [int(step) for step, _ in rows] == checkpoint_labels("mod-add")[0]
    for step, told in rows:
        logits = answers(load(checkpoint_value=int(step)))
        measured = [measure(logits, part) for measure in (accuracy, loss) for part in (SEEN, NEW)]
        assert [float(figure) for figure in told.split("|")] == pytest.approx(measured, rel=0.02)
    (told,) = re.findall(r"with k = ([\d, ]+)\nexplain ([\d.]+)%", CARD)
    assert [int(key) for key in told[0].split(",")] == keys
    assert float(told[1]) == pytest.approx(100 * wave_power(final)[keys].sum().item(), abs=0.1)


# --------------------------------------------------------------------------------------------------------------- waves


def test_a_few_waves_of_a_plus_b_minus_c_are_most_of_the_logits(final: Tensor, keys: list[int]) -> None:
    assert 2 <= len(keys) <= 6
    assert wave_power(final)[keys].sum() > 0.95
    spectrum = torch.fft.rfft(load().W_E[:P].detach(), dim=0).abs().square().sum(1)[1:]
    assert spectrum[[key - 1 for key in keys]].sum() / spectrum.sum() > 0.9


def test_key_frequencies_are_needed_and_no_others(final: Tensor, keys: list[int]) -> None:
    with_all = loss(final)
    for frequency in range(1, P // 2 + 1):
        ratio = loss(without(final, [frequency])) / with_all
        if frequency in keys:
            assert ratio > 10, frequency
        else:
            assert ratio < 2, frequency
    assert loss(without(final, keys)) > 2


def test_an_embedding_without_a_key_frequency_does_not_add(keys: list[int]) -> None:
    model = load()
    spectrum = torch.fft.fft(model.W_E[:P].detach(), dim=0)
    for frequency in range(1, P // 2 + 1):
        left = spectrum.clone()
        left[[frequency, -frequency]] = 0
        with torch.no_grad():
            model.W_E[:P] = torch.fft.ifft(left, dim=0).real
        right = accuracy(answers(model), ORDER)
        assert (right < 0.5) if frequency in keys else (right > 0.99), frequency


def test_waves_grow_before_the_answers_change(keys: list[int]) -> None:
    """The key waves alone do better and better from the beginning on, and what is known by heart leans on them."""
    states = {step: answers(load(checkpoint_value=step)) for step in checkpoint_labels("mod-add")[0]}
    restricted = {step: loss(only(state, keys)) for step, state in states.items()}
    excluded = {step: loss(without(state, keys), SEEN) for step, state in states.items()}
    growing = [step for step in states if 1000 <= step <= 6500]
    for step, later in itertools.pairwise(growing):
        assert restricted[later] < restricted[step] < loss(states[step], NEW) / 4
        assert excluded[later] > excluded[step] > 5 > 0.001 > loss(states[step], SEEN)
    before = [accuracy(states[step], NEW) for step in (1000, 5000)]
    assert before[1] - before[0] < 0.2
    assert restricted[5000] < restricted[1000] / 3
