"""Every Python block of the README runs, in order, in one namespace, as a reader would paste it."""

import re
from pathlib import Path

import plotly.graph_objects
import pytest

from interp_hooks.loading.listing import markdown

README = Path(__file__).parents[1] / "README.md"


# Python blocks, and the lines of tables that are code.
CODE = re.compile(r"```python\n(?P<block>.*?)```|^\|[^|`]*\| `(?P<line>[^`]*)` \|$", flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_python_block_and_line_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """None raises; figures are made but not shown."""
    shown = []
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda figure: shown.append(figure))
    namespace: dict[str, object] = {}
    found = [match.groupdict() for match in CODE.finditer(README.read_text(encoding="utf-8"))]
    for code in found:
        exec(compile(code["block"] or code["line"], str(README), "exec"), namespace)
    assert sum(code["block"] is not None for code in found) >= 6
    assert sum(code["line"] is not None for code in found) >= 19
    assert len(shown) == 3


def test_families_listed_are_those_that_load() -> None:
    """The README's list is what `interp-hooks families --markdown` writes."""
    text = README.read_text(encoding="utf-8")
    (listed,) = re.findall(r"<!-- written by [^>]*-->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert listed == markdown()
