"""What all pages have in common: words for what is drawn, order, keyboard, contrast, and that they fit a phone."""

import functools
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from interp_hooks import HookedTransformer
from interp_hooks.views.pages import SHARED_STYLE
from tests.views.every_page import PAGES
from tests.views.test_report_in_browser import BROWSER, visit

UNITS = {f"unit_{kind}": f"unit.html#{kind}/1/2" for kind in ("head", "neuron", "sae_feature")}
NAMES = [*PAGES, *UNITS]
in_a_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome"),
]

DRAWN = {"svg", "img", "canvas"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
HOLDS_WORDS = {"button", "a", "summary", "label"}  # what stands in these is named by them


class Page(HTMLParser):
    """What is wrong with a page, as its reader without eyes, without a mouse or without a network meets it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: set[str] = set()
        self.levels: list[int] = []
        self.drawn = 0
        self.language: str | None = None
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self._of_any(tag, given)
        if tag == "html":
            self.language = given.get("lang")
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in VOID:
            self.open.append((tag, given, []))
        elif tag == "img":
            self._drawn(tag, given, "")
        elif tag == "input" and not given.get("aria-label") and "label" not in self._tags():
            self.faults.append(f"an input without a label: {given}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_data(self, data):
        for *_, texts in self.open:
            texts.append(data)

    def handle_endtag(self, tag):
        if tag not in self._tags():
            return
        while True:
            name, given, texts = self.open.pop()
            self._complete(name, given, "".join(texts).strip())
            if name == tag:
                return

    def _tags(self):
        return [tag for tag, *_ in self.open]

    def _of_any(self, tag, given):
        if (name := given.get("id")) is not None:
            if name in self.ids:
                self.faults.append(f"two elements are called {name}")
            self.ids.add(name)
        if int(given.get("tabindex") or 0) > 0:
            self.faults.append(f"{tag} changes the order of Tab")
        for where in ("src", "href", "xlink:href", "action", "poster"):
            if re.match("(https?:)?//", given.get(where) or ""):
                self.faults.append(f"{tag} leads outside, to {given[where]}")

    def _complete(self, tag, given, text):
        words = given.get("aria-label") or text
        if tag in DRAWN or given.get("role") in ("img", "figure"):
            self._drawn(tag, given, text if tag == "svg" and "title" in given else "")
        if tag == "button" or given.get("role") == "button":
            if not words:
                self.faults.append(f"a button without words: {given}")
            beside = any(one.get("role") == "group" for _, one, _ in self.open)  # arrows go from one to the other
            if (tag != "button" and "tabindex" not in given) or (given.get("tabindex") == "-1" and not beside):
                self.faults.append(f"a button that Tab does not reach: {given}")
        if tag == "a" and "href" in given and not words:
            self.faults.append(f"a link without words: {given}")
        if tag == "select" and not given.get("aria-label") and "label" not in self._tags():
            self.faults.append(f"a select without a label: {given}")
        if tag == "th" and "scope" not in given:
            self.faults.append(f"the head of a table does not say of what: {text}")
        if tag == "title" and not text and self._tags() == ["html", "head"]:
            self.faults.append("the page has no title")

    def _drawn(self, tag, given, text):
        self.drawn += 1
        named = given.get("aria-label") or given.get("alt") or text
        inside = any(one in HOLDS_WORDS or held.get("role") in ("img", "figure") for one, held, _ in self.open)
        if not named and not inside and given.get("aria-hidden") != "true":
            self.faults.append(f"a {tag} without words: {given}")


def in_order(levels: list[int]) -> bool:
    """Whether headings begin with 1, of which there is one, and no level is passed over."""
    return levels[:1] == [1] and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))  # noqa: B905, RUF007


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    """The address of a page by its name; each is made once."""
    folder, model = tmp_path_factory.mktemp("pages"), HookedTransformer.from_pretrained("ioi-tiny")

    @functools.cache
    def made(name: str) -> str:
        if name in UNITS:
            return f"{Path(made('wiki_of_all').removeprefix('file://')).parent.as_uri()}/{UNITS[name]}"
        return PAGES[name](model, folder).as_uri()

    return made


def shown(address: str, folder: Path, inside: str = "", width: int = 1400):
    """A visit to a page, in a frame of some width if something is to be found out there."""
    outer = folder / "outer.html"
    outer.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    if inside:
        frame = f'<iframe src="{address}" width="{width}" height="2500" style="border: 0"></iframe>'
        outer.write_text(f"<!DOCTYPE html><body>{frame}<script>{inside}</script>", encoding="utf-8")
    return visit(outer, folder, "--allow-file-access-from-files", "--window-size=1600,2600")


@pytest.mark.parametrize("name", [pytest.param(name, marks=in_a_browser) for name in NAMES])
def test_a_page_says_what_it_shows_and_tab_reaches_what_a_click_reaches(name: str, page, tmp_path: Path) -> None:
    seen = shown(page(name), tmp_path)
    found = Page(seen.dom)
    assert found.faults == []
    assert found.drawn, "there is something to see"
    assert found.language == "en"
    assert in_order(found.levels) or name == "figure", found.levels
    assert (seen.console, seen.asked) == ([], [])


def measured(address: str, folder: Path, code: str, width: int = 1400) -> dict:
    """What some code notes in `seen` about a page, `page`, after all of it is drawn."""
    probe = f"""
addEventListener("load", () => setTimeout(() => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, seen = {{}};
  {code}
  document.body.append(Object.assign(document.createElement("pre"), {{id: "seen", textContent: JSON.stringify(seen)}}));
}}, 1500));
"""
    visited = shown(address, folder, probe, width)
    return json.loads(html.unescape(re.findall('<pre id="seen">(.*?)</pre>', visited.dom)[0]))


MEASURE = """
  const all = [...page.querySelectorAll("main *")];
  const size = one => parseFloat(page.defaultView.getComputedStyle(one).fontSize);
  const told = one => [...one.childNodes].some(part => part.nodeType === 3 && part.textContent.trim());
  const touched = all.filter(one => one.matches("button:not(.modebar-btn), select, input[type=search]"));
  const targets = touched.map(one => one.getBoundingClientRect());
  seen.beyond = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  seen.smallest = Math.min(99, ...all.filter(told).filter(one => !one.closest("svg, script, style")).map(size));
  seen.target = Math.min(99, ...targets.filter(box => box.width).map(box => box.height));
