"""The report as a browser shows it without network: figures are drawn, text is text, nothing is asked for."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from interp_hooks import HookedTransformer, attention_pattern, bars, heatmap
from interp_hooks.views.demo import ioi_report
from interp_hooks.views.report import Section, write_report
from tests.views.small import HOSTILE, line, result, save_checkpoint

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=127.0.0.1:9",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=20000",
    "--net-log-capture-mode=Everything",
    "--enable-logging=stderr",
    "--dump-dom",
]


class Dom(HTMLParser):
    """What is drawn in each `div.figure`, and all texts that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: list[list[str]] = []
        self.texts: list[str] = []
        self.buttons: set[str | None] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        given = dict(attrs)
        classes = (given.get("class") or "").split()
        if "modebar-btn" in classes:
            self.buttons.add(given.get("data-title"))
        if tag == "div" and "figure" in classes:
            self.figures.append([])
        if self.figures and tag == "image" and str(given.get("xlink:href")).startswith("data:image/png"):
            self.figures[-1].append("cells")
        if self.figures and tag == "g" and "point" in classes:
            self.figures[-1].append("bar")

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.texts.append(data)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What came of opening a page: its document, its messages, the addresses it asked for."""

    dom: str
    console: list[str]
    asked: list[str]

    @property
    def title(self) -> str:
        return re.findall("<title>(.*?)</title>", self.dom)[0]


def visit(page: Path, folder: Path) -> Visit:
    log = folder / "net.json"
    files = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    assert BROWSER is not None
    done = subprocess.run([BROWSER, *FLAGS, *files, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    console = [row.partition("CONSOLE")[2] for row in done.stderr.splitlines() if "CONSOLE" in row]
    return Visit(dom=done.stdout, console=console, asked=asked_by_the_page(json.loads(log.read_text())))


def asked_by_the_page(log: dict) -> list[str]:
    """Addresses requested on behalf of a document; the browser's own errands have no origin."""
    events = [event.get("params", {}) for event in log["events"]]
    return [event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"]


def without_policy(page: Path) -> str:
    """The report without the rule that keeps it from asking, so that what it would ask can be seen."""
    text, removed = re.subn(r"<meta http-equiv=.*?>", "", page.read_text(encoding="utf-8"), count=1)
    assert removed == 1
    return text


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    model = HookedTransformer.from_pretrained(str(save_checkpoint(folder / "model")))
    return ioi_report(model, prompts=4).write(folder / "report.html", "interp-hooks demo")


def test_all_figures_are_drawn_and_nothing_complains(report, tmp_path):
    seen = visit(report, tmp_path)
    figures = Dom(seen.dom).figures
    assert [set(drawn) for drawn in figures] == [{"cells"}, {"cells"}, {"bar"}, {"bar"}, {"cells"}]
    assert len(figures[3]) == 4  # one bar for each head of the tiny model
    assert not seen.console  # neither an error nor anything that the content policy had to block
    assert not seen.asked


def test_no_button_leads_outside(report, tmp_path):
    """plotly.js by default has one that uploads the chart to a server and one that opens its home page."""
    assert Dom(visit(report, tmp_path).dom).buttons == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}
    page = tmp_path / "figure.html"
    figure = heatmap(result(torch.rand(2, 3, 2)))
    figure.write_html(page)
    assert "Share chart..." not in Dom(visit(page, tmp_path).dom).buttons
    figure.layout.modebar.remove = None
    figure.write_html(page)
    assert "Share chart..." in Dom(visit(page, tmp_path).dom).buttons  # else this test sees nothing


def test_nothing_outside_is_asked_for_even_where_it_could_be(report, tmp_path):
    page = tmp_path / "open.html"
    page.write_text(without_policy(report), encoding="utf-8")
    seen = visit(page, tmp_path)
    assert all(Dom(seen.dom).figures)
    assert not seen.asked


def test_an_address_slipped_in_is_noticed_and_blocked_by_the_policy(report, tmp_path):
    """The mutant for the two tests above."""
    image = '<main><img src="http://elsewhere.example/x.png">'
    page = tmp_path / "mutant.html"
    page.write_text(without_policy(report).replace("<main>", image), encoding="utf-8")
    assert visit(page, tmp_path).asked == ["http://elsewhere.example/x.png"]
    page.write_text(report.read_text(encoding="utf-8").replace("<main>", image), encoding="utf-8")
    seen = visit(page, tmp_path)
    assert not seen.asked
    assert any("Content Security Policy" in message for message in seen.console)


def test_text_from_outside_is_shown_and_not_run(tmp_path):
    n, values = len(HOSTILE), torch.rand(2, len(HOSTILE), 2)
    grid = result(values, metric=HOSTILE[0], axes={HOSTILE[1]: range(2), "pos": range(n)}, scale=None)
    figures = [
        heatmap(grid, labels={"pos": HOSTILE}, title=HOSTILE[2]),
        bars(line(torch.rand(n, 2), list(HOSTILE)), title=HOSTILE[0]),
        attention_pattern(torch.rand(n, n), list(HOSTILE), title=HOSTILE[1]),
    ]
    page = write_report(
        tmp_path / "hostile.html",
        "honest",
        [Section(heading=HOSTILE[place], text=HOSTILE[place], figure=figure) for place, figure in enumerate(figures)],
    )
    hover = (
        "<script>document.querySelectorAll('.figure').forEach((figure, i) => "
        "Plotly.Fx.hover(figure, [{curveNumber: 0, pointNumber: i == 1 ? 0 : [1, 0]}]))</script></body>"
    )
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", hover), encoding="utf-8")
    seen = visit(page, tmp_path)
    assert seen.title == "honest"
    assert not seen.console
    shown = Dom(seen.dom).texts
    for text in HOSTILE:
        assert any(text in piece.replace("·", " ") for piece in shown), text  # titles and hover texts are not cut
