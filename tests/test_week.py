"""The training week: every day runs with its solutions, and its checks tell right answers from blank and wrong ones.

A notebook holds each exercise once: a blank cell (`exercise-1-1`), a check (`check-1-1`), a hint and the solution in
folded cells (`hint-1-1`, `solution-1-1`). Cells are executed in this process, in one namespace; where an exercise
comes, its blank and the wrong answers of `week_answers` have to fail its check first.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from tests.tiny import unchecked_types
from tests.week_answers import RIGHT, WRONG

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


class Kernel:
    """Executes cells in one namespace, and keeps the figures that a reader would see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespace: dict[str, Any] = {}
        self.figures: list[go.Figure] = []
        monkeypatch.setattr(go.Figure, "show", lambda figure: self.figures.append(figure))

    def run(self, source: str, name: str) -> None:
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), self.namespace)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), name, "eval"), self.namespace)
            if isinstance(shown, go.Figure):
                self.figures.append(shown)


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
@pytest.mark.filterwarnings("default:the classes of")  # are what day 3 is about
def test_checks_tell_right_from_blank_and_wrong(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(WEEK)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    kernel, sources = Kernel(monkeypatch), cells(path)
    code = {cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"}
    with unchecked_types():  # as they run for a reader
        for name, source in sources.items():
            if name not in code or name == "setup":
                continue
            kind, _, number = name.partition("-")
            if kind != "exercise":
                kernel.run(source, name)
                continue
            right = solution(sources[f"solution-{number}"])
            title, check = f"Exercise {number.replace('-', '.')}", sources[f"check-{number}"]
            kernel.run(source, name)
            with pytest.raises(AssertionError, match=f"^{title}: it is still blank"):
                kernel.run(check, name)
            wrong_ones = WRONG[number.replace("-", ".")]
            assert wrong_ones
            for wrong in wrong_ones:
                kernel.run(f"{right}\n{wrong[1:]}" if wrong.startswith("+") else wrong, name)
                with pytest.raises(AssertionError, match=f"^{title}: (?!it is still blank|your answer raised)"):
                    kernel.run(check, f"{name}: {wrong}")
            for other in RIGHT.get(number.replace("-", "."), []):
                kernel.run(other, name)
                kernel.run(check, f"{name}: {other}")
            kernel.run(right, name)
    told = capsys.readouterr().out
    for number in exercises(path):
        assert f"Exercise {number.replace('-', '.')} is right." in told
    assert len(kernel.figures) >= 3
    assert all(figure.data for figure in kernel.figures)


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
