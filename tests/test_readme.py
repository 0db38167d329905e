"""The README: its code runs, as a reader would paste it, and its links and numbers hold wherever it is read."""

import re

import plotly.graph_objects
import pytest
import torch
import transformers

from interp_hooks.loading.listing import markdown
from tests.documents import DEFINED, DOCS, README, ROOT, anchors_of, code_of, links_of, pictures_of, read
from tests.floor import floors
from tests.tiny import unchecked_types

PLACES = (
    "https://github.com/interp-hooks/interp_hooks/blob/main/",
    "https://raw.githubusercontent.com/interp-hooks/interp_hooks/main/",
)
LINES = 180  # without the addresses at its end; what is longer belongs into the manual


@pytest.mark.slow
def test_every_python_block_and_line_runs(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """In one namespace and in an empty folder; figures are made but not shown."""
    shown = []
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    code = list(code_of(read(README)))
    with unchecked_types():  # as it runs for a reader
        for number, one in enumerate(code):
            exec(compile(one, f"README, {number}", "exec"), namespace)
    assert sum("\n" not in one for one in code) >= 20
    assert len(shown) == 2


def test_it_is_what_a_newcomer_reads() -> None:
    text = read(README)
    assert len(DEFINED.sub("", text).strip().splitlines()) <= LINES
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        assert max(map(len, block.splitlines())) <= 100


def test_links_lead_somewhere_from_everywhere() -> None:
    """All are absolute, since PyPI knows no files beside the README; those to this repository name what is there."""
    for link in links_of(read(README)):
        assert link.startswith("https://"), f"{link} leads nowhere on PyPI"
        place = next((place for place in PLACES if link.startswith(place)), None)
        if place is None:
            continue
        path, _, anchor = link.removeprefix(place).partition("#")
        assert (ROOT / path).is_file(), link
        assert not anchor or anchor in anchors_of(read(ROOT / path)), link


def test_every_short_link_is_defined_and_used() -> None:
    text = read(README)
    defined = [label for label, _ in DEFINED.findall(text)]
    body = DEFINED.sub("", text)
    used = re.findall(r"(?<![\w\])])\[([^\]\[]+)\](?![(\[])", re.sub(r"```.*?```", "", body, flags=re.DOTALL))
    labels = {" ".join(label.split()) for label in used}
    assert sorted(labels & {*defined}) == sorted(defined)
    assert len(defined) == len({*defined})


def test_pictures_are_told_and_are_those_of_the_manual() -> None:
    pictures = pictures_of(read(README))
    assert len(pictures) == 2
    for told, address in pictures:
        assert len(told.split()) >= 8
        assert (DOCS / "pictures" / address.rpartition("/")[2]).is_file()


def test_numbers_of_speed_are_those_that_were_measured() -> None:
    (fast,) = re.findall(r"^\* \*\*Fast\*\*, (.*?)^\* ", read(README), re.DOTALL | re.MULTILINE)
    measured = read(DOCS / "performance.md")
    numbers = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)*(?![\w.]\w)", fast)
    assert len(numbers) >= 8
    assert [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", measured)] == []
    for command in re.findall(r"`python (benchmarks/\w+\.py)`", " ".join(fast.split())):
        assert (ROOT / command).is_file()


def test_versions_that_are_needed_are_those_of_the_project() -> None:
    lowest = dict(one.split("==") for one in floors())
    for name, version in re.findall(r"(torch|transformers) >= ([\d.]*\d)", read(README)):
        assert lowest[name] == version
    (python,) = re.findall(r"Python >= ([\d.]+)", read(README))
    assert f'requires-python = ">={python}"' in read(ROOT / "pyproject.toml")


PINNED = re.findall(r"^transformers==([\d.]+)", read(ROOT / "constraints.txt"), re.MULTILINE)[0]


@pytest.mark.skipif(transformers.__version__ != PINNED, reason=f"the list is that of transformers {PINNED}")
def test_families_listed_are_those_that_load() -> None:
    """The manual's list is what `interp-hooks families --markdown` writes, and the README has its number."""
    (listed,) = re.findall(r"<!-- written by [^>]*-->\n(.*?)\n<!-- end -->", read(DOCS / "loading.md"), flags=re.DOTALL)
    assert listed == markdown()
    counts = map(int, re.findall(r"\*\*(\d+) ", listed))
    assert f"[{sum(counts)} model types]" in read(README)
