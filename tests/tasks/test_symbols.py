"""Tasks in tokens, by scanning every prompt for what its answer follows from."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import tasks
from interp_hooks.errors import BadInput
from interp_hooks.tasks import symbols


def rows(task: tasks.Task) -> Any:
    assert isinstance(task.clean, Tensor)
    assert isinstance(task.corrupt, Tensor)
    return zip(task.clean.tolist(), task.corrupt.tolist(), task.answer.tolist(), task.wrong.tolist(), strict=True)


@pytest.mark.parametrize("bos", [0, 7, None])
def test_induction(bos: int | None) -> None:
    """Before the end its token came once, followed by the answer; in the corrupt prompt by the distractor."""
    task = tasks.induction(50, 20, length=6, bos=bos)
    for place, (clean, corrupt, answer, (wrong,)) in enumerate(rows(task)):
        if bos is not None:
            assert clean[0] == corrupt[0] == bos
        front = bos is not None
        half = clean[front : front + 6]
        assert len(set(half)) == 6
        assert bos not in clean[front:]
        first = clean.index(clean[-1], front)
        assert task.positions["first"][place] == first
        assert task.positions["next"][place] == first + 1
        assert first < front + 5
        assert (clean[first + 1], corrupt[first + 1]) == (answer, wrong)
        assert corrupt[-1] == clean[-1]
        assert wrong not in half
        for before, after in itertools.pairwise(clean[front + 6 :]):
            assert half[(half.index(before) + 1) % 6] == after
    assert len({tuple(clean) for clean, *_ in rows(task)}) == 50


def test_key_value_recall() -> None:
    task = tasks.key_value_recall(30, 8, 9, pairs=4)
    for place, (clean, corrupt, answer, wrong) in enumerate(rows(task)):
        told = dict(zip(clean[1:-1:2], clean[2:-1:2], strict=True))
        assert len(told) == len(set(told.values())) == 4
        assert set(told) <= set(range(1, 9))
        assert set(told.values()) <= set(range(9, 18))
        assert corrupt[:-1] == clean[:-1]
        assert told[clean[-1]] == answer
        assert told[corrupt[-1]] == wrong[0] != answer
        assert sorted([answer, *wrong]) == sorted(told.values())
        assert clean[task.positions["key"][place]] == clean[-1]
        assert clean[task.positions["value"][place]] == answer


@pytest.mark.parametrize("n", [None, 20])
def test_modular_addition(n: int | None) -> None:
    task = tasks.modular_addition(7, n=n)
    sums = {tuple(clean) for clean, *_ in rows(task)}
    assert len(sums) == (n or 49)
    for (a, b, equals), (also_a, other, _), answer, wrong in rows(task):
        assert equals == 7
        assert also_a == a
        assert answer == (a + b) % 7
        assert wrong[0] == (a + other) % 7
        assert sorted([answer, *wrong]) == list(range(7))


def depths(prompt: list[int]) -> list[int]:
    return list(itertools.accumulate(1 if token == symbols.OPEN else -1 for token in prompt[1:-1]))


def test_brackets() -> None:
    task = tasks.brackets(200, length=10)
    kinds = [0, 0, 0, 0]
    for place, (clean, corrupt, answer, (wrong,)) in enumerate(rows(task)):
        assert len(clean) == len(corrupt) == 12
        assert (clean[0], clean[-1]) == (symbols.START, symbols.END)
        assert {answer, wrong} == {0, 1}
        for prompt, balanced in ((clean, answer), (corrupt, wrong)):
            reached = depths(prompt)
            assert (reached[-1] == 0 and min(reached) >= 0) == bool(balanced)
        kind = int(task.template[place])
        kinds[kind] += 1
        other = depths(clean if answer == 0 else corrupt)
        if kind == 1:
            assert abs(other[-1]) == 2
            assert sum(one != two for one, two in zip(clean, corrupt, strict=True)) == 1
        if kind == 2:
            assert other[-1] == 0 > min(other)
            assert sum(one != two for one, two in zip(clean, corrupt, strict=True)) == 2
    assert kinds[0] == 100
    assert min(kinds) > 10


def test_features_of_brackets() -> None:
    """Elevation counts from the right: what is open there has to be closed later."""
    prompts = [("(())()", True, True), ("())(()", True, False), ("((()))(", False, False), ("()))", False, True)]
    for text, count, horizon in prompts:
        tokens = torch.tensor([[symbols.OPEN if one == "(" else symbols.CLOSE for one in text]])
        by_hand = [text[place:].count(")") - text[place:].count("(") for place in range(len(text))]
        assert symbols.elevation(tokens)[0].tolist() == by_hand
        assert symbols.count_is_right(tokens).tolist() == [count]
        assert symbols.horizon_is_kept(tokens).tolist() == [horizon]
        assert symbols.is_balanced(tokens).tolist() == [count and horizon]
        assert symbols.starts_open(symbols.enclosed(tokens)).tolist() == [text[0] == "("]


def text_of(row: Tensor) -> str:
    return "".join({symbols.OPEN: "(", symbols.CLOSE: ")"}[token] for token in row.tolist())


def test_all_near_misses_of_a_row_are_drawn() -> None:
    """Of all rows that one change can make of (())(), those of each kind, and no others."""
    row = torch.tensor([[symbols.OPEN if one == "(" else symbols.CLOSE for one in "(())()"]]).expand(400, -1)
    generator = torch.Generator().manual_seed(0)
    turned = {"(())()"[:i] + "()"["(())()"[i] == "("] + "(())()"[i + 1 :] for i in range(6)}
    assert {text_of(one) for one in symbols.one_turned(row, generator)} == turned
    left_out = {"(())()"[:i] + "(())()"[i + 1 :] for i in range(6)}
    assert {text_of(one) for one in symbols.one_left_out(row, generator)} == left_out
    exchanged = set()
    for i, j in itertools.combinations(range(6), 2):
        one = list("(())()")
        one[i], one[j] = one[j], one[i]
        heights = list(itertools.accumulate(1 if bracket == "(" else -1 for bracket in one))
        exchanged |= {"".join(one)} if min(heights) < 0 else set()
    assert {text_of(one) for one in symbols.two_exchanged(row, generator)} == exchanged


def test_random_rows_that_do_not_match() -> None:
    """All of four brackets but the two that match; of odd length all."""
    generator = torch.Generator().manual_seed(0)
    drawn = {text_of(one) for one in symbols.unbalanced_rows(400, 4, generator)}
    assert drawn == {"".join(one) for one in itertools.product("()", repeat=4)} - {"(())", "()()"}
    assert len({text_of(one) for one in symbols.unbalanced_rows(200, 3, generator)}) == 8


def test_all_balanced_rows_are_drawn() -> None:
    """The 14 of length 8, about as often."""
    task = tasks.brackets(1400, length=8, seed=1)
    balanced = [tuple(clean if answer else corrupt) for clean, corrupt, answer, _ in rows(task)]
    counts = {row: balanced.count(row) for row in set(balanced)}
    assert len(counts) == 14
    assert 60 < min(counts.values()) <= max(counts.values()) < 145


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: tasks.induction(5, 30, seed=seed),
        lambda seed: tasks.key_value_recall(5, 6, 6, seed=seed),
        lambda seed: tasks.modular_addition(11, n=10, seed=seed),
        lambda seed: tasks.brackets(5, seed=seed),
    ],
)
def test_a_seed_draws_the_same_again(draw: Any) -> None:
    one, again, other = draw(2), draw(2), draw(3)
    assert torch.equal(one.clean, again.clean)
    assert torch.equal(one.corrupt, again.corrupt)
    assert not torch.equal(one.clean, other.clean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.induction(0, 30), "n must be at least 1, got 0"),
        (lambda: tasks.induction(2, 11, length=10), "d_vocab must be at least 12, got 11"),
        (lambda: tasks.key_value_recall(2, 3, 9), "n_keys must be at least 4, got 3"),
        (lambda: tasks.modular_addition(5, n=26), "n must be 1..25, got 26"),
        (lambda: tasks.brackets(2, length=7), "an even length and near_misses in 0..1, got 7 and 0.5"),
    ],
)
def test_mistakes_are_told(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()
