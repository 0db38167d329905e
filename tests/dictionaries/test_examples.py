"""The examples in the docstrings of this room run, and every function of it has one."""

from pathlib import Path
from typing import Any

import pytest

from interp_hooks import dictionaries
from tests.test_public_names import examples_of, run_example, world

__all__ = ["world"]
NAMES = [name for name in dictionaries.__all__ if examples_of(getattr(dictionaries, name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_dictionary_runs(
    name: str, world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example(name, getattr(dictionaries, name), world)


def test_functions_have_examples() -> None:
    functions = {name for name in dictionaries.__all__ if callable(getattr(dictionaries, name)) and name.islower()}
    assert functions <= {*NAMES}
