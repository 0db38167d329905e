"""What a task says of itself, and what it leaves to its maker."""

import torch

from interp_hooks import LogitDiff, Task
from tests.experiments.by_hand import model_of
from tests.tiny import assert_close

CLEAN, CORRUPT = torch.tensor([[1, 2, 3], [1, 4, 3]]), torch.tensor([[1, 5, 3], [1, 6, 3]])
ANSWER, WRONG = torch.tensor([7, 8]), torch.tensor([8, 7])


def task(**fields: object) -> Task:
    given = dict(clean=CLEAN, corrupt=CORRUPT, answer=ANSWER, wrong=WRONG, metric=LogitDiff(ANSWER, WRONG))
    return Task(name="mine", **given | fields)


def test_a_check_scores_the_clean_prompts() -> None:
    model = model_of("gpt2")
    logits = model(CLEAN)[:, -1]
    difference = logits[[0, 1], ANSWER] - logits[[0, 1], WRONG]
    accuracy, scores = task().check(model).values
    assert_close(scores, difference, 1e-9)
    assert accuracy.tolist() == (difference > 0).double().tolist()


def test_positions_are_named_after_their_tokens() -> None:
    assert task().labels == ["1", "<2>", "3"]
    assert task(labels=["BOS", "key", "end"]).labels == ["BOS", "key", "end"]
    assert not task(clean=["a b", "a c"], corrupt=["a d", "a e"]).labels, "text has none without a tokenizer"


def test_all_prompts_have_one_pattern_unless_told() -> None:
    assert task().template.tolist() == [0, 0]
    assert task(template=torch.tensor([0, 3])).template.tolist() == [0, 3]
    assert len(task()) == 2


def test_it_prints_a_pair_and_no_tensors() -> None:
    assert repr(task()).splitlines() == [
        "mine: 2 pairs of prompts, metric logit_diff; the first pair:",
        "    clean    [1, 2, 3]",
        "    corrupt  [1, 5, 3]",
        "    answer   7",
        "positions: none has a name",
    ]
    in_words = task(clean="a b", corrupt="a d", answer=" c", positions={"end": torch.tensor([-1])})
    assert "clean    a b\n" in repr(in_words)
    assert repr(in_words).endswith("positions: end")
