"""What comes through each part sums to the score and to the output, and goes when the edge is patched."""

from typing import Any

import pytest
import torch

from interp_hooks import Intervention, LogitDiff, Run, at, record
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.heads import pointer_induction
from interp_hooks.studies.heads.composing import composition_parts, shares_of
from interp_hooks.studies.heads.scores import score_split
from interp_hooks.studies.heads.sources import direct_effect_by_source
from tests.tiny import CUSTOM, assert_close, build, in_turn, random_tokens, unchecked_types

WITHOUT = ("post-norm", "score-cap-clipped", "plain-experts", "solu", "borrowed-keys", "indexed")  # or with few keys
NAMES = [name for name in CUSTOM if name not in WITHOUT]
PLAIN: dict[str, Any] = dict(normalization_type=None, attn_only=True, std=0.2)
SIDES = {"Q": "query_part", "K": "key_part"}


@pytest.mark.parametrize(("name", "via"), in_turn(NAMES, ["Q", "K"]))
def test_parts_are_those_of_the_split_score(name: str, via: Any) -> None:
    model, tokens = build(**CUSTOM[name]), random_tokens(2, d_vocab=23)
    found = composition_parts(model, tokens, via, query=5, key=4)
    for layer, head in ((2, 3), (1, 0), (0, 1)):
        split = score_split(model, tokens, layer, head, 5, 4)
        parts = dict(zip(split.axes[SIDES[via]], split.values.sum(1 if via == "Q" else 0), strict=True))
        nothing = torch.zeros(2, dtype=torch.float64)
        expected = torch.stack([parts.get(sender, nothing) for sender in found.axes["sender"]])
        assert_close(found.values[:, 4 * layer + head], expected, 1e-10)
        assert {*parts} <= {*found.axes["sender"]}


