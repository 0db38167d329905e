"""The wiki as a browser shows it from file:// without a network: drawn, quick, and with texts that are only texts."""

import html
import json
import re
from pathlib import Path

import pytest
import torch

from interp_hooks.studies import Column, Wiki, wiki
from interp_hooks.studies.wikis import making
from tests.tiny import build
from tests.views.small import HOSTILE
from tests.views.test_report_in_browser import BROWSER, Dom, visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Wiki:
    """A wiki in which every token, label and name is hostile."""
    patch = pytest.MonkeyPatch()
    patch.setattr(making, "names_of", lambda model: lambda id: HOSTILE[id % len(HOSTILE)] + " " * (id // len(HOSTILE)))
    own = Column(name=HOSTILE[2], unit=HOSTILE[0], about=HOSTILE[1], values=torch.rand(3, 4))
    role = Column(name="own_role", unit="role", about=HOSTILE[3], values=[[HOSTILE[0]] * 4] * 3)
    model = build(d_vocab=23, d_vocab_out=23)
    out = tmp_path_factory.mktemp("wikis") / "made"
    try:
        return wiki(model, out=out, limit=40, columns={"head": [own, role]}, corpus_name=HOSTILE[1], progress=False)
    finally:
        patch.undo()


PROBE = """
addEventListener("load", () => setTimeout(async () => {
  const frame = document.querySelector("iframe"), inside = () => frame.contentDocument, seen = {};
  const tell = (target, kind, name, given) => target.dispatchEvent(
    new frame.contentWindow[kind](name, {bubbles: true, ...given}));
  const key = (target, key, more = {}) => tell(target, "KeyboardEvent", "keydown", {key, ...more});
  const wait = ms => new Promise(done => setTimeout(done, ms));
  const look = () => ({
    title: inside().title, heading: inside().querySelector("h1").textContent, hash: frame.contentWindow.location.hash,
    beyond: inside().documentElement.scrollWidth - inside().documentElement.clientWidth,
    page: getComputedStyle(inside().body).backgroundColor, ink: getComputedStyle(inside().body).color,
    alarms: [...inside().querySelectorAll("[role=alert]")].map(one => one.textContent),
    unnamed: [...inside().querySelectorAll("[role=img]")].filter(one => !one.getAttribute("aria-label")).length,
    small: [...inside().querySelectorAll("main *")].filter(
      one => one.textContent && parseFloat(getComputedStyle(one).fontSize) < 11).length,
  });
  STEPS
  document.title = "seen";
  document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
}, 1500));
"""


def looked(made: Wiki, folder: Path, page: str, steps: str, width: int = 1400, *flags: str) -> dict:
    frame = (
        f'<iframe src="{made.page.parent.as_uri()}/{page}" width="{width}" height="2500" style="border: 0"></iframe>'
    )
    outer = folder / "frame.html"
    outer.write_text(f"<!DOCTYPE html><body>{frame}<script>{PROBE.replace('STEPS', steps)}</script>", encoding="utf-8")
    seen = visit(outer, folder, "--allow-file-access-from-files", "--window-size=1600,2600", *flags)
    assert not seen.console
    assert not seen.asked
    return json.loads(html.unescape(re.findall('<pre id="seen">(.*?)</pre>', seen.dom)[0]))


PAGES = ["index.html", "index.html#kind=neuron&ranks=1", "unit.html#head/1/2", "unit.html#neuron/2/17"]


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_drawn_without_asking_anybody(made: Wiki, tmp_path: Path, page: str) -> None:
    index = tmp_path / "page.html"
    index.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={made.page.parent.as_uri()}/{page}">')
    seen = visit(index, tmp_path)
    assert not seen.console
    assert not seen.asked
    texts = " ".join(Dom(seen.dom).texts)
    assert "pwned" not in seen.title
    if page.startswith("unit"):
        assert "Among all" in texts
        assert "Where it is largest" in texts
        assert "<b>" in texts
    else:
        assert "What the columns mean" in texts
        assert HOSTILE[1] in texts
    if "head" in page:
        assert "attends most to" in texts
        assert HOSTILE[0] in texts, "the role is a text"


@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_and_everything_has_a_name(made: Wiki, tmp_path: Path, page: str, width: int) -> None:
    seen = looked(made, tmp_path, page, "Object.assign(seen, look());", width)
    assert seen["beyond"] <= 0, "the page itself scrolls sideways"
    assert (seen["alarms"], seen["unnamed"], seen["small"]) == ([], 0, 0)


def test_the_night_has_other_colours(made: Wiki, tmp_path: Path) -> None:
    steps, night = "Object.assign(seen, look());", "--blink-settings=preferredColorScheme=0"
    day, dark = (looked(made, tmp_path, "index.html", steps, 900, *flags) for flags in ((), (night,)))
    assert (day["page"], dark["page"]) == ("rgb(255, 255, 255)", "rgb(18, 22, 28)")
    assert (day["ink"], dark["ink"]) == ("rgb(36, 41, 47)", "rgb(230, 237, 243)")


def test_arrow_keys_lead_to_neighbours(made: Wiki, tmp_path: Path) -> None:
    steps = """
    for (const name of ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"]) {
      key(inside().body, name, {shiftKey: name === "ArrowUp" || name === "ArrowDown"});
      await wait(400);
      (seen.places ??= []).push(look().hash);
    }
    seen.heading = look().heading;
    """
    seen = looked(made, tmp_path, "unit.html#head/0/2", steps)
    assert seen["places"] == ["#head/0/3", "#head/1/0", "#head/0/3", "#head/1/3", "#head/0/3"]
    assert seen["heading"].startswith("Head 3 of layer 0")


def test_a_unit_that_is_not_there_is_told(made: Wiki, tmp_path: Path) -> None:
    for address in ("head/9/0", "feature/0/0", "neuron/1/999", "head/0/", ""):
        seen = looked(made, tmp_path, f"unit.html#{address}", "Object.assign(seen, look());")
        assert seen["heading"] == "There is no such unit"
        assert not seen["alarms"]


def test_a_click_opens_the_unit_and_a_search_finds_it(made: Wiki, tmp_path: Path) -> None:
    """The point of the head with the largest value, by pointer; then units by the token at their top."""
    steps = """
    const canvas = inside().querySelector("canvas"), box = canvas.getBoundingClientRect();
    seen.first = inside().querySelector("#units a").textContent;
    key(canvas, "ArrowUp"); key(canvas, "ArrowUp");
    seen.said = inside().querySelector("#found").textContent;
    const input = inside().querySelector("#search");
    input.value = " <B> ";
    input.dispatchEvent(new Event("input"));
    await wait(800);
    seen.found = inside().querySelector("#found").textContent;
    seen.listed = [...inside().querySelectorAll("#units a")].map(one => one.textContent);
    input.value = "nobody says this";
    input.dispatchEvent(new Event("input"));
    await wait(800);
    seen.none = inside().querySelector("#found").textContent;
    input.value = "";
    input.dispatchEvent(new Event("input"));
    await wait(800);
    let high = [0, Infinity];
    for (let y = 0; y < box.height; y += 5)
      for (let x = 0; x < box.width; x += 5) {
        const point = frame.contentWindow.nearest({clientX: box.left + x, clientY: box.top + y});
        if (point && point[1] < high[1]) high = point;
      }
    tell(canvas, "MouseEvent", "click", {clientX: box.left + high[0] + 3, clientY: box.top + high[1] - 2});
    await wait(800);
    Object.assign(seen, look());
    """
    seen = looked(made, tmp_path, "index.html#kind=head", steps)
    assert re.match(r"L\dH\d, repeated induction: .*", seen["said"])
    assert "“<b>” is at the top of" in seen["found"]
    top = made.examples.query("unit == 'head' and band == 'top'").merge(made.tokens, on=["document", "position"])
    listed = top[top["text"].str.strip() == "<b>"][["layer", "index"]].to_numpy().tolist()
    expected = {f"L{layer}H{head}" for layer, head in listed}
    assert expected
    assert expected <= set(seen["listed"])
    assert "No heads have" in seen["none"]
    layer, head = seen["first"][1:].split("H")
    assert seen["hash"] == f"#head/{layer}/{head}"


def test_hints_are_texts(made: Wiki, tmp_path: Path) -> None:
    steps = """
    const token = [...inside().querySelectorAll(".example .token")].find(one => one.textContent.includes("onerror"));
    tell(token, "PointerEvent", "pointermove", {clientX: 50, clientY: 50});
    seen.hint = inside().querySelector("#tip").textContent;
    seen.hidden = inside().querySelector("#tip").hidden;
    inside().querySelectorAll("button.example")[4].click();
    seen.pressed = inside().querySelectorAll("button.example[aria-pressed=true]").length;
    seen.images = inside().images.length;
    Object.assign(seen, look());
    """
    seen = looked(made, tmp_path, "unit.html#head/2/1", steps)
    assert "<img·src=x·onerror=document.title='pwned'>" in seen["hint"]
    assert "norm of what the head writes" in seen["hint"]
    assert (seen["hidden"], seen["pressed"], seen["images"]) == (False, 1, 0)
    assert "pwned" not in seen["title"]
