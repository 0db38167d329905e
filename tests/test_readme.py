"""Every Python block of the README runs, in order, in one namespace, as a reader would paste it."""

import re
from pathlib import Path

import plotly.graph_objects
import pytest

from interp_hooks.loading.listing import markdown

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_every_python_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block raises; figures are made but not shown."""
    shown = []
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda figure: shown.append(figure))
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert len(blocks) >= 4
    assert len(shown) == 1


def test_families_listed_are_those_that_load() -> None:
    """The README's list is what `interp-hooks families --markdown` writes."""
    text = README.read_text(encoding="utf-8")
    (listed,) = re.findall(r"<!-- written by [^>]*-->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert listed == markdown()
