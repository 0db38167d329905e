"""The page of an attribution graph, as a browser shows it from file:// without a network."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from interp_hooks.circuits import AttributionGraph, attribution_graph
from interp_hooks.errors import BadInput
from interp_hooks.views import attribution_graph_page
from tests.circuits.test_attribution_graphs import TOKENS
from tests.dictionaries.random_ones import cross_layer
from tests.tiny import build
from tests.views.small import HOSTILE
from tests.views.test_report_in_browser import BROWSER, visit


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    """One in which every text is hostile."""
    made = attribution_graph(build(), TOKENS, cross_layer(), max_logits=4, progress=False).pruned()
    texts = [(HOSTILE * 6)[place] for place in range(len(TOKENS))]
    return dataclasses.replace(made, texts=texts, logit_texts=(HOSTILE * 4)[:4], model_name=HOSTILE[0])


def data(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="graph" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_the_page_holds_the_graph_and_no_markup_of_it(graph: AttributionGraph, tmp_path: Path) -> None:
    told = data(attribution_graph_page(graph, tmp_path / "graph.html"))
    assert [node["name"] for node in told["nodes"]] == [graph.name(node) for node in range(len(graph))]
    assert [edge[0] for edge in told["edges"]] == graph.source.tolist()
    assert [edge[1] for edge in told["edges"]] == graph.target.tolist()
    assert told["texts"] == graph.texts
    text = (tmp_path / "graph.html").read_text(encoding="utf-8")
    assert text.count("<script") == 2


def test_groups_may_be_there_to_begin_with(graph: AttributionGraph, tmp_path: Path) -> None:
    groups = {HOSTILE[0]: graph.features[:3], "other": graph.features[4:5]}
    told = data(attribution_graph_page(graph, tmp_path / "graph.html", supernodes=groups))
    assert {one["name"]: one["nodes"] for one in told["groups"]} == groups
    with pytest.raises(BadInput, match="nodes must be"):
        attribution_graph_page(graph, tmp_path / "graph.html", supernodes={"a": [len(graph)]})
    assert data(tmp_path / "graph.html") == told


PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const node = document.querySelector(".node.feature"), seen = {nodes: document.querySelectorAll(".node").length};
  node.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
  seen.name = document.querySelector("#name").textContent;
  seen.edges = document.querySelectorAll(".edge").length;
  node.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true}));
  seen.after_escape = document.querySelectorAll(".edge, .chosen").length;
  node.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
  document.querySelector("#pin").click();
  document.querySelector("#group").value = "<b>mine";
  document.querySelector("#into").click();
  seen.groups = document.querySelector("#groups").textContent;
  document.querySelector("#groups button").click();
  seen.taken_apart = [document.querySelector("#group").value, document.querySelectorAll(".node.pinned").length];
  document.querySelector("#group").value = "another";
  document.querySelector("#into").click();
  seen.renamed = document.querySelector("#groups").textContent;
  seen.unnamed = [...document.querySelectorAll(".node")].filter(one => !one.getAttribute("aria-label")).length;
  seen.beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.alarms = document.querySelectorAll("b, img").length;
  document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
}, 200));
</script>
</body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("width", [420, 1400])
def test_a_browser_shows_it_offline(graph: AttributionGraph, width: int, tmp_path: Path) -> None:
    page = attribution_graph_page(graph, tmp_path / "graph.html")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    found = visit(page, tmp_path, f"--window-size={width},900")
    assert not found.console
    assert not found.asked
    (text,) = re.findall(r'<pre id="seen">(.*?)</pre>', found.dom, re.S)
    seen = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    first = graph.features[0]
    touching = (graph.source == first) | (graph.target == first)
    assert seen["nodes"] == len(graph)
    assert seen["name"] == graph.name(first)
    assert seen["edges"] == int(touching.sum())
    assert seen["after_escape"] == 0
    assert seen["groups"].startswith(f"<b>mine: {graph.name(first)}")
    assert seen["taken_apart"] == ["<b>mine", 1]
    assert seen["renamed"].startswith(f"another: {graph.name(first)}")
    assert (seen["unnamed"], seen["alarms"], seen["beyond"]) == (0, 0, 0)
