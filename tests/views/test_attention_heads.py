"""The page of all heads, as a browser shows it from file:// without a network."""

import base64
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views import attention_page
from tests.views.small import HOSTILE
from tests.views.test_report_in_browser import BROWSER, visit

N = 7
PATTERNS = torch.randn(2, 3, N, N, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
TOKENS = [*HOSTILE, " a"][:N]


def data(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="attention" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)


def unpacked(text: str) -> torch.Tensor:
    return torch.tensor(np.frombuffer(base64.b64decode(text), "<u2").astype(float)).reshape(PATTERNS.shape) / 65535


def test_the_page_holds_the_attention_and_no_markup_of_the_tokens(tmp_path: Path) -> None:
    sizes = torch.rand(2, 3, N)
    told = data(attention_page(PATTERNS, TOKENS, tmp_path / "page.html", sizes=sizes, layers=[4, 5]))
    torch.testing.assert_close(unpacked(told["patterns"]), PATTERNS.double(), atol=1e-5, rtol=0)
    weighted = unpacked(told["weighted"])
    for layer in range(2):
        for head in range(3):
            by_hand = PATTERNS[layer, head].double() @ sizes[layer, head].double().diag()
            torch.testing.assert_close(weighted[layer, head], by_hand / by_hand.max(), atol=1e-5, rtol=0)
    assert told["layers"] == [4, 5]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<script") == 2


@pytest.mark.parametrize(
    ("patterns", "given", "message"),
    [
        (PATTERNS[0], {}, r"\[layer, head, query, key\], got shape \[3, 7, 7\]"),
        (PATTERNS[..., :6, :6], {}, "6 positions, got 7 tokens"),
        (PATTERNS, {"layers": [1]}, "layers must name each of 2 layers, got 1"),
        (PATTERNS * 2, {}, "attention lies in 0..1"),
        (PATTERNS, {"sizes": torch.ones(2, 3, 4)}, r"sizes must be .* = \[2, 3, 7\], got \[2, 3, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(patterns: torch.Tensor, given: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        attention_page(patterns, TOKENS, tmp_path / "page.html", **given)
    assert not (tmp_path / "page.html").exists()


PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const heads = [...document.querySelectorAll("#heads button")], seen = {heads: heads.map(one => one.ariaLabel)};
  heads[0].focus();
  heads[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
  seen.focused = document.activeElement.ariaLabel;
  seen.tabs = heads.filter(one => one.tabIndex === 0).map(one => one.ariaLabel);
  seen.name = document.querySelector("#name").textContent;
  document.querySelectorAll("#tokens button")[5].click();
  const cells = row => [...row.children].map(one => one.textContent);
  const rows = () => [...document.querySelectorAll("#keys tr")].map(cells);
  seen.rows = rows();
  seen.label = document.querySelector("#large").ariaLabel;
  document.querySelector("#weighted").click();
  seen.weighted = rows();
  seen.beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.alarms = document.querySelectorAll("b, img").length;
  document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
}, 200));
</script>
</body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("width", [420, 1400])
def test_a_browser_shows_it_offline_by_keyboard_too(width: int, tmp_path: Path) -> None:
    sizes = torch.rand(2, 3, N)
    page = attention_page(PATTERNS, TOKENS, tmp_path / "page.html", sizes=sizes)
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    found = visit(page, tmp_path, f"--window-size={width},900")
    assert not found.console
    assert not found.asked
    (text,) = re.findall(r'<pre id="seen">(.*?)</pre>', found.dom, re.S)
    seen = json.loads(html.unescape(text))
    assert seen["heads"] == [f"layer {layer}, head {head}" for layer in range(2) for head in range(3)]
    assert (seen["focused"], seen["name"]) == ("layer 1, head 0", "L1H0")
    assert seen["tabs"] == ["layer 1, head 0"], "Tab comes to the chosen head alone"
    best = int(PATTERNS[1, 0, 5].argmax())
    assert seen["rows"][0] == [f"{TOKENS[best]} ({best})".replace(" a", "·a"), f"{float(PATTERNS[1, 0, 5, best]):.3f}"]
    weighted = PATTERNS[1, 0] * sizes[1, 0]
    assert seen["weighted"][0][1] == f"{float(weighted[5].max() / weighted.max()):.3f}"
    assert seen["label"].startswith("attention of L1H0: ")
    assert (seen["alarms"], seen["beyond"]) == (0, 0)
