"""The examples in the docstrings of this room's functions run, as those of the names at the root do."""

from pathlib import Path
from typing import Any

import pytest

from interp_hooks import views
from tests.test_public_names import examples_of, run_example, world

__all__ = ["world"]
NAMES = [name for name in views.__all__ if examples_of(getattr(views, name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_view_runs(
    name: str, world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "to_png":
        pytest.importorskip("resvg_py", reason="resvg is not installed: pip install interp-hooks[png]")
    monkeypatch.chdir(tmp_path)
    run_example(name, getattr(views, name), world)


def test_functions_have_examples() -> None:
    assert {*views.__all__} - {*NAMES} <= {"get_corner", "to_numpy"}
