"""Text with numbers: each token stands on the colour of its number, in the order of reading."""

import itertools

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views import alt_text, coloured_tokens, to_svg
from interp_hooks.views.adapting import AT_NIGHT, DEEP, NEGATIVE, PAPER, POSITIVE
from interp_hooks.views.drawing.elements import Scale, text_on
from interp_hooks.views.style import DIVERGING, SEQUENTIAL
from interp_hooks.views.token_colours import WIDTH


def test_tokens_stand_on_the_colour_of_their_number() -> None:
    figure = coloured_tokens(["The", " cat", "\n", " sat"], [0.0, 3.0, 1.5, float("nan")], what="activation (a.u.)")
    colours = [shape.fillcolor for shape in figure.layout.shapes]
    assert (colours[0], colours[1], colours[3]) == (PAPER, DEEP, PAPER)
    assert [note.text for note in figure.layout.annotations] == ["The", "·cat", "⏎", "·sat"]
    assert [note.y for note in figure.layout.annotations] == [0, 0, 0, 1], "a line break ends the line"
    assert figure.data[0].marker.colorbar.title.text == "activation (a.u.)"
    assert figure.data[0].hovertext[1] == "·cat (1)<br>activation (a.u.): 3"


def test_signed_numbers_are_symmetric_around_a_white_zero() -> None:
    figure = coloured_tokens(["a", "b", "c", "d"], torch.tensor([-2.0, 0.0, 1.0, 2.0]))
    assert [shape.fillcolor for shape in figure.layout.shapes][::3] == [NEGATIVE, POSITIVE]
    assert figure.layout.shapes[1].fillcolor == PAPER
    assert (figure.data[0].marker.cmin, figure.data[0].marker.cmax) == (-2.0, 2.0)


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it, of two colours `#rrggbb`."""
    parts = ([int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)] for code in (one, other))
    linear = [[p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in three] for three in parts]
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("stops", [SEQUENTIAL, DIVERGING], ids=["sequential", "diverging"])
def test_text_is_read_on_every_colour_by_day_and_at_night(stops) -> None:
    for share in torch.linspace(0, 1, 201).tolist():
        day, night = (Scale(stops).at(share, night=night) for night in (False, True))
        ink = text_on(day, night)
        assert contrast(ink, day) >= 4.5, (share, "by day")
        assert contrast(AT_NIGHT.get(ink, ink), night) >= 4.5, (share, "at night")


def test_at_night_tokens_stand_on_the_colours_of_the_night() -> None:
    figure = coloured_tokens(["a", "b", "c"], [0.0, 1.0, 4.0])
    boxes, words, svg = figure.layout.shapes, figure.layout.annotations, to_svg(figure)
    for box, word, share in zip(boxes, words, (0.0, 0.25, 1.0), strict=True):
        day, ink = box.fillcolor, word.font.color
        night = Scale(SEQUENTIAL).at(share, night=True)
        assert f'[fill="{day}"]{{fill:{night}}}' in svg
        assert AT_NIGHT.get(ink, ink) == ink or f'[fill="{ink}"]{{fill:{AT_NIGHT[ink]}}}' in svg


def test_words_fill_lines_and_do_not_overlap() -> None:
    figure = coloured_tokens([" word", " a", " something"] * 40, range(120))
    shapes = figure.layout.shapes
    assert max(shape.x1 for shape in shapes) <= WIDTH
    assert len({shape.y0 for shape in shapes}) > 5
    for one, other in itertools.pairwise(shapes):
        assert other.y0 > one.y0 or other.x0 >= one.x1


def test_the_text_is_said_to_those_who_do_not_see_it() -> None:
    assert alt_text(coloured_tokens(["a<", " b"], [1, 2], title="T")) == "T. Text: a< ·b. Colour: activation."


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="got 2 tokens and 1 numbers"):
        coloured_tokens(["a", "b"], [1.0])
    with pytest.raises(BadInput, match="601 tokens are more than can be read"):
        coloured_tokens(["a"] * 601, torch.zeros(601))
