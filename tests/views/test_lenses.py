"""The picture of a lens shows what its result says, and escapes what tokens hold."""

import html
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, ioi_pairs, logit_lens
from interp_hooks.errors import BadInput
from interp_hooks.views import lens_figure
from tests.experiments.by_hand import TOKENS, word_tokenizer
from tests.tiny import build, unchecked_types


@pytest.fixture(scope="module")
def lens() -> Any:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    return logit_lens(model, ioi_pairs(model, 2).clean, pos=None)


@pytest.mark.parametrize("colour", ["kl", "rank", "prob"])
def test_every_cell_shows_what_the_lens_says(lens: Any, colour: Any) -> None:
    drawn = lens_figure(lens, 1, colour=colour, k=3)
    (trace,) = drawn.data
    z = torch.tensor(trace.z, dtype=torch.float64)
    final = lens.log_probs[-1].argmax(-1)
    expected = {
        "kl": lens.kl[:, :, 1],
        "rank": (1 + lens.rank(final.T)[:, :, 1].double()).log10(),
        "prob": lens.log_probs[:, :, 1].exp().amax(-1),
    }[colour]
    assert torch.allclose(z, expected.double(), atol=1e-6)
    words = lens.words(3)
    for row in range(4):
        for column in range(len(lens.tokens[1])):
            shown, told = (html.unescape(one[row][column]) for one in (trace.text, trace.hovertext))
            first = words[row][column][1][0].replace(" ", "·")
            assert shown == first if len(first) <= 9 else shown == f"{first[:8]}…"
            assert all(word.replace(" ", "·") in told for word in words[row][column][1])
            assert f"KL {float(lens.kl[row, column, 1]):.4g} nats" in told
    assert list(drawn.layout.yaxis.ticktext) == lens.labels
    assert len(drawn.layout.xaxis.ticktext) == len(lens.tokens[1])


def test_points_may_be_left_out_and_the_last_stays(lens: Any) -> None:
    assert list(lens_figure(lens, stride=2).layout.yaxis.ticktext) == ["1_pre", "final_post"]
    assert list(lens_figure(lens, stride=9).layout.yaxis.ticktext) == ["final_post"]


def test_padding_is_not_drawn_and_markup_is_text() -> None:
    cfg = build(d_vocab_out=23).cfg
    model = HookedTransformer(cfg, word_tokenizer("a", "b", "<b>", "c"), default_padding_side="left")
    model.load_state_dict(build(d_vocab_out=23).state_dict())
    drawn = lens_figure(logit_lens(model, ["a b c", "c"], pos=None), 1)
    assert len(drawn.layout.xaxis.ticktext) == 2
    assert "position 2: ·&lt;s&gt;" in drawn.data[0].hovertext[0][0]
    assert "<b>" not in "".join(drawn.data[0].hovertext[0])


def test_what_cannot_be_drawn(lens: Any) -> None:
    one = logit_lens(build(), TOKENS)
    with unchecked_types():
        for wrong, message in (
            (lambda: lens_figure(one), "pos=None"),
            (lambda: lens_figure(lens, 2), r"prompt must be 0\.\.1"),
            (lambda: lens_figure(lens, colour="blue"), "colour must be"),
            (lambda: lens_figure(lens, stride=0), "stride must be"),
        ):
            with pytest.raises(BadInput, match=message):
                wrong()
