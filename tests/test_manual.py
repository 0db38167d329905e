"""The manual: its code runs, as a reader would paste it, and what it names is there.

Blocks of a page, and lines of its tables that are code, share one namespace and begin with nothing; written output is
not compared, since it is there to be read. Names in backticks that begin with `interp_hooks.` are public, tests that a
page calls its evidence exist, links between pages lead to pages and headings, and pictures are told in words.
"""

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import plotly.graph_objects
import pytest
import torch

from tests.documents import DOCS, ROOT, anchors_of, code_of, links_of, pages, pictures_of
from tests.tiny import unchecked_types

PAGES = [page.relative_to(DOCS).as_posix() for page in pages()]
WIDEST = 100  # characters of a line of code
NAME = re.compile(r"`(interp_hooks(?:\.\w+)+)`")
FILE = re.compile(r"`((?:tests|benchmarks|demos|notebooks|training|docs)/[\w/.-]+)(?:::(\w+))?`")


@cache
def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@cache
def functions_of(path: str) -> set[str]:
    """The functions of a file."""
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(code_of(text_of(page)))])
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder; figures are made but not shown."""
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda figure: None)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    with unchecked_types():  # as they run for a reader
        for number, block in enumerate(code_of(text_of(page))):
            exec(compile(block, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_there(page: str) -> None:
    for name in NAME.findall(text_of(page)):
        module, _, last = name.rpartition(".")
        assert hasattr(import_module(module), last), f"{page} names {name}"
    for path, function in FILE.findall(text_of(page)):
        assert (ROOT / path).exists(), f"{page} names {path}"
        assert not function or function in functions_of(path), f"{page} names {function} of {path}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links_of(text_of(page)):
        if link.startswith(("http", "mailto")):
            continue
        path, _, anchor = link.partition("#")
        target = ((DOCS / page).parent / path).resolve() if path else DOCS / page
        if target.is_relative_to(DOCS / "reference"):
            continue  # made of docstrings when the manual is built
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors_of(text_of(target.relative_to(DOCS).as_posix())), (
            f"{page} links to {link}"
        )


@pytest.mark.parametrize("page", [page for page in PAGES if pictures_of(text_of(page))])
def test_pictures_are_told_in_words(page: str) -> None:
    for told, _ in pictures_of(text_of(page)):
        assert len(told.split()) >= 8, f"{page} does not say what is seen"


@pytest.mark.parametrize("page", PAGES)
def test_code_is_no_wider_than_the_page(page: str) -> None:
    for block in re.findall(r"^```\w*\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            assert len(line) <= WIDEST, f"{page}: {line}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert {*PAGES} == listed - {"reference/index.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if re.match(r"methods/(?!index)", page)])
def test_a_method_says_what_a_reader_has_to_know(page: str) -> None:
    """Its calls, a source, its cost, what misleads, an example, and what it was tested on."""
    text = text_of(page)
    assert NAME.search(text.partition("\n## ")[0]), f"{page} does not begin with the calls"
    assert re.search(r"https?://", text), f"{page} has no source"
    assert any(code_of(text)), f"{page} has no example"
    for heading in ("Definition", "Cost", "Pitfalls", "Tested on"):
        assert f"\n## {heading}\n" in text, f"{page} has no section {heading}"
    assert any(function for _, function in FILE.findall(text.partition("\n## Tested on\n")[2])), f"{page} has no test"
