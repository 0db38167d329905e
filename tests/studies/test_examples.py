"""The examples in the docstrings of this room's functions run, as those of the names at the root do."""

from pathlib import Path
from typing import Any

import pytest

from interp_hooks import studies
from tests.test_public_names import examples_of, run_example, world

__all__ = ["world"]
NAMES = [name for name in studies.__all__ if examples_of(getattr(studies, name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_study_runs(
    name: str, world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    names = world | {one: getattr(studies, one) for one in studies.__all__}
    run_example(name, getattr(studies, name), names)


def test_functions_have_examples() -> None:
    functions = {name for name in studies.__all__ if callable(getattr(studies, name)) and name.islower()}
    assert functions <= {*NAMES}
