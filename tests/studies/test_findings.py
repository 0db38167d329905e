"""Findings: claims that are checked again, and shown on the pages of a wiki."""

from pathlib import Path

import pytest

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import Finding, check_findings
from tests.tiny import build, random_tokens


def has_three_layers(model: HookedTransformer) -> bool:
    return model.cfg.n_layers == 3


def has_no_layers(model: HookedTransformer) -> bool:
    return not model.cfg.n_layers


HEAD = Finding(part="L2H3", claim="does it", evidence="seen", check=has_three_layers)
NEURON = Finding(part="L0N19", claim="does not <b>", evidence="hoped", check=has_no_layers)


def test_each_is_checked() -> None:
    table = check_findings(build(), [HEAD, NEURON])
    assert table["holds"].tolist() == [True, False]
    assert table["check"].tolist() == [f"{__name__}.has_three_layers", f"{__name__}.has_no_layers"]
    assert table["part"].tolist() == ["L2H3", "L0N19"]


def test_parts_that_there_are_not() -> None:
    with pytest.raises(BadInput, match="'L1H0', or a neuron, 'L2N17', got 'head 3'"):
        Finding(part="head 3", claim="", evidence="", check=has_no_layers)
    for part in ("L3H0", "L0H4", "L0N20"):
        with pytest.raises(BadInput, match=f"this model has no {part}"):
            Finding(part=part, claim="", evidence="", check=has_no_layers).holds(build())
    with pytest.raises(BadInput, match="True or False, got 'yes'"):
        Finding(part="L0H0", claim="", evidence="", check=lambda model: "yes").holds(build())  # pyright: ignore


def test_they_stand_on_the_pages_of_their_parts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="a wiki needs pyarrow")
    from interp_hooks.studies import wiki

    model = build(d_vocab_out=23)
    given = dict(top=1, per_band=1, sample=2, causal=False, progress=False)
    made = wiki(model, random_tokens(batch=3, pos=8, d_vocab=23), tmp_path / "w", findings=[HEAD, NEURON], **given)
    found = made.listings.query("listing == 'findings'").sort_values("unit")
    assert found["unit"].tolist() == ["head", "neuron"]
    assert found["layer"].tolist() == [2, 0]
    assert found["index"].tolist() == [3, 19]
    assert found["value"].tolist() == [1.0, 0.0]
    assert found["text"].iloc[1].startswith("does not <b> (hoped; ")
