"""The report as a browser shows it without network: figures are drawn, text is text, nothing is asked for."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp_hooks import ComputationGraph, HookedTransformer, Result, attention_pattern, bars, circuit_figure, heatmap
from interp_hooks.loading.keeping import log_steps
from interp_hooks.studies import WatchedTraining, phase_changes
from interp_hooks.views import write_training_report
from interp_hooks.views.adapting import BLACK, WHITE
from interp_hooks.views.circuits import PORTS
from interp_hooks.views.demo import ioi_report
from interp_hooks.views.drawing.elements import Scale, rgb, text_on
from interp_hooks.views.report import Section, write_report
from interp_hooks.views.style import DIVERGING
from tests.tiny import build
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


def visit(page: Path, folder: Path, *flags: str) -> Visit:
    log = folder / "net.json"
    files = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    assert BROWSER is not None
    done = subprocess.run([BROWSER, *FLAGS, *flags, *files, page.as_uri()], capture_output=True, text=True, timeout=120)
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


# -------------------------------------------------------------------------------------------- on a phone, and at night

MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const frame = document.querySelector("iframe").contentDocument, seen = {};
  const all = query => [...frame.querySelectorAll(query)];
  const boxes = query => all(query).map(one => one.getBoundingClientRect()).filter(one => one.width);
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const under = (a, others) => others.filter(b => !apart(a, b)).length;
  const pairs = (some, others) => some.reduce((n, a, i) => n + under(a, others ?? some.slice(i + 1)), 0);
  seen.overlapping_boxes = pairs(boxes(".annotation-text-g rect"));
  seen.titles_under = pairs(boxes(".gtitle"), boxes(".legend, .modebar-btn, .annotation-text-g"));
  seen.drawn = boxes(".annotation-text-g rect").length * boxes(".gtitle").length * boxes(".legend").length;
  seen.beyond = frame.documentElement.scrollWidth - frame.documentElement.clientWidth;
  seen.numbers = all(".heatmap-label text").map(one => parseFloat(getComputedStyle(one).fontSize));
  seen.inks = all(".heatmap-label text").map(one => [one.__data__.z, getComputedStyle(one).fill]);
  const boxes_at = boxes(".annotation-text-g rect").map(box => box.width);
  seen.narrowest_box = Math.min(...boxes_at);
  const plot = frame.querySelector(".figure, .js-plotly-plot")?._fullLayout.xaxis;
  seen.unit = plot && plot._length / Math.abs(plot.range[1] - plot.range[0]);
  seen.bars_under = pairs(boxes(".colorbar rect"), boxes(".xtitle"));
  const used = (frame.querySelector("main") ?? frame.body).getBoundingClientRect().width;
  seen.used = used / frame.documentElement.clientWidth;
  seen.page = getComputedStyle(frame.body).backgroundColor;
  seen.figures = all(".main-svg").map(one => one.style.background).filter(one => one);
  document.body.insertAdjacentHTML("beforeend", "<pre id=seen>" + JSON.stringify(seen) + "</pre>");
}, 3000));
</script>
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a circuit of eight heads in a layer, a map of many columns, and words that are long."""
    graph = ComputationGraph(build(n_heads=8, d_head=4, n_layers=2))
    scores = torch.randn(graph.exists.shape, generator=torch.Generator().manual_seed(0))
    circuit = graph.scored(scores.masked_fill(~graph.exists, 0.0)).top(60, absolute=True)
    words = "word" * 60
    tokens = [f" token{place}" for place in range(15)]
    return write_report(
        tmp_path_factory.mktemp("pictures") / "report.html",
        f"A report {words}",
        [
            Section(
                heading=words,
                text=words,
                code=words,
                table=pd.DataFrame({words: [words]}),
                figure=circuit_figure(circuit, title="A circuit whose title is longer than a phone is wide, and more"),
            ),
            Section(
                heading="Map", figure=heatmap(result(torch.randn(3, 15, 2)), labels={"pos": tokens}, title="A map")
            ),
        ],
    )


def measured(pictures: Path, folder: Path, width: int, *flags: str) -> dict:
    page = folder / "frame.html"
    frame = f'<iframe src="{pictures.as_uri()}" width="{width}" height="2500" style="border: 0"></iframe>'
    page.write_text(f"<!DOCTYPE html><html><body>{frame}{MEASURE}</body></html>", encoding="utf-8")
    seen = visit(page, folder, "--allow-file-access-from-files", "--window-size=1600,2600", *flags)
    return json.loads(html.unescape(re.findall('<pre id="seen">(.*?)</pre>', seen.dom)[0]))


