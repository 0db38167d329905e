"""The page about two models: its findings with evidence and calls, text as text, and nothing asked of a network."""

import copy
import doctest
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.studies import diff_models
from interp_hooks.studies.comparisons.findings import ModelDiff
from interp_hooks.views import difference_page
from interp_hooks.views.differences import checked_folder
from tests.test_public_names import FLAGS, examples_of, world
from tests.tiny import build, random_tokens
from tests.views.small import HOSTILE
from tests.views.test_report_in_browser import BROWSER, Dom, visit

__all__ = ["world"]


@pytest.fixture(scope="module")
def found() -> ModelDiff:
    model, source = build(d_vocab=19, seed=0), build(d_vocab=19, seed=1)
    twin = copy.deepcopy(model)
    twin.blocks[1].load_state_dict(source.blocks[1].state_dict())
    return diff_models(model, twin, random_tokens(batch=12, pos=9, d_vocab=19), n=2, names=("first", HOSTILE[0]))


def test_all_findings_stand_there_with_their_calls(found: ModelDiff, tmp_path: Path) -> None:
    page = difference_page(found, tmp_path / "page.html", command="interp-hooks diff a b").read_text(encoding="utf-8")
    seen = Dom(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)).texts
    for one in (*found.behaviour, *found.places):
        assert one.claim in seen
    for one in (*found.behaviour[:10], *found.places):
        assert one.call in seen
    assert "interp-hooks diff a b" in seen
    assert HOSTILE[0] not in page
    assert page.count('class="figure"') == 5, "weights, both directions of patching, activations, attention"


def test_texts_of_tables_are_made_visible(found: ModelDiff, tmp_path: Path) -> None:
    one = replace(found.behaviour[0], evidence=pd.DataFrame({"token": [" Mary"], "before": ["x" * 99 + " end"]}))
    page = difference_page(replace(found, behaviour=[one]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>·Mary</td>" in page
    assert f"<td>…{'x' * 56} end</td>" in page


def test_models_that_are_the_same_have_a_page_too(tmp_path: Path) -> None:
    model = build(d_vocab=19)
    same = diff_models(model, model, torch.tensor([[1, 2, 3, 1, 2, 3]]), n=2)
    page = difference_page(same, tmp_path / "page.html", models=(model, model)).read_text(encoding="utf-8")
    assert "Nothing that was looked for differs." in page
    assert f"{model.n_params_total:,}" in page


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "thesis.tex").touch()
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        checked_folder(tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        checked_folder(tmp_path / "no" / "where")


def test_the_example_runs(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTest(examples_of(difference_page), dict(world), "difference_page", None, 0, None)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test).failed == 0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: chromium, chromium-browser or google-chrome")
def test_it_opens_without_a_network(found: ModelDiff, tmp_path: Path) -> None:
    seen = visit(difference_page(found, tmp_path / "page.html"), tmp_path)
    assert [set(drawn) for drawn in Dom(seen.dom).figures] == [{"bar"}, {"bar"}, {"bar"}, {"cells"}, {"cells"}]
    assert not seen.console
    assert not seen.asked
    assert "pwned" not in seen.title.replace('&lt;script&gt;document.title="pwned"&lt;/script&gt;', "")