@pytest.mark.parametrize("via", ["Q", "K"])
@pytest.mark.parametrize("name", ["folded", "alibi-windows", "sinks-capped", "output-norms", "bidirectional"])
def test_without_places_they_sum_to_how_much_better_the_attended_keys_score(name: str, via: Any) -> None:
    model, real = build(**CUSTOM[name]), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    run = Run(random_tokens(2, d_vocab=23), (), real)
    hooks = ["blocks.2.attn.hook_attn_scores", "blocks.2.attn.hook_pattern"]
    scores, pattern = (record(model, run, hooks)[hook][:, 1] for hook in hooks)
    seen = scores.isfinite()
    slope = model.cfg.alibi_slopes[1] if model.cfg.alibi_slopes else 0.0
    place = torch.arange(7)
    product = (scores + slope * (place[:, None] - place)).masked_fill(~seen, 0.0)
    rows = (pattern * product).sum(-1) - pattern.sum(-1) * product.sum(-1) / seen.sum(-1)
    expected = (rows * real).sum(1) / real.sum(1)
    found = composition_parts(model, run, via).values[:, 9]
    assert_close(found.sum(0), expected.detach(), 1e-10)
    at_one = composition_parts(model, run, via, query=5).values[:, 9]
    assert_close(at_one.sum(0), rows[:, 5].detach(), 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_parts_by_values_sum_to_the_output(name: str) -> None:
    model, tokens = build(**CUSTOM[name]), random_tokens(2, d_vocab=23)
    _, cache = model.run_with_cache(tokens)
    written = torch.stack(
        [torch.einsum("bqhk,hkd->hbqd", cache["z", layer], model.blocks[layer].attn.W_O) for layer in range(3)]
    ).flatten(0, 1)
    squared = written.detach().pow(2).sum(-1)
    assert_close(composition_parts(model, tokens, "V", query=5).values.sum(0), squared[..., 5], 1e-10)
    assert_close(composition_parts(model, tokens, "V").values.sum(0), squared.mean(-1), 1e-10)
    answer, wrong = torch.tensor([1, 2]), torch.tensor([3, 4])
    found = composition_parts(model, tokens, "V", query=5, answer=answer, wrong=wrong)
    effects = direct_effect_by_source(model, tokens, answer, wrong, pos=5).values.sum(2).flatten(0, 1)
    assert_close(found.values.sum(0), effects.detach(), 1e-10)


@pytest.mark.parametrize("via", ["Q", "K"])
def test_without_norms_patching_an_edge_takes_its_part_away(via: Any) -> None:
    model, tokens, other = build(**PLAIN), random_tokens(2, d_vocab=23), random_tokens(2, d_vocab=23, seed=1)
    found = composition_parts(model, tokens, via, query=5, key=3, against=2, corrupt=other)
    hook, into = "blocks.2.attn.hook_attn_scores", at(f"{via.lower()}_input", 2, head=3)
    before = record(model, Run(tokens), [hook])[hook][:, 3, 5]
    for layer, head in ((0, 1), (1, 2)):
        run = Run(tokens, [Intervention(at("z", layer, head=head), Run(other), into=into)])
        after = record(model, run, [hook])[hook][:, 3, 5]
        change = (before[:, 3] - before[:, 2]) - (after[:, 3] - after[:, 2])
        assert_close(found.values[found.axes["sender"].index(f"L{layer}H{head}"), 11], change.detach(), 1e-10)


def test_path_patching_by_values_of_the_last_layer_has_exactly_that_effect() -> None:
    """There nothing comes between: attention is as it was, and no norm is on the way."""
    from interp_hooks.studies.heads.pairs import path_effects

    model, tokens, other = build(**PLAIN), random_tokens(3, d_vocab=23), random_tokens(3, d_vocab=23, seed=1)
    answer, wrong = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    effects = path_effects(model, tokens, other, LogitDiff(answer, wrong), via=["V"]).values[0]
    found = composition_parts(model, tokens, "V", answer=answer, wrong=wrong, corrupt=other)
    rows = [found.axes["sender"].index(label) for label in model.all_head_labels()[:8]]
    assert_close(found.values[rows, 8:], -effects[:8, 8:], 1e-9)


def test_the_induction_head_has_its_keys_from_the_previous_token_head() -> None:
    known = induction()
    copies = known.task.clean[:8]
    found = shares_of(composition_parts(known.model, copies, "K", query=6, key=2, against=3))
    row, reader = found.axes["sender"].index("L0H0"), found.axes["reader"].index("L1H0")
    assert_close(found.values[row, reader], torch.ones(8, dtype=torch.float64), 1e-12)
    by_query = shares_of(composition_parts(known.model, copies, "Q", query=6, key=2, against=3))
    assert not by_query.values[row, reader].any()


def test_the_pointing_head_has_its_queries_from_the_duplicate_token_head() -> None:
    known = pointer_induction()
    found = shares_of(composition_parts(known.model, known.task.clean[:8], "Q", query=6, key=2, against=3))
    row, reader = found.axes["sender"].index("L0H0"), found.axes["reader"].index("L1H0")
    assert_close(found.values[row, reader], torch.ones(8, dtype=torch.float64), 1e-12)


def test_shares_sum_to_one() -> None:
    model, tokens = build(), random_tokens(3, d_vocab=23)
    found = shares_of(composition_parts(model, tokens, "V"))
    assert_close(found.mean.sum(0), torch.ones(12, dtype=torch.float64), 1e-10)
    nothing = build(**PLAIN)
    with torch.no_grad():
        nothing.blocks[1].attn.W_O[2] = 0.0
    assert bool(shares_of(composition_parts(nothing, tokens, "V")).values[:, 6].isnan().all())


def test_what_is_refused() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    unknown: Any = "QK"
    for call, message in (
        (lambda: composition_parts(model, tokens, unknown), "via must be"),
        (lambda: composition_parts(model, tokens, "Q", key=3), "pass query too"),
        (lambda: composition_parts(model, tokens, "V", query=5, key=3), "a query alone"),
        (lambda: composition_parts(model, tokens, "Q", answer=1), "with via='V'"),
        (lambda: composition_parts(model, tokens, "V", wrong=1), "wrong needs an answer"),
        (lambda: composition_parts(model, tokens, "V", answer=[1, 2, 3]), "answer: expected one answer"),
        (lambda: composition_parts(model, tokens, "Q", query=3, key=5), "the key must be one"),
        (lambda: composition_parts(model, tokens, "Q", corrupt=tokens[:, :5]), "token by token"),
        (lambda: composition_parts(build(**CUSTOM["post-norm"]), tokens, "Q"), "post-norm"),
        (lambda: composition_parts(build(**CUSTOM["score-cap-clipped"]), tokens, "V"), "clips"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
