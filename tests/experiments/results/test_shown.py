"""How results show themselves in a notebook: words, one picture without scripts, and a table; it never fails."""

import sys
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
import torch

from interp_hooks import Circuit, ComputationGraph, Result
from interp_hooks.circuits.layout import Layout
from interp_hooks.errors import BadInput
from interp_hooks.experiments.results.shown import as_html
from interp_hooks.views import pictures
from tests.views.small import line, result

GRID = torch.tensor([[[3.0], [1.0], [2.0]], [[-1.0], [1.5], [1.0]]])


def shown(thing: Any) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{thing._repr_html_()}</div>")


@pytest.mark.parametrize("thing", [result(GRID), line(torch.ones(3, 2), ["a", "b", "c"])])
def test_a_result_is_a_heading_a_picture_and_a_table(thing: Result) -> None:
    page = shown(thing)
    assert [one.tag.rpartition("}")[2] for one in page] == ["p", "div", "table"]
    assert [one.tag.rpartition("}")[2] for one in page[1]] == ["svg"]
    assert page[0].text == thing._heading
    assert len(page.findall(".//table/tbody/tr")) == thing.mean.numel()
    assert not page.findall(".//script")
    assert len(thing._repr_html_()) < 20_000


def test_a_circuit_shows_its_graph_and_its_edges() -> None:
    graph = ComputationGraph(Layout(n_layers=2, n_heads=2, n_key_value_heads=2))
    page = shown(
        Circuit(graph=graph, edges={"input->m0": 0.5, "m0->logits": 2.0}, scores={"input->m0": 0.5, "m0->logits": 2})
    )
    assert {"input", "m0", "logits"} <= {one.text for one in page.findall(".//{*}text")}
    assert "2 edges" in str(page[0].text)
    many = shown(graph.scored(torch.rand(graph.exists.shape)))
    assert len(many.findall(".//table/tbody/tr")) <= 21


def test_a_result_of_three_axes_says_how_to_choose() -> None:
    three = result(torch.zeros(2, 2, 3, 1), axes={"layer": range(2), "pos": range(2), "head": range(3)})
    page = shown(three)
    assert [one.tag for one in page] == ["p", "p", "table"]
    assert "choose some, as in result.select(layer=0)" in str(page[1].text)
    assert shown(three.select(layer=0)).find("div/{*}svg") is not None


def test_nothing_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(torch.nn.Module, "__call__", forbidden)
    assert shown(result(GRID)).find("div/{*}svg") is not None


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyError("x"), ImportError("plotly")])
def test_a_picture_that_fails_leaves_the_table(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> None:
        raise error

    monkeypatch.setattr(pictures, "drawn", failing)
    page = shown(result(GRID))
    assert [one.tag for one in page] == ["p", "table"]


def test_without_plotly_there_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("interp_hooks.views")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert [one.tag for one in shown(result(GRID))] == ["p", "table"]


def test_values_that_cannot_be_drawn_do_not_fail() -> None:
    for values in (GRID * float("nan"), GRID * float("inf"), GRID * 0):
        assert shown(result(values, scale=None)).find("table") is not None
    single = Result(metric="logit", axes={}, values=torch.ones(3))
    assert "a single number" in single._repr_html_()
    wide = line(torch.ones(3000, 2), [f"head {one}" for one in range(3000)])
    assert len(wide._repr_html_()) < 30_000


def test_what_has_no_picture_is_its_words_and_its_table() -> None:
    table = result(GRID).table()
    assert as_html("a thing", ("<words>",), table).startswith("<p>&lt;words&gt;</p><table")


def test_figures_show_themselves_as_plotly_does() -> None:
    assert pictures.picture(go.Figure()) == go.Figure()


def test_select_takes_cells_by_their_labels() -> None:
    torch.manual_seed(0)
    whole = result(torch.randn(3, 4, 2), axes={"layer": [5, 6, 9], "pos": range(4)})
    whole = replace(whole, changed=[[bool((one * 7) % 3)] for one in range(12)])
    row = whole.select(layer=6)
    assert torch.equal(row.values, whole.values[1])
    assert dict(row.axes) == {"pos": [0, 1, 2, 3]}
    assert row.changed == whole.changed[4:8]  # pyright: ignore[reportOptionalSubscript]
    some = whole.select(layer=[9, 5], pos=2)
    assert torch.equal(some.values, whole.values[[2, 0], 2])
    assert dict(some.axes) == {"layer": [9, 5]}
    assert torch.equal(whole.select(layer=[9, 5], pos=range(1, 3)).values, whole.values[[2, 0]][:, 1:3])
    assert torch.equal(whole.select(layer=9, pos=3).recovered_fraction, whole.recovered_fraction[2, 3])
    assert torch.equal(whole.select().values, whole.values)
    for chosen, message in (({"layr": 5}, "Did you mean layer"), ({"layer": 7}, "layer must be of 5, 6, 9, got 7")):
        with pytest.raises(BadInput, match=message):
            whole.select(**chosen)
