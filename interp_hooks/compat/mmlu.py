"""Multiple-choice questions of 57 subjects (MMLU: Hendrycks et al. 2021, arXiv 2009.03300)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from interp_hooks.errors import BadInput, TokenError, nearest
from interp_hooks.hooks.modes import study
from interp_hooks.model.transformer import HookedTransformer

LETTERS = "ABCD"


@study
def mmlu_eval(
    model: HookedTransformer,
    tokenizer: Any = None,
    subjects: str | Sequence[str] | None = None,
    split: str = "test",
    num_samples: int | None = None,
    *,
    questions: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """How often the letter of the right choice is the likeliest letter after a question and its choices.

    No example stands before the question ("zero-shot"). The result has "accuracy", "num_correct", "num_total" and
    "subject_scores", the accuracy by subject. `num_samples` is the largest number of questions of each subject.
    Questions come from the hub's `cais/mmlu`, or are given as `questions`: mappings with "question", "choices" (up to
    four), "answer" (the index of the right choice) and "subject".

    Raises:
        BadInput: an unknown subject, a tokenizer that is not the model's, or no question.
        TokenError: a letter that is not one token.
        ImportError: the package `datasets`, which downloads the questions, is not installed.
    """
    if tokenizer is not None and tokenizer is not model.tokenizer:
        raise BadInput("the model reads text with its own tokenizer; model.set_tokenizer(...) gives it another one")
    wanted = [subjects] if isinstance(subjects, str) else subjects
    letters = [_letter(model, letter) for letter in LETTERS]
    right: dict[str, list[bool]] = defaultdict(list)
    for asked in _chosen(_of_the_hub(split) if questions is None else questions, wanted, num_samples):
        log_odds = model(prompt(asked), logits_pos=-1)[0, 0, letters[: len(asked["choices"])]]
        right[asked["subject"]].append(int(log_odds.argmax()) == asked["answer"])
    answers = [one for subject in right.values() for one in subject]
    if not answers:
        raise BadInput("there is no question to ask")
    return {
        "accuracy": sum(answers) / len(answers),
        "num_correct": sum(answers),
        "num_total": len(answers),
        "subject_scores": {subject: sum(each) / len(each) for subject, each in right.items()},
    }


def prompt(asked: Mapping[str, Any]) -> str:
    """A question and its choices as text, up to where the letter has to follow."""
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, asked["choices"], strict=False))
    return f"Question: {asked['question']}\nChoices:\n{choices}Answer:"


def _letter(model: HookedTransformer, letter: str) -> int:
    """The token of a letter that follows "Answer:": with a space in front, if the two are one token."""
    for text in (f" {letter}", letter):
        ids = model.text.answer("Answer:", text)
        if len(ids) == 1:
            return ids[0]
    raise TokenError(f"{letter!r} is not one token of this model's tokenizer, so it cannot be the answer")


def _chosen(
    questions: Iterable[Mapping[str, Any]], subjects: Sequence[str] | None, most: int | None
) -> Iterator[Mapping[str, Any]]:
    """The questions of some subjects (None: all), at most `most` of each."""
    seen: dict[str, int] = defaultdict(int)
    for asked in questions:
        seen[asked["subject"]] += 1
        if (subjects is None or asked["subject"] in subjects) and (most is None or seen[asked["subject"]] <= most):
            yield asked
    if unknown := [subject for subject in subjects or () if subject not in seen]:
        raise BadInput(f"there are no questions on {unknown[0]!r}.{nearest(unknown[0], seen)}")


def _of_the_hub(split: str) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the questions come from the hub: pip install datasets, or give questions=") from error
    return load_dataset("cais/mmlu", "all", split=split)
