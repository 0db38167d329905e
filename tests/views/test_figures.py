import copy
import json
from dataclasses import replace
from pathlib import Path

import plotly.io
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views.adapting import NEGATIVE, POSITIVE
from interp_hooks.views.figures import bars, heatmap
from interp_hooks.views.tokens import escaped
from tests.views.small import HOSTILE, line, result

GRID = torch.tensor([[1.0, 2.0, 3.0], [3.0, 5.0, 1.0]])  # fractions 0, .5, 1 and 1, 2, 0
SPREAD = torch.tensor([-0.5, 0.5])
GIVEN = GRID[..., None] + SPREAD  # two prompts, whose mean is GRID


def test_values_land_in_their_cells_with_the_first_axis_running_down():
    figure = heatmap(result(GIVEN))
    assert figure.data[0].z == ([0.0, 0.5, 1.0], [1.0, 2.0, 0.0])
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.title.text == "layer"
    assert figure.layout.xaxis.title.text == "token position"
    assert figure.data[0].colorbar.title.text == "recovered fraction"


def test_colours_are_symmetric_around_zero():
    trace = heatmap(result(GIVEN)).data[0]
    assert (trace.zmin, trace.zmax) == (-2.0, 2.0)
    assert trace.colorscale[2] == (0.5, "#ffffff")
    assert trace.colorscale[-1][1] == POSITIVE


def test_tiny_fractions_stay_pale():
    trace = heatmap(result(1 + 1e-9 * GIVEN)).data[0]
    assert trace.zmax == 0.1


@pytest.mark.parametrize(
    ("value", "first_row", "unit"),
    [
        ("mean", [1.0, 2.0, 3.0], "logit difference (nats)"),
        ("change", [0.0, 1.0, 2.0], "change of logit difference (nats)"),
        ("recovered_fraction", [0.0, 0.5, 1.0], "recovered fraction"),
    ],
)
def test_what_can_be_shown(value, first_row, unit):
    trace = heatmap(result(GIVEN), value).data[0]
    assert trace.z[0] == first_row
    assert trace.colorbar.title.text == unit


def test_without_a_scale_the_mean_is_shown_and_a_change_is_from_the_only_baseline():
    plain = result(GIVEN, scale=None, baselines={"original": torch.ones(2)})
    assert heatmap(plain).data[0].z[0] == [1.0, 2.0, 3.0]
    assert heatmap(plain, "change").data[0].z[0] == [0.0, 1.0, 2.0]
    with pytest.raises(BadInput, match="needs one baseline, this result has none"):
        heatmap(replace(plain, baselines={}), "change")


def test_baselines_that_agree_fall_back_to_the_mean():
    same = result(GIVEN, baselines={"corrupt": torch.ones(2), "clean": torch.ones(2)})
    assert heatmap(same).data[0].z[0] == [1.0, 2.0, 3.0]
    with pytest.raises(BadInput, match=r"no difference to recover; use value='mean'"):
        heatmap(same, "recovered_fraction")


def test_a_grid_of_zeros_and_a_cell_that_is_not_finite():
    values = torch.zeros(1, 2, 1)
    assert heatmap(result(values, scale=None)).data[0].zmax == 1.0
    values[0, 1] = float("inf")
    trace = heatmap(result(values, scale=None)).data[0]
    assert trace.z == ([0.0, None],)
    assert trace.zmax == 1.0
    assert "not defined" in trace.hovertext[0][1]


def test_labels_are_tokens_on_token_axes_and_equal_ones_stay_apart():
    figure = heatmap(result(GIVEN), labels={"pos": [" to", "\n", " to"], "layer": ["first one", "b"]})
    assert figure.layout.xaxis.ticktext == ("·to", "⏎", "·to")
    assert figure.layout.xaxis.tickvals == (0, 1, 2)
    assert figure.layout.yaxis.ticktext == ("first one", "b")
    assert figure.data[0].x == (0, 1, 2)
    assert "token position 2: ·to" in figure.data[0].hovertext[0][2]


def test_axes_keep_the_labels_of_a_sweep_over_some_layers():
    figure = heatmap(result(GIVEN, axes={"layer": [2, 5], "pos": range(3)}))
    assert figure.layout.yaxis.ticktext == ("2", "5")
    assert figure.data[0].hovertext[1][0].startswith("layer 5<br>token position 0<br>")


def test_hovering_tells_fraction_metric_and_standard_error():
    hover = heatmap(result(GIVEN)).data[0].hovertext[0][1]
    assert "recovered fraction: 0.5" in hover
    assert "logit difference (nats): 2 ± 0.5 (standard error)" in hover
    single = heatmap(result(GIVEN[..., :1])).data[0].hovertext[0][1]
    assert "±" not in single


def test_numbers_are_written_into_cells_that_have_room():
    assert heatmap(result(torch.zeros(2, 20, 1))).data[0].texttemplate == "%{z:.2f}"
    assert heatmap(result(torch.zeros(2, 21, 1))).data[0].texttemplate is None


