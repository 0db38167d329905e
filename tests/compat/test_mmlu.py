"""Multiple choice against asking question by question, and what is refused."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.compat.mmlu import mmlu_eval
from interp_hooks.errors import BadInput

QUESTIONS = [
    {"question": f"Who went to the {place}?", "choices": names, "answer": place_number % len(names), "subject": subject}
    for place_number, (place, names, subject) in enumerate(
        [
            ("store", ["Mary", "John", "Tom", "Lucy"], "people"),
            ("park", ["John", "Tom"], "people"),
            ("school", ["Lucy", "Mary", "Tom"], "places"),
            ("office", ["Tom", "Anna", "John", "Mary"], "people"),
            ("church", ["Mary", "Lucy", "John", "Tom"], "places"),
        ]
    )
]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def by_hand(model: HookedTransformer, asked: Any) -> bool:
    lines = [f"Question: {asked['question']}", "Choices:"]
    lines += [f"{letter}. {choice}" for letter, choice in zip("ABCD", asked["choices"], strict=False)]
    with torch.no_grad():
        logits = model("\n".join([*lines, "Answer:"]))[0, -1]
    letters = [model.tokenizer.get_vocab()[f"\u0120{letter}"] for letter in "ABCD"]  # with a space in front
    scores = [logits[one].item() for one in letters[: len(asked["choices"])]]
    return scores.index(max(scores)) == asked["answer"]


def test_questions_are_asked_one_by_one(model: HookedTransformer) -> None:
    right = [by_hand(model, asked) for asked in QUESTIONS]
    found = mmlu_eval(model, questions=QUESTIONS)
    assert found["num_correct"] == sum(right)
    assert found["num_total"] == 5
    assert found["accuracy"] == sum(right) / 5
    by_subject = {name: [did for did, one in zip(right, QUESTIONS, strict=True) if one["subject"] == name]
                  for name in ("people", "places")}  # fmt: skip
    assert found["subject_scores"] == {name: sum(each) / len(each) for name, each in by_subject.items()}


def test_what_is_asked_can_be_chosen(model: HookedTransformer) -> None:
    assert list(mmlu_eval(model, subjects="places", questions=QUESTIONS)["subject_scores"]) == ["places"]
    found = mmlu_eval(model, None, ["people", "places"], num_samples=1, questions=QUESTIONS)
    assert found["num_total"] == 2
    assert found["num_correct"] == by_hand(model, QUESTIONS[0]) + by_hand(model, QUESTIONS[2])


def test_questions_of_the_hub(model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All subjects in one data set; without the package that downloads it, it is told what to install."""
    asked_for = []
    datasets = ModuleType("datasets")
    datasets.load_dataset = lambda *what, **how: asked_for.append((what, how)) or QUESTIONS  # pyright: ignore
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    assert mmlu_eval(model, split="dev")["num_total"] == 5
    assert asked_for == [(("cais/mmlu", "all"), {"split": "dev"})]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install datasets, or give questions="):
        mmlu_eval(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(subjects="place"), "no questions on 'place'. Did you mean places"),
        (dict(questions=[]), "no question to ask"),
        (dict(num_samples=0), "no question to ask"),
        (dict(tokenizer=object()), "reads text with its own tokenizer"),
    ],
)
def test_mistakes_are_told(model: HookedTransformer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        mmlu_eval(model, **{"questions": QUESTIONS, **options})
