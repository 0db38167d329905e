import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.offline
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views import report as report_module
from interp_hooks.views.attention import attention_pattern
from interp_hooks.views.figures import bars
from interp_hooks.views.report import Section, check_destination, render, write_report
from tests.views.small import HOSTILE, line


class Page(HTMLParser):
    """Texts by tag, attributes, and how tags are nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def sections() -> list[Section]:
    return [
        Section(heading="First", text="One paragraph.\n\nAnother."),
        Section(heading="Bars", figure=bars(line(torch.ones(2, 2), ["a", "b"]))),
        Section(heading="Pattern", figure=attention_pattern(torch.eye(2), ["a", "b"])),
        Section(heading="Table", table=pd.DataFrame({"name": ["x"], "number": [0.12345], "count": [3]}), code="run me"),
    ]


def test_it_holds_everything_once_and_names_no_outside_address():
    page = render("Title", sections())
    assert page.count(plotly.offline.get_plotlyjs()) == 1
    parsed = Page(page)
    assert not parsed.open
    ours = page.replace(plotly.offline.get_plotlyjs(), "")
    assert not re.search(r"https?:|//[a-z]|\bsrc\s*=|\bhref\s*=|url\(|@import", ours)
    names = {name for _, name, _ in parsed.attributes}
    named = {"lang", "charset", "http-equiv", "content", "name", "class", "type"}
    assert names <= named | {"role", "aria-label", "tabindex", "scope"}
    assert "default-src 'none'" in page


def test_what_stands_in_it():
    parsed = Page(render("Title", sections()))
    assert parsed.of("h1") == ["Title"]
    assert parsed.of("h2") == ["First", "Bars", "Pattern", "Table"]
    assert "Another." in parsed.of("p")
    assert parsed.of("pre") == ["run me"]
    assert parsed.of("th") == ["name", "number", "count"]
    assert parsed.of("td") == ["x", "0.123", "3"]


def test_figures_come_back_as_they_were_given():
    figure = attention_pattern(torch.eye(2), [*HOSTILE[:2]], title=HOSTILE[0])
    (source,) = [
        text for text in Page(render("t", [Section(heading="h", figure=figure)])).of("script") if text[0] == "{"
    ]
    assert json.loads(source) == json.loads(figure.to_json())
    assert not set("<>&") & set(source)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_never_markup(text):
    given = Section(heading=text, text=text, code=text, table=pd.DataFrame({text: [text]}))
    tags_of_plain = [tag for tag, _ in Page(render("t", [Section(**vars(given) | dict.fromkeys(["text"], "t"))])).texts]
    parsed = Page(render(text, [given]))
    assert [tag for tag, _ in parsed.texts] == tags_of_plain
    for tag in ("title", "h1", "h2", "p", "pre", "th", "td"):
        assert text in parsed.of(tag)


def test_an_existing_report_is_replaced_only_by_a_complete_one(tmp_path: Path, monkeypatch):
    place = tmp_path / "report.html"
    place.write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_report(place, "Title", _failing())
    assert place.read_text() == "old"

    def full_disk(*_: object) -> None:
        assert place.read_text() == "old"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(report_module.os, "replace", full_disk)
        with pytest.raises(BadInput, match=r"cannot write .*No space left"):
            write_report(place, "Title", sections())
    assert place.read_text() == "old"
    assert write_report(place, "Title", sections()) == place
    assert place.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def _failing():
    yield Section(heading="First")
    raise RuntimeError("half way")


def test_a_link_stays_a_link_and_permissions_are_the_users_usual_ones(tmp_path: Path):
    target, link, plain = tmp_path / "target.html", tmp_path / "link.html", tmp_path / "plain"
    link.symlink_to(target)
    plain.touch()
    assert write_report(link, "Title", []) == target
    assert link.is_symlink()
    assert target.stat().st_mode == plain.stat().st_mode


def test_places_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no folder .*missing.*; create it first"):
        check_destination(tmp_path / "missing" / "report.html")
    with pytest.raises(BadInput, match="no ordinary file"):
        check_destination(tmp_path)
    with pytest.raises(BadInput, match="no ordinary file"):
        check_destination("/dev/null")
    with pytest.raises(BadInput, match="cannot write"):
        check_destination("/proc/report.html")
    with pytest.raises(BadInput, match="cannot write"):
        check_destination(tmp_path / ("a" * 300))


def test_trying_a_place_leaves_nothing(tmp_path: Path):
    kept = tmp_path / "kept.html"
    kept.write_text("old")
    assert check_destination(kept) == kept
    assert check_destination(tmp_path / "new.html") == tmp_path / "new.html"
    assert [item.name for item in tmp_path.iterdir()] == ["kept.html"]
    assert kept.read_text() == "old"
