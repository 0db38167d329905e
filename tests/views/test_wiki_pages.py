"""The wiki's fixed pages: colours are those of all pages, and nothing in them can run a text or ask a network."""

import json
import re

import pytest

from interp_hooks.studies.wikis.pages import DIGITS, STATIC, STEPS, UNKNOWN, search_key
from interp_hooks.views.adapting import AT_NIGHT as NIGHT
from interp_hooks.views.adapting import DEEP, FAINT, INK, NEGATIVE, PALE_POSITIVE, PAPER, POSITIVE
from interp_hooks.views.tokens import _VISIBLE

FILES = sorted(STATIC.iterdir())
NAMES = {
    "ink": INK,
    "faint": FAINT,
    "paper": PAPER,
    "accent": POSITIVE,
    "alarm": NEGATIVE,
    "pale": PALE_POSITIVE,
    "deep": DEEP,
}


def test_colours_are_those_of_figures() -> None:
    day, night = (STATIC / "page.css").read_text(encoding="utf-8").split("(prefers-color-scheme: dark)", 1)
    for name, colour in NAMES.items():
        assert f"--{name}: {colour};" in day
        assert f"--{name}: {NIGHT[colour]};" in night


def test_the_scripts_decode_what_python_writes() -> None:
    unit = (STATIC / "unit.js").read_text(encoding="utf-8")
    assert f'DIGITS = "{DIGITS}"' in unit
    assert f"UNKNOWN = {UNKNOWN}, STEPS = {STEPS};" in unit
    seen = re.search(r"SEEN = (\{.*?\})", (STATIC / "wiki.js").read_text(encoding="utf-8"))
    assert seen is not None
    assert json.loads(seen[1]) == _VISIBLE
    assert [search_key(text) for text in (" The", "the\n", "  ")] == ["the", "the", "  "]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_runs_texts_or_leads_outside(path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|\bfetch\(|XMLHttp|import\(", source
    )
    assert set(re.findall(r"https?://[^\"' ]+", source)) <= {"http://www.w3.org/2000/svg"}
    if path.suffix == ".html":
        assert "default-src 'none'" in source
        assert not re.findall(r"<script>|\son\w+=|style=", source)
