"""The training week: every day runs with its solutions, and its checks tell right answers from blank and wrong ones.

A notebook holds each exercise once: a blank cell (`exercise-1-1`), a check (`check-1-1`), a hint and the solution in
folded cells (`hint-1-1`, `solution-1-1`). Cells are executed in this process, in one namespace; where an exercise
comes, its blank and the wrong answers of `week_answers` have to fail its check first. What the other cells show then is
what the notebook holds.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install interp-hooks[notebooks]")

from tests.notebook_shell import Shell, fresh_shell  # noqa: E402
from tests.test_notebooks import STORE, assert_as_stored, code_of, told  # noqa: E402
from tests.week_answers import RIGHT, WRONG  # noqa: E402

WEEK = Path(__file__).parents[1] / "notebooks" / "week"
DAYS = sorted(WEEK.glob("*.ipynb"))
SOLUTION = re.compile(r"```python\n(.*?)\n```", re.DOTALL)

each_day = pytest.mark.parametrize("path", DAYS, ids=lambda path: path.stem)


def cells(path: Path) -> dict[str, str]:
    """The sources of a notebook's cells, by their ids."""
    return {cell["id"]: "".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}


def exercises(path: Path) -> list[str]:
    """The numbers of a notebook's exercises, as ids of cells have them: 1-1, 1-2, ..."""
    return [name.partition("-")[2] for name in cells(path) if name.startswith("exercise-")]


def solution(source: str) -> str:
    """The code within a folded cell."""
    (code,) = SOLUTION.findall(source)
    return code


@each_day
def test_it_is_made_of_whole_exercises_and_opens_elsewhere(path: Path) -> None:
    found, sources = exercises(path), cells(path)
    assert 5 <= len(found) <= 8
    order = [name for name in sources if re.match(r"(exercise|check|hint|solution)-", name)]
    assert order == [f"{kind}-{number}" for number in found for kind in ("exercise", "check", "hint", "solution")]
    for number in found:
        assert "..." in sources[f"exercise-{number}"] or "NotImplementedError" in sources[f"exercise-{number}"]
        for kind in ("hint", "solution"):
            assert sources[f"{kind}-{number}"].startswith("<details>")
        assert any(f"### Exercise {number.replace('-', '.')}:" in source for source in sources.values())
    assert f"/blob/main/notebooks/week/{path.name})" in next(iter(sources.values()))
    assert "%pip" in sources["setup"]
    assert "notebooks/week" in sources["setup"]


@pytest.mark.slow
@each_day
@pytest.mark.filterwarnings("default")  # warnings are shown to a reader, and not stored
def test_checks_tell_right_from_blank_and_wrong(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(WEEK)
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells}
    with fresh_shell(monkeypatch) as shell:
        for cell in code_of(notebook):
            kind, _, number = cell.id.partition("-")
            if kind == "exercise":
                right = solution(sources[f"solution-{number}"])
                with torch.random.fork_rng():  # what comes next knows nothing of these tries
                    try_answers(shell, number, cell.source, sources[f"check-{number}"], right)
                cell.outputs = shell.run(right)
            else:
                cell.outputs = shell.run(cell.source)
            if kind == "check":
                assert f"Exercise {number.replace('-', '.')} is right." in "".join(told(cell))
    figures = [output.data[STORE.FIGURE] for cell in code_of(notebook) for output in cell.outputs if shows(output)]
    assert len(figures) >= 3
    assert all(figure["data"] for figure in figures)
    assert_as_stored(path, notebook)


def shows(output: Any) -> bool:
    """Whether an output is a figure."""
    return STORE.FIGURE in output.get("data", {})


def try_answers(shell: Shell, number: str, blank: str, check: str, right: str) -> None:
    """The blank and wrong answers fail the check, other right ones pass it."""
    exercise = number.replace("-", ".")
    title = f"Exercise {exercise}"
    shell.run(blank)
    with pytest.raises(AssertionError, match=f"^{title}: it is still blank"):
        shell.run(check)
    assert WRONG[exercise]
    for wrong in WRONG[exercise]:
        shell.run(f"{right}\n{wrong[1:]}" if wrong.startswith("+") else wrong)
        with pytest.raises(AssertionError, match=f"^{title}: (?!it is still blank|your answer raised)"):
            shell.run(check)
    for other in RIGHT.get(exercise, []):
        shell.run(other)
        shell.run(check)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda z, W_O: z[9], "your answer raised IndexError: index 9 is out of bounds"),
        (lambda z, W_O: None, "is None; does the function return something"),
        (lambda z, W_O: z.tolist(), "must be a tensor, it is a list"),
        (lambda z, W_O: z, "must have the shape \\[2, 5, 3, 6\\], it has \\[2, 5, 3, 4\\]"),
        (lambda z, W_O: (z @ W_O[0]) / 0, "nan or infinite"),
    ],
)
def test_what_is_no_answer_at_all_is_told(answer: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(WEEK)
    import checks  # pyright: ignore[reportMissingImports]

    with pytest.raises(checks.NotRight, match=f"^Exercise 1.2: .*{said}"):
        checks.heads_write(answer)


def test_wrong_answers_are_of_exercises() -> None:
    assert {*RIGHT} < {*WRONG} == {number.replace("-", ".") for path in DAYS for number in exercises(path)}