@pytest.mark.parametrize("width", [420, 700, 1400])
def test_nothing_lies_over_anything_at_any_width(pictures: Path, tmp_path: Path, width: int) -> None:
    seen = measured(pictures, tmp_path, width)
    assert seen["drawn"] > 0
    assert (seen["overlapping_boxes"], seen["titles_under"], seen["bars_under"]) == (0, 0, 0)
    assert seen["beyond"] <= 0, "the page itself scrolls sideways"
    assert all(size >= 9 for size in seen["numbers"])
    assert bool(seen["numbers"]) == (width > 420), "what is too small to read is left out"
    assert seen["used"] > 0.9


def test_the_night_has_other_colours(pictures: Path, tmp_path: Path) -> None:
    day, night = (
        measured(pictures, tmp_path, 900, *flags) for flags in ((), ("--blink-settings=preferredColorScheme=0",))
    )
    assert day["page"] == "rgb(255, 255, 255)"
    assert {*day["figures"]} == {"rgb(255, 255, 255)"}
    assert night["page"] == "rgb(18, 22, 28)"
    assert {*night["figures"]} == {"rgb(18, 22, 28)"}


@pytest.mark.parametrize("night", [False, True], ids=["day", "night"])
def test_numbers_in_cells_are_read_on_their_colour(pictures: Path, tmp_path: Path, night: bool) -> None:
    """The page chooses as the drawing without a browser does, whose contrast a test measures."""
    flags = ("--blink-settings=preferredColorScheme=0",) if night else ()
    inks = measured(pictures, tmp_path, 1400, *flags)["inks"]
    most = max(abs(z) for z, _ in inks)
    chosen = [(rgb(Scale(DIVERGING).at(0.5 + z / most / 2, night=night)), rgb(ink)) for z, ink in inks]
    assert {ink for _, ink in chosen} == {(0, 0, 0), (255, 255, 255)}
    for ground, ink in chosen:
        colour = "#{:02x}{:02x}{:02x}".format(*ground)
        assert ink == rgb({BLACK: "#000000", WHITE: "#ffffff"}[text_on(colour, colour)]), ground


@pytest.mark.parametrize("width", [420, 1400])
def test_edges_enter_boxes_and_not_the_air_beside_them(pictures: Path, tmp_path: Path, width: int) -> None:
    seen = measured(pictures, tmp_path, width)
    assert max(PORTS.values()) * seen["unit"] < seen["narrowest_box"] / 2


def test_a_figure_written_alone_suits_a_phone_and_the_night(tmp_path: Path) -> None:
    page = tmp_path / "alone.html"
    title = "A map whose title is longer than a phone is wide, and more, and more"
    heatmap(result(torch.randn(3, 15, 2)), title=title).write_html(page)
    phone = measured(page, tmp_path, 420, "--blink-settings=preferredColorScheme=0")
    assert phone["beyond"] <= 0, "the page itself scrolls sideways"
    assert not phone["numbers"], "what is too small to read is left out"
    assert (phone["bars_under"], phone["titles_under"]) == (0, 0)
    assert phone["page"] == "rgb(18, 22, 28)"
    assert {*phone["figures"]} == {"rgb(18, 22, 28)"}
    wide = measured(page, tmp_path, 1400)
    assert wide["page"] == "rgb(255, 255, 255)"
    assert wide["numbers"]
    assert wide["used"] > 0.9


def test_quotes_are_shown_as_quotes(tmp_path: Path) -> None:
    text = '"it\'s"'
    grid = result(torch.rand(1, 1, 2), axes={"layer": [text], "pos": [0]})
    page = write_report(tmp_path / "quotes.html", "quotes", [Section(heading="h", figure=heatmap(grid, title=text))])
    shown = Dom(visit(page, tmp_path).dom).texts
    assert sum(piece == text for piece in shown) == 2  # the title and the tick
    assert not any("&quot" in piece for piece in shown)


def test_the_page_of_a_training_is_drawn_suits_a_phone_and_asks_for_nothing(tmp_path: Path) -> None:
    steps = log_steps(3000)
    curve = ((torch.tensor(steps).double().log1p() - torch.tensor(200.0).log()) / 0.12).sigmoid()
    heads = {"step": steps, "head": [f"L0H{head}" for head in range(6)]}
    results = {
        "loss": Result(metric="loss_nats", axes={"step": steps}, values=(5 - curve)[:, None]),
        "induction": Result(metric="induction", axes=heads, values=curve[:, None, None].expand(-1, 6, 1)),
    }
    watched = WatchedTraining(steps=steps, results=results)
    page = write_training_report(tmp_path / "training.html", watched, phase_changes(watched), "a run")
    seen = visit(page, tmp_path)
    assert seen.dom.count('class="js-line"') == 1 + 4 + 2 + 5, (
        "loss, four heads, two grey ones, and those five in the legend"
    )
    assert not seen.console
    assert not seen.asked
    for width in (420, 1400):
        found = measured(page, tmp_path, width)
        assert (found["overlapping_boxes"], found["titles_under"]) == (0, 0)
        assert found["beyond"] <= 0, "the page itself scrolls sideways"
