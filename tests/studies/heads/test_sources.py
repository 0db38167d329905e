"""What comes from each source sums to what the head writes, and to its direct effect."""

from typing import Any

import pytest
import torch

from interp_hooks import LogitDiff, Run, Task, direct_logit_attribution
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.planted import planted_fact
from interp_hooks.studies.heads.sources import direct_effect_by_source, masks_of, result_by_source
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

FIELDS = {
    "layer norm": {},
    "shared keys": dict(n_key_value_heads=2, normalization_type="RMS"),
    "output norms": CUSTOM["output-norms"],
    "multipliers": dict(residual_scale=0.5, logits_scale=0.3),
    "sinks": dict(attn_sinks=True),
}


@pytest.mark.parametrize("name", FIELDS)
def test_sources_sum_to_the_direct_effect_of_each_head(name: str) -> None:
    model, tokens = build(**FIELDS[name]), random_tokens(3, d_vocab=23)
    answer, wrong = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    found = direct_effect_by_source(model, tokens, answer, wrong)
    whole = direct_logit_attribution(model, tokens, answer, wrong, unit="head")
    assert found.values.shape == (3, 4, 7, 3)
    assert_close(found.values.sum(2).flatten(0, 1), whole.values[:12].detach(), 1e-10)


@pytest.mark.parametrize("name", FIELDS)
def test_sources_sum_to_the_result(name: str) -> None:
    model, tokens = build(**FIELDS[name]), random_tokens(2, d_vocab=23)
    _, cache = model.run_with_cache(tokens, names_filter="blocks.1.attn.hook_result")
    found = result_by_source(model, tokens, 1, 2, pos=4)
    assert found.shape == (2, 7, 12)
    assert_close(found.sum(1).detach(), cache["result", 1][:, 4, 2], 1e-10)
    assert not found[:, 5:].any(), "later tokens are not seen"


def test_groups_are_sums_of_their_positions() -> None:
    model = build()
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    run = Run(random_tokens(2, d_vocab=23), (), real)
    single = direct_effect_by_source(model, run, 3)
    groups: Any = {"one": torch.tensor([3, 1]), "two": torch.tensor([[4, 5], [0, 2]]), "last": -1}
    found = direct_effect_by_source(model, run, 3, groups=groups)
    assert found.axes["source"] == ["one", "two", "last", "other"]
    for prompt, (one, two, last) in enumerate((([3], [4, 5], [6]), ([1], [0, 2], [6]))):
        rest = [pos for pos in range(7) if real[prompt, pos] and pos not in one + two + last]
        for row, places in enumerate((one, two, last, rest)):
            expected = single.values[:, :, places, prompt].sum(2)
            assert_close(found.values[:, :, row, prompt], expected, 1e-10)
    mask = masks_of(run, {"one": torch.tensor([[0, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]).bool()})
    assert not mask["other"][~run.real].any(), "padding is in no group"
    assert torch.equal(mask["one"], masks_of(run, {"one": groups["one"]})["one"])


def test_a_fact_comes_from_its_subject() -> None:
    known = planted_fact()
    task = known.task
    answer, wrong = task.answer[:, -1], task.wrong[:, -1]
    asked = Task(
        name="fact",
        clean=task.clean,
        corrupt=task.corrupt,
        answer=answer,
        wrong=wrong,
        metric=LogitDiff(answer, wrong),
    )
    found = direct_effect_by_source(known.model, asked, groups={"subject": 2, "relation": 3})
    heads = found.values[1, :, :, :].sum(0)  # source prompt
    assert_close(heads[0], torch.ones(24, dtype=torch.float64), 1e-9)
    assert float(heads[1:].abs().max()) < 1e-9


def test_what_is_refused() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    masked = build(**CUSTOM["post-norm"])
    for call, message in (
        (lambda: direct_effect_by_source(model, tokens), "answer is needed"),
        (lambda: direct_effect_by_source(model, tokens, [1, 2, 3]), "answer: expected one answer"),
        (lambda: direct_effect_by_source(model, tokens, 1, groups={"a": 9}), "the group 'a': position 9"),
        (lambda: direct_effect_by_source(model, tokens, 1, groups={"other": 1}), "call the group something else"),
        (lambda: direct_effect_by_source(model, tokens, 1, groups={"a": 1, "b": [1, 2]}), "share a position"),
        (lambda: direct_effect_by_source(model, tokens, 1, groups={"a": tokens > 3, "b": tokens[:, :2] > 3}), "mask"),
        (lambda: direct_effect_by_source(masked, tokens, 1, pos=1), "masked-LM head"),
        (lambda: result_by_source(model, tokens, 3, 0), "no head 0 in layer 3"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
