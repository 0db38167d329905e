"""What benchmarks measure takes its place in the manual's table."""

import importlib.util
from types import ModuleType

import pytest

from tests.documents import ROOT


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = """# Page

| what | ratio | command |
|---|---|---|
| one | 1.0 | `a.py` |
| two; more | 2.0 | `b.py` |
| three | 3.0 | `a.py` |

The end.
"""


def test_a_row_takes_the_place_of_its_like_or_follows_those_of_its_command(table: ModuleType) -> None:
    page = table.with_rows(PAGE, ["| two; more | 2.5 | `b.py` |", "| four | 4.0 | `b.py` |", "| five | 5 | `c.py` |"])
    before, after = PAGE.splitlines(), page.splitlines()
    assert after[:5] == before[:5]
    assert after[5:7] == ["| two; more | 2.5 | `b.py` |", "| four | 4.0 | `b.py` |"]
    assert after[7:] == [before[6], "| five | 5 | `c.py` |", *before[7:]]


def test_all_benchmarks_that_print_rows_are_run(table: ModuleType) -> None:
    printing = {path.stem for path in table.HERE.glob("*.py") if "table_row(" in path.read_text()} - {"common", "table"}
    assert printing == set(table.MEASURED)


def test_a_row_as_it_stands_changes_nothing(table: ModuleType) -> None:
    page = table.PAGE.read_text()
    rows = [line for line in page.splitlines() if table.is_row(line) and "benchmarks/patching.py" in line]
    assert len(rows) > 5
    assert table.with_rows(page, rows) == page
