"""Text with numbers: each token stands on the colour of its number, in the order of reading."""

import itertools

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views import alt_text, coloured_tokens
from interp_hooks.views.adapting import DEEP, NEGATIVE, PAPER, POSITIVE
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