"""


@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("name", [pytest.param(name, marks=in_a_browser) for name in NAMES])
def test_a_page_fits_and_can_be_read_and_touched(name: str, width: int, page, tmp_path: Path) -> None:
    found = measured(page(name), tmp_path, MEASURE, width)
    assert found["beyond"] <= 0, "the page itself scrolls sideways"
    assert found["smallest"] >= 12, "pixels of the smallest text"
    assert found["target"] >= 24, "pixels of the smallest target"


PRINT = """
  const widths = () => [...page.querySelectorAll(".figure .main-svg:first-child")].map(one => one.clientWidth);
  seen.screen = widths();
  frame.contentWindow.dispatchEvent(new Event("beforeprint"));
  seen.print = widths();
  frame.contentWindow.dispatchEvent(new Event("afterprint"));
  seen.after = widths();
"""


@pytest.mark.parametrize("name", [pytest.param("report", marks=in_a_browser)])
def test_figures_are_as_wide_as_a_sheet_when_they_are_printed(name: str, page, tmp_path: Path) -> None:
    found = measured(page(name), tmp_path, PRINT)
    assert found["screen"]
    assert min(found["screen"]) > 1000
    assert {*found["print"]} == {680}
    assert found["after"] == found["screen"]


@pytest.mark.parametrize(
    ("mutant", "fault"),
    [
        ("<svg></svg>", "a svg without words"),
        ('<img src="x.png">', "a img without words"),
        ('<div role="figure"></div>', "a div without words"),
        ("<button></button>", "a button without words"),
        ('<div role="button">go</div>', "a button that Tab does not reach"),
        ('<button tabindex="-1">go</button>', "a button that Tab does not reach"),
        ('<p id="a"></p><p id="a"></p>', "two elements are called a"),
        ("<input>", "an input without a label"),
        ("<th>x</th>", "the head of a table"),
        ('<a href="x.html"></a>', "a link without words"),
        ('<script src="https://elsewhere.example/x.js"></script>', "leads outside"),
        ('<p tabindex="2">x</p>', "changes the order of Tab"),
    ],
)
def test_what_is_wrong_is_found(mutant: str, fault: str) -> None:
    assert [one for one in Page(f"<html><body>{mutant}</body></html>").faults if fault in one]
    assert not Page('<html><svg aria-label="a map"></svg><button>go</button><label>n <input></label></html>').faults
    assert in_order([1, 2, 3, 2])
    assert not in_order([1, 3])


# ------------------------------------------------------------------------------------------------------------ contrast

DAY, NIGHT = SHARED_STYLE.split("@media screen and (prefers-color-scheme: dark)", 1)
TINT = re.search(r"calc\(var\(--share, 0\) \* (\d+)%\)", SHARED_STYLE)


def colours(css: str) -> dict[str, tuple[float, ...]]:
    found = re.findall(r"--(\w+): #(\w{6})", css)
    return {name: tuple(int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, code in found}


def luminance(colour: tuple[float, ...]) -> float:
    """As WCAG 2.2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("css", [DAY, NIGHT], ids=["day", "night"])
def test_text_stands_out(css: str) -> None:
    """At least 4.5 to 1, as WCAG 2.2 asks of text at level AA; 3 to 1 of what is drawn."""
    found = colours(css)
    assert contrast((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) == pytest.approx(21)
    for text in ("ink", "muted", "accent", "alarm"):
        for ground in ("paper", "inset"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    assert contrast(found["paper"], found["accent"]) >= 4.5
    assert TINT is not None
    most = int(TINT[1]) / 100
    for tone in ("accent", "alarm"):
        ground = tuple(most * a + (1 - most) * b for a, b in zip(found[tone], found["paper"], strict=True))
        assert contrast(found["ink"], ground) >= 4.5, tone
    assert contrast(found["deep"], found["paper"]) >= 3
