"""Figures as still images: every mark is where the data says, in its colour, with all texts, by day and by night."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import plotly.express as px
import plotly.graph_objects as go
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views import alt_text, bars, heatmap, picture, to_png, to_svg
from interp_hooks.views.adapting import AT_NIGHT, DEEP, INK, NEGATIVE, PAPER, POSITIVE
from interp_hooks.views.attention import attention_pattern
from interp_hooks.views.drawing.elements import Scale, indexed_png, plain, width_of
from interp_hooks.views.drawing.scales import Undrawable
from interp_hooks.views.drawing.sheet import drawn
from tests.views.small import HOSTILE, line, result

GRID = torch.tensor([[[3.0], [1.0], [2.0]], [[-1.0], [1.5], [1.0]]])  # recovered: 1, 0, 0.5; -1, 0.25, 0


def parsed(shown: Any, **size: int) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(shown, **size))


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in svg.findall(".//{*}text")]


def marks(svg: ElementTree.Element, kind: str, colour: str) -> list[dict[str, float]]:
    """The places of the marks of one colour."""
    numbers = re.compile(r"-?[\d.]+(?:e-?\d+)?")
    return [
        {key: float(value) for key, value in one.attrib.items() if numbers.fullmatch(value)}
        for one in svg.findall(f".//{{*}}{kind}")
        if colour in (one.get("fill"), one.get("stroke"))
    ]


def test_cells_have_the_colour_of_their_number_and_stand_in_their_row_and_column() -> None:
    svg = parsed(heatmap(result(GRID), labels={"pos": ["BOS", " a", " <b>"]}, title="Patching & more"))
    shown = {"Patching & more", "BOS", "·a", "·<b>", "0", "1", "token position", "layer", "recovered fraction"}
    assert shown | {"1.00", "0.00", "0.50", "−1.00", "0.25"} <= set(texts(svg))
    (best,), (worst,) = (
        [one for one in marks(svg, "rect", colour) if one["height"] > 60] for colour in (POSITIVE, NEGATIVE)
    )
    assert best["x"] == worst["x"]
    assert best["y"] < worst["y"], "layer 0 is the top row"
    half = next(one for one in svg.findall(".//{*}rect") if one.get("fill") == Scale(RED_TO_BLUE).at(0.75))
    assert float(half.get("x", 0)) > best["x"] + 2 * best["width"] - 1
    assert float(half.get("y", 0)) == best["y"]


RED_TO_BLUE = [(0.0, NEGATIVE), (0.25, "#ef8a62"), (0.5, PAPER), (0.75, "#67a9cf"), (1.0, POSITIVE)]


def test_a_colour_lies_between_the_stops_around_it() -> None:
    scale = Scale([(0.0, "#000000"), (0.5, "rgb(100, 200, 50)"), (1.0, "#ffffff")])
    assert [scale.at(share) for share in (-1, 0.25, 0.5, 2)] == ["#000000", "#326419", "#64c832", "#ffffff"]


def test_bars_are_as_long_as_their_numbers_with_their_error_bars() -> None:
    svg = parsed(bars(line(torch.tensor([[1.0, 3.0], [-4.0, -4.0], [1.0, 1.0]]), ["a", "b", "c"])))
    first, third = marks(svg, "rect", POSITIVE)
    (second,) = marks(svg, "rect", NEGATIVE)
    assert second["width"] == pytest.approx(2 * first["width"], abs=0.02)
    assert first["width"] == pytest.approx(2 * third["width"], abs=0.02)
    zero = first["x"]
    assert second["x"] + second["width"] == pytest.approx(zero, abs=0.02)
    assert first["y"] < second["y"] < third["y"], "in the order of the result, from the top"
    errors = [one.get("d", "") for one in svg.findall(".//{*}path")]
    low, high = (float(end) for end in re.findall(r"[ML]([\d.]+) ", errors[0])[:2])
    assert low == pytest.approx(zero + first["width"] / 2, abs=0.02)
    assert high == pytest.approx(zero + 1.5 * first["width"], abs=0.02)


def test_lines_and_points_go_where_the_axes_say() -> None:
    figure = go.Figure(
        [
            go.Scatter(
                x=[1, 10, 100], y=[0.0, 1.0, None], mode="lines+markers", line=dict(color="#123456", dash="dot")
            ),
            go.Scatter(x=[1, 100], y=[2.0, 2.0], mode="lines", line=dict(color="#654321"), name="two"),
        ],
        layout=dict(
            xaxis=dict(type="log", title="step"), yaxis=dict(title="loss (nats)", range=[0, 4]), showlegend=True
        ),
    )
    svg = parsed(figure)
    first, second = marks(svg, "circle", "#123456")
    (path,) = [one for one in svg.findall(".//{*}path") if one.get("stroke") == "#654321"]
    ends = [tuple(map(float, end.split())) for end in re.split("[ML]", path.get("d", ""))[1:]]
    assert second["cx"] - first["cx"] == pytest.approx((ends[1][0] - ends[0][0]) / 2, abs=0.02), "a decade of two"
    assert first["cy"] - second["cy"] == pytest.approx((first["cy"] - ends[0][1]) / 2, abs=0.02)
    assert {"step", "loss (nats)", "two", "1", "10", "100", "4"} <= set(texts(svg))
    assert [one.get("stroke-dasharray") for one in svg.findall(".//{*}path") if one.get("stroke") == "#123456"] == [
        "2 3"
    ]


def test_bars_on_a_logarithmic_axis_end_at_their_numbers_and_those_of_one_are_seen() -> None:
    svg = parsed(go.Figure(go.Bar(x=["a", "b", "c", "d"], y=[1, 0, 10, 100]), layout=dict(yaxis=dict(type="log"))))
    one, ten, hundred = marks(svg, "rect", "#636efa")
    foot = one["y"] + one["height"]
    assert [bar["y"] + bar["height"] for bar in (ten, hundred)] == [foot, foot]
    assert one["height"] > 5
    assert one["y"] - ten["y"] == pytest.approx(ten["y"] - hundred["y"], abs=0.02), "a decade each"
    (line,) = [text for text in svg.findall(".//{*}text") if text.text == "100"]
    assert float(line.get("y", 0)) == pytest.approx(hundred["y"], abs=5)
    assert hundred["y"] > 12, "within the picture"


def test_a_shape_between_numbers_has_room_on_its_axes() -> None:
    figure = px.scatter(x=[1, 2, 3], y=[1, 2, 9]).add_shape(
        type="line", x0=-4, y0=-4, x1=20, y1=20, line_color="#123456"
    )
    (drawn_line,) = marks(parsed(figure), "line", "#123456")
    assert drawn_line["x1"] > 20
    assert drawn_line["x2"] < 720
    assert 0 < drawn_line["y2"] < drawn_line["y1"] < 450
    named = px.bar(x=["a", "b"], y=[1, 2]).add_shape(type="rect", x0=-0.5, y0=0, x1=0.5, y1=9)
    assert {"a", "b"} <= {*texts(parsed(named))}
    assert "−0.5" not in texts(parsed(named))


def test_names_of_panels_stand_below_the_title() -> None:
    table = dict(x=[1, 2, 3, 4], y=[1, 2, 3, 4], panel=["p", "q", "r", "s"])
    svg = parsed(px.scatter(table, x="x", y="y", facet_col="panel", facet_col_wrap=2, title="All of them"))
    heights = {text.text: float(text.get("y", 0)) for text in svg.findall(".//{*}text")}
    assert heights["panel=p"] == heights["panel=q"] > heights["All of them"] + 15


def test_panels_of_a_map_have_the_same_direction_and_scale() -> None:
    grid = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    panels = px.imshow(torch.stack([grid, grid]).numpy(), facet_col=0).update_traces(texttemplate="%{z:.1f}")
    svg = parsed(panels)
    written = {text: [one for one in svg.findall(".//{*}text") if one.text == text] for text in ("0.1", "0.2", "0.4")}
    corner, right, low = (
        [(float(one.get("x", 0)), float(one.get("y", 0))) for one in found] for found in written.values()
    )
    for panel in range(2):
        across, down = right[panel][0] - corner[panel][0], low[panel][1] - corner[panel][1]
        assert down == pytest.approx(across, abs=0.05)
        assert down > 0
    assert corner[1][1] == corner[0][1]


def test_bars_beside_and_on_each_other() -> None:
    table = dict(x=["a", "a", "b", "b"], y=[1.0, 3.0, 2.0, 2.0], kind=["p", "q", "p", "q"])
    for mode, shared in (("group", False), ("relative", True)):
        svg = parsed(px.bar(table, x="x", y="y", color="kind", barmode=mode))
        (p, _), (q, _) = (
            [one for one in marks(svg, "rect", colour) if one["height"] > 20] for colour in ("#636efa", "#EF553B")
        )
        assert (p["x"] == q["x"]) == shared
        assert q["height"] == pytest.approx(3 * p["height"], abs=0.05)
        assert (q["y"] + q["height"] == pytest.approx(p["y"], abs=0.05)) == shared
        assert {"a", "b", "p", "q", "kind"} <= set(texts(svg))


def test_texts_that_are_numbers_are_texts_where_the_template_says_so() -> None:
    assert {"123", "7", "45"} <= set(texts(parsed(px.bar(dict(x=["123", "7", "45"], y=[1, 2, 3]), x="x", y="y"))))


def test_a_heat_map_of_many_cells_is_an_image_with_every_cell_as_a_pixel() -> None:
    pattern = torch.zeros(90, 90)
    pattern[:, 0] = 1.0
    svg = parsed(attention_pattern(pattern, [f" t{place}" for place in range(90)]))
    days = svg.findall(".//{*}image[@class='day']")
    assert len(days) == len(svg.findall(".//{*}image[@class='night']")) == 1
    assert len(to_svg(attention_pattern(pattern, ["a"] * 90))) < 40_000
    assert [one.get("display") for one in svg.findall(".//{*}image[@class='night']")] == ["none"]


def test_an_indexed_png_has_the_pixels_that_are_asked_for() -> None:
    resvg = pytest.importorskip("resvg_py", reason="resvg is not installed: pip install interp-hooks[png]")
    uri = indexed_png([[0, 1], [1, 0]], ["#ff0000", "#0000ff"])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"><image href="{uri}" width="2" height="2"/></svg>'
    )
    assert pixels(bytes(resvg.svg_to_bytes(svg_string=svg)))[0][0][:3] == (255, 0, 0)


def test_the_night_has_other_colours_and_the_day_needs_no_style() -> None:
    text = to_svg(heatmap(result(GRID)))
    style = re.findall("<style>(.*?)</style>", text)
    assert len(style) == 1
    name = ElementTree.fromstring(text).get("id")
    for colour in (POSITIVE, NEGATIVE, INK, PAPER):
        assert style[0].count(f'[fill="{colour}"]{{fill:{AT_NIGHT[colour]}}}') == 2, "by the system, and by the page"
    assert style[0].count(f"#{name}") == 2
    assert "prefers-color-scheme:dark" in style[0]
    assert "vscode-dark" in style[0]
    assert "<style>" not in to_svg(px.line(y=[1, 2])), "colours that are another's stay"


def test_pictures_on_one_page_do_not_share_a_name_and_each_keeps_its_own() -> None:
    one, other = to_svg(heatmap(result(GRID))), to_svg(heatmap(result(-GRID)))
    names = [ElementTree.fromstring(text).get("id") for text in (one, other)]
    assert names[0] != names[1]
    assert one == to_svg(heatmap(result(GRID)))


@pytest.mark.parametrize("text", [*HOSTILE, "\x00\x1b[0m", "]]>", "😀 中文"])
def test_text_from_outside_is_text(text: str) -> None:
    grid = result(GRID, metric=text, axes={text: range(2), "pos": range(3)}, scale=None)
    svg = parsed(heatmap(grid, labels={text: [text] * 2, "pos": [text] * 3}, title=text))
    assert {one.tag.rpartition("}")[2] for one in svg.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "tspan",
        "line",
    }
    if text.isprintable():
        assert text in " ".join(texts(svg))


def test_a_page_as_narrow_as_a_phone_has_its_legend_below_and_its_words_within() -> None:
    figure = px.line(
        dict(one=[1, 2, 3], another=[3, 2, 1]), title="A title that is too long for a line on a phone, which is narrow"
    )
    svg = parsed(figure, width=420)
    assert svg.get("viewBox", "").split()[2] == "420"
    assert "max-width:100%" in svg.get("style", "")
    heading = [one for one in svg.findall(".//{*}text") if "too long" in "".join(one.itertext())]
    assert len(heading[0]) == 2, "two lines"
    lowest = max(float(one.get("y", 0)) for one in svg.findall(".//{*}text") if one.text in ("one", "another"))
    assert lowest > max(float(one.get("y", 0)) for one in svg.findall(".//{*}text") if one.text == "index")


def test_ticks_that_are_turned_once_the_plot_is_narrower_stay_within() -> None:
    """Beside a wide legend there is less room for the ticks than without it, and they are turned."""
    names = ["explained_variance", "ce_recovered", "kl_recovered"]
    wide = "a name as long as legends have"
    figure = px.bar({"measure": names, "one": [1, 2, 3], wide: [3, 2, 1]}, x="measure", y=["one", wide])
    svg = parsed(figure, width=560)
    _, _, _, height = map(float, svg.get("viewBox", "").split())
    ticks = [one for one in svg.findall(".//{*}text") if one.text in names]
    assert [one.get("transform", "").startswith("rotate(-45") for one in ticks] == [True] * 3
    for tick in ticks:  # they end at their place; a letter is at least 0.4 font sizes wide
        assert float(tick.get("y", 0)) + 0.4 * 11 * len(str(tick.text)) / 2**0.5 < height


def test_ticks_that_are_turned_do_not_reach_into_the_legend_below() -> None:
    table = dict(
        measure=["explained_variance", "ce_recovered", "kl_recovered"] * 2, value=[1, 2, 3] * 2, kind=[*"aaabbb"]
    )
    for width in range(380, 520, 10):
        svg = parsed(px.bar(table, x="measure", y="value", color="kind", barmode="group", title="Good?"), width=width)
        (legend,) = (float(one.get("y", 0)) for one in svg.findall(".//{*}text") if one.text == "a")
        for tick in (one for one in svg.findall(".//{*}text") if one.text in table["measure"]):
            turned = "rotate" in tick.get("transform", "")
            assert float(tick.get("y", 0)) + turned * 0.4 * 11 * len(str(tick.text)) / 2**0.5 < legend - 11, width


@pytest.mark.parametrize("size", [dict(width=300, height=200), dict(width=1400, height=900)])
def test_a_figure_has_the_size_that_is_asked_for(size: dict[str, int]) -> None:
    svg = parsed(heatmap(result(GRID)), **size)
    assert (float(svg.get("width", 0)), float(svg.get("height", 0))) == (size["width"], size["height"])


def test_it_is_written_to_a_file(tmp_path: Path) -> None:
    assert to_svg(heatmap(result(GRID)), tmp_path / "a.svg") == (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_what_is_seen_is_said() -> None:
    told = alt_text(heatmap(result(GRID), title="Patching"))
    assert told == "Patching. Heat map. layer against token position. Colour: recovered fraction."
    svg = parsed(heatmap(result(GRID), title="Patching"))
    assert (svg.get("role"), svg.get("aria-label"), svg[0].text) == ("img", told, told)
    assert alt_text(px.scatter(x=[1], y=[2])) == "Points. y against x."
    assert alt_text(px.line(dict(a=[1], b=[2]))) == "Lines. value against index. Of a, b."


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        (go.Figure(go.Scatter3d(x=[1], y=[1], z=[1])), "'scatter3d'"),
        (go.Figure(go.Scatter(x=["2026-01-01"], y=[1]), layout=dict(xaxis=dict(type="date"))), "dates"),
        (go.Figure(go.Bar(y=[1.0]), layout=dict(yaxis=dict(tickformat="~s"))), "'~s'"),
        (
            go.Figure(go.Scatter(y=[1, 2], fill="toself"), layout=dict(shapes=[dict(type="path", path="M0 0")])),
            "'path'",
        ),
    ],
)
def test_what_is_not_drawn_here_is_left_to_plotly_or_says_what_to_install(
    figure: go.Figure, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Undrawable, match=reason):
        drawn(figure, None, None, "")

    def without_kaleido(*args: Any, **kwargs: Any) -> bytes:
        raise ValueError("no kaleido")

    monkeypatch.setattr(go.Figure, "to_image", without_kaleido)
    with pytest.raises(ImportError, match=f"does not draw .*{reason}.* pip install kaleido"):
        to_svg(figure)
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, format, **size: format.encode())
    assert to_svg(figure) == "svg"
    assert to_png(figure) == b"png"


def test_png_has_the_size_and_the_colours_of_the_picture() -> None:
    pytest.importorskip("resvg_py", reason="resvg is not installed: pip install interp-hooks[png]")
    figure = heatmap(result(GRID), title="Patching")
    svg = parsed(figure)
    rows = pixels(to_png(figure, scale=1.0))
    assert (len(rows[0]), len(rows)) == (720, round(float(svg.get("height", 0))))
    assert len(pixels(to_png(figure, scale=2.0))[0]) == 1440
    (best,) = [one for one in marks(svg, "rect", POSITIVE) if one["height"] > 60]
    x, y = int(best["x"] + best["width"] * 0.1), int(best["y"] + best["height"] * 0.1)
    assert "#{:02x}{:02x}{:02x}".format(*rows[y][x][:3]) == POSITIVE
    assert rows[2][2][:3] == (255, 255, 255)
    dark = [pixel for row in rows[:34] for pixel in row if sum(pixel[:3]) < 300]
    assert len(dark) > 50, "the title is written"


def test_png_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(ImportError, match=r"pip install interp-hooks\[png\]; to_svg needs nothing"):
        to_png(heatmap(result(GRID)))
    with pytest.raises(BadInput, match="scale must be above 0"):
        to_png(heatmap(result(GRID)), scale=0.0)


def pixels(png: bytes) -> list[list[tuple[int, ...]]]:
    """The pixels of a PNG of 8-bit colours with or without opacity."""
    import struct
    import zlib

    place, data, head = 8, b"", b""
    while place < len(png):
        (size,), kind = struct.unpack(">I", png[place : place + 4]), png[place + 4 : place + 8]
        chunk = png[place + 8 : place + 8 + size]
        head = chunk if kind == b"IHDR" else head
        data += chunk if kind == b"IDAT" else b""
        place += 12 + size
    width, height, _, kind = struct.unpack(">IIBB", head[:10])
    depth = {2: 3, 6: 4}[kind]
    raw, step, before, rows = zlib.decompress(data), width * depth, bytes(width * depth), []
    for row in range(height):
        begin = row * (step + 1)
        filtered, now = raw[begin], bytearray(raw[begin + 1 : begin + 1 + step])
        for i in range(step):
            left, up = now[i - depth] if i >= depth else 0, before[i]
            corner = before[i - depth] if i >= depth else 0
            guess = min(
                (left, up, corner), key=lambda one: (abs(left + up - corner - one), (left, up, corner).index(one))
            )
            now[i] = (now[i] + (0, left, up, (left + up) // 2, guess)[filtered]) % 256
        rows.append([tuple(now[i : i + depth]) for i in range(0, step, depth)])
        before = bytes(now)
    return rows


def test_plotlys_small_html_is_read_as_it_shows_it() -> None:
    assert plain("<b>a</b><br>&lt;b&gt; &#36;x") == "a\n<b> $x"
    assert width_of("WWWW", 10) > width_of("iiii", 10)
    assert DEEP in AT_NIGHT


def test_a_thing_without_a_picture_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a figure, or one of Result, Circuit"):
        picture("a")
    with pytest.raises(BadInput, match=r"one axis or two.* 2 layer x 2 pos x 3 head: choose some, as in result.select"):
        picture(result(torch.zeros(2, 2, 3, 1), axes={"layer": [4, 5], "pos": range(2), "head": range(3)}))
    assert picture(line(torch.ones(99, 2), [str(place) for place in range(99)])).data[0].x == (1.0,) * 40


def test_a_histogram_is_bars_that_count() -> None:
    values = [0.1, 0.2, 0.7, 1.1, 1.2, 1.3, 3.9]
    figure = go.Figure(go.Histogram(x=values, xbins=dict(start=0, end=4, size=1), marker=dict(color="#123456")))
    bars_drawn = marks(parsed(figure), "rect", "#123456")
    heights = [one["height"] for one in bars_drawn]
    assert [round(height / heights[3]) for height in heights] == [3, 3, 0, 1]
    assert len({round(one["width"], 1) for one in bars_drawn}) == 1
    shares = parsed(go.Figure(go.Histogram(x=values, nbinsx=4, histnorm="percent")))
    assert "40" in texts(shares)
    with pytest.raises(Undrawable, match="counts of numbers"):
        drawn(go.Figure(go.Histogram(x=["a", "b"])), None, None, "")
