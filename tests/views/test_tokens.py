import pytest

from interp_hooks.views.tokens import MOST_TICKS, escaped, shortened, ticks, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Mary", "·Mary"),
        ("Mary", "Mary"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        ("\r\n", "␍⏎"),
        ("", "∅"),
        ("\x00", "\\x00"),
        ("\u202e", "\\u202e"),  # would turn the text that follows around
        ("\u00a0", "\\xa0"),
        ("é", "é"),
        ("�", "�"),
    ],
)
def test_whitespace_and_what_cannot_be_printed_is_made_visible(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("<b>", "&lt;b&gt;"), ("&lt;", "&amp;lt;"), ("$x$", "&#36;x&#36;"), (3, "3"), ('"it\'s"', '"it\'s"')],
)
def test_nothing_is_markup_or_tex(text, shown):
    assert escaped(text) == shown


def test_equal_labels_keep_places_of_their_own():
    axis = ticks(["a", "b", "a"])
    assert axis["tickvals"] == [0, 1, 2]
    assert axis["ticktext"] == ["a", "b", "a"]


def test_long_axes_show_every_nth_label_at_its_place():
    axis = ticks([str(place) for place in range(500)])
    assert len(axis["tickvals"]) <= MOST_TICKS
    assert axis["ticktext"] == [str(place) for place in axis["tickvals"]]
    assert axis["tickvals"][-1] > 490


def test_no_labels():
    assert ticks([])["tickvals"] == []


def test_long_labels_are_cut_before_they_are_escaped():
    assert shortened("a" * 16) == "a" * 16
    assert shortened("a" * 17) == "a" * 15 + "…"
    assert ticks(["<" * 17])["ticktext"] == ["&lt;" * 15 + "…"]
