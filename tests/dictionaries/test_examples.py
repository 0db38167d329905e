"""The examples in the docstrings of this room run, and every function of it has one."""

import doctest
from pathlib import Path
from typing import Any

import pytest

from interp_hooks import dictionaries
from tests.test_public_names import FLAGS, examples_of, world

__all__ = ["world"]
NAMES = [name for name in dictionaries.__all__ if examples_of(getattr(dictionaries, name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_dictionary_runs(
    name: str, world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = examples_of(getattr(dictionaries, name))
    assert any(name in example.source for example in examples), f"the example of {name} does not use it"
    told: list[str] = []
    test = doctest.DocTest(examples, dict(world), name, None, 0, None)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append).failed == 0, "".join(told)


def test_functions_have_examples() -> None:
    functions = {name for name in dictionaries.__all__ if callable(getattr(dictionaries, name)) and name.islower()}
    assert functions <= {*NAMES}