def test_small_numbers_are_not_written_as_zeros():
    assert heatmap(result(torch.full((2, 2, 1), 0.001), scale=None)).data[0].texttemplate == "%{z:.0e}"


def test_many_columns_are_not_hidden_by_the_lines_between_them():
    assert heatmap(result(GIVEN)).data[0].xgap == 1
    wide = heatmap(result(torch.zeros(2, 2000, 1))).data[0]
    assert (wide.xgap, wide.ygap) == (0, 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"pos": ["a"]}, "labels for 'pos': expected 3, got 1"),
        ({"position": ["a"] * 3}, r"names the axis 'position'; this result has layer, pos.* Did you mean pos"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(BadInput, match=message):
        heatmap(result(GIVEN), labels=labels)


def test_wrong_numbers_of_axes_name_the_right_function():
    one = line(torch.zeros(3, 2), ["a", "b", "c"])
    three = result(GIVEN[None], axes={"layer": [0], "pos": range(2), "head": range(3)})
    with pytest.raises(BadInput, match=r"1 \(part\); bars\(\) draws one axis"):
        heatmap(one)
    with pytest.raises(BadInput, match=r"2 \(layer, pos\); heatmap\(\) draws two axes"):
        bars(result(GIVEN))
    for draw in (heatmap, bars):
        with pytest.raises(BadInput, match=r"3 \(layer, pos, head\); sweep over fewer axes"):
            draw(three)


def test_bars_run_down_in_order_with_standard_errors():
    figure = bars(line(torch.tensor([[1.0, 2.0], [-4.0, -4.0], [3.0, 3.0]]), ["a", "b", "c"]))
    trace = figure.data[0]
    assert trace.x == (1.5, -4.0, 3.0)
    assert trace.error_x.array == pytest.approx((0.5, 0.0, 0.0))
    assert trace.error_x.visible
    assert trace.marker.color == (POSITIVE, NEGATIVE, POSITIVE)
    assert figure.layout.yaxis.ticktext == ("a", "b", "c")
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text == "logit difference (nats)"


def test_top_keeps_the_largest_in_size_with_their_labels():
    figure = bars(line(torch.tensor([[1.0, 2.0], [-4.0, -4.0], [3.0, 3.0]]), ["a", "b", "c"]), top=2)
    assert figure.data[0].x == (-4.0, 3.0)
    assert figure.layout.yaxis.ticktext == ("b", "c")
    assert bars(line(torch.ones(2, 1), ["a", "b"]), top=9).data[0].x == (1.0, 1.0)
    with pytest.raises(BadInput, match="at least 1"):
        bars(line(torch.ones(2, 1), ["a", "b"]), top=0)


def test_top_bars_are_those_that_change_most_from_the_baseline():
    left = line(torch.tensor([[1.0, 2.0], [-4.0, -4.0], [3.0, 3.0]]), ["a", "b", "c"])
    lost = replace(left, baselines={"original": torch.tensor([-3.0, -4.0])})
    assert bars(lost, top=2).layout.yaxis.ticktext == ("c", "a")  # 6.5 and 5, against 0.5
    changes = bars(lost, "change", top=2).data[0]
    assert changes.x == (6.5, 5.0)
    assert changes.error_x.array == (0.5, 1.0)  # of 6, 7 and of 4, 6
    assert bars(lost, "change").layout.xaxis.title.text == "change of logit difference (nats)"


def test_a_single_prompt_has_no_error_bars():
    assert not bars(line(torch.ones(2, 1), ["a", "b"])).data[0].error_x.visible


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_never_markup(text):
    grid = result(GIVEN, metric=text, axes={text: range(2), "pos": range(3)}, scale=None)
    figures = [
        heatmap(grid, labels={text: [text] * 2, "pos": [text] * 3}, title=text),
        bars(line(torch.ones(1, 2), [text]), title=text),
    ]
    for figure in figures:
        assert text not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False) or text == "&lt;"
        assert figure.layout.title.text == escaped(text)
    assert escaped(text) in figures[0].data[0].hovertext[0][0]
    assert escaped(text) in figures[1].data[0].hovertext[0]


def test_global_templates_are_neither_read_nor_changed(monkeypatch):
    before = heatmap(result(GIVEN)).to_json()
    monkeypatch.setattr(plotly.io.templates, "default", "plotly_dark")
    assert heatmap(result(GIVEN)).to_json() == before
    assert plotly.io.templates.default == "plotly_dark"


def test_a_page_of_its_own_adapts_and_a_part_of_a_page_does_not(tmp_path: Path) -> None:
    drawn = heatmap(result(torch.rand(2, 3, 2)))
    drawn.write_html(
        tmp_path / "page.html", config={"displaylogo": False}, include_plotlyjs=False, post_script="mine();"
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"responsive": true, "displaylogo": false' in page
    assert "mine();" in page
    assert 'name: "viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("plot_id") == 0
    assert "prefers-color-scheme" not in drawn.to_html(full_html=False, include_plotlyjs=False)
    assert "prefers-color-scheme" in drawn.to_html(include_plotlyjs=False)
    assert type(copy.deepcopy(drawn)) is type(drawn)
