"""What the manual says of methods and known circuits is what comes out."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from interp_hooks import ComputationGraph
from tests.tiny import unchecked_types

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods" / "edges.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| ([\w -]+) \| (\d+), (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE
)


@pytest.fixture(scope="module")
def circuits() -> ModuleType:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("circuits")


def test_all_known_models_are_listed(circuits: ModuleType) -> None:
    assert [row[0] for row in ROWS] == list(circuits.KNOWN)
    assert f"| {' | '.join(circuits.METHODS)} |" in PAGE


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_areas_are_those_of_the_manual(circuits: ModuleType, row: tuple[str, ...]) -> None:
    name, n_edges, n_true, *areas = row
    with unchecked_types():  # these are whole searches, of which other tests see the types
        known = circuits.KNOWN[name]()
        graph = ComputationGraph(known.model)
        true = graph.circuit(known.patching_circuit)
        assert (len(graph), len(true)) == (int(n_edges), int(n_true))
        for area, method in zip(areas, circuits.METHODS.values(), strict=True):
            assert abs(circuits.area(method(known), true) - float(area)) < 0.00501
