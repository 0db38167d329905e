"""SAELens' own files are read to SAELens' own numbers (benchmarks/reference_dictionaries.py wrote both)."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from interp_hooks import dictionaries
from tests.tiny import assert_close

FOLDER = Path(__file__).parents[1] / "data" / "dictionaries"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def test_all_architectures_are_there() -> None:
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
def test_saelens_numbers(name: str) -> None:
    numbers, found = load_file(FOLDER / name / "numbers.safetensors"), dictionaries.load(FOLDER / name)
    assert_close(found.encode(numbers["x"]), numbers["features"], 1e-12)
    assert_close(found(numbers["x"]), numbers["out"], 1e-12)
    assert 0 < int(numbers["features"].gt(0).sum()) < numbers["features"].numel()
