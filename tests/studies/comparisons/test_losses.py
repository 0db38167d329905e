"""Losses of two models on the same characters: what they sum to, where they are aligned, and what groups say."""

import copy
import math

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, NoTokenizer
from interp_hooks.studies import LossComparison, compare_losses
from interp_hooks.studies.comparisons.losses import _aligned, _cumulated
from tests.tiny import build, random_tokens
from tests.tokenizers_like import tokenizer_like

TEXTS = ["When Mary and John went to the store, John gave a ring to Mary", "Then Simon saw 12 boxes!", "naïve 😀 Lucy"]


def reader(kind: str, seed: int = 0, **fields) -> HookedTransformer:
    """A random model with the tokenizer of a kind."""
    tokenizer = tokenizer_like(kind)
    fields = dict(d_vocab=len(tokenizer), d_vocab_out=len(tokenizer), n_ctx=64) | fields
    model = build(seed=seed, **fields)
    return with_text(model, tokenizer)


def with_text(model: HookedTransformer, tokenizer) -> HookedTransformer:
    made = HookedTransformer(model.cfg, tokenizer=copy.copy(tokenizer)).eval()
    made.load_state_dict(model.state_dict())
    return made


def own_loss(model: HookedTransformer, text: str) -> float:
    """The sum of losses over a text, in bits, by the model alone."""
    tokens = model.to_tokens(text)
    with torch.no_grad():
        each = model(tokens, return_type="loss", loss_per_token=True)
    return float(each.sum()) / math.log(2)


@pytest.mark.parametrize(
    "kinds", [("neox", "neox"), ("neox", "llama"), ("gemma", "llama-metaspace"), ("llama", "gemma")]
)
def test_spans_tile_the_texts_and_sum_to_each_models_own_loss(kinds: tuple[str, str]) -> None:
    models = [reader(kind, seed) for seed, kind in enumerate(kinds)]
    found = compare_losses(*models, TEXTS)
    assert "".join(found.spans) == "".join(TEXTS)
    for number, text in enumerate(TEXTS):
        paid = found.bits[found.document == number].sum(0)
        for model, bits in zip(models, paid.tolist(), strict=True):
            assert bits == pytest.approx(own_loss(model, text), rel=1e-9)
            assert found.result().values[models.index(model), number] == pytest.approx(bits / len(text))
    if kinds[0] != kinds[1]:
        assert len(found.losses) < min(sum(model.to_tokens(text).shape[1] - 1 for text in TEXTS) for model in models)


def test_spans_are_tokens_where_tokenizers_agree() -> None:
    a, b = reader("neox", 0), reader("neox", 1)
    found = compare_losses(a, b, TEXTS[:2])
    expected = [piece for text in TEXTS[:2] for piece in a.to_str_tokens(text)[1:]]
    assert found.spans == expected
    with torch.no_grad():
        losses = torch.cat([b(b.to_tokens(text), return_type="loss", loss_per_token=True)[0] for text in TEXTS[:2]])
    torch.testing.assert_close(found.losses[:, 1], losses)


def test_places_in_the_middle_of_a_character_are_no_ends() -> None:
    """By hand: the first model has "a", half of "é", the other half, "b"; the second "aé" and "b"."""
    paid = torch.tensor([math.nan, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    one = _cumulated([(0, 0), (0, 1), (1, 2), (1, 2), (2, 3)], paid)
    assert {place: at.paid for place, at in one.items()} == {0: 0, 1: 1, 2: 7, 3: 15}
    other = _cumulated([(0, 0), (0, 2), (2, 3)], torch.tensor([math.nan, 16.0, 32.0], dtype=torch.float64))
    spans = _aligned(one, other)
    assert list(zip(*spans, strict=True)) == [(0, 2, (7.0, 16.0)), (2, 3, (8.0, 32.0))]
    across = _cumulated([(0, 0), (0, 1), (0, 2), (1, 2), (0, 0)], paid)  # its second token has halves of two characters
    assert {place: at.paid for place, at in across.items()} == {0: 0, 2: 7}


def test_what_only_one_model_predicts_is_left_out() -> None:
    """Without BOS the first token has no loss; of pieces each first one has none."""
    a, b = reader("neox", 0), reader("neox", 1)
    b.default_prepend_bos = False
    found = compare_losses(a, b, TEXTS[:1])
    assert "".join(found.spans) == TEXTS[0].removeprefix(b.to_str_tokens(TEXTS[0])[0])
    pieces = compare_losses(a, b, TEXTS[:1], length=4)
    starts = b.to_str_tokens(TEXTS[0])[::4]
    assert sum(map(len, pieces.spans)) == len(TEXTS[0]) - sum(map(len, starts))
    whole = compare_losses(a, a, TEXTS[:1], length=5)
    assert "".join(whole.spans) == TEXTS[0], "a BOS stands before every piece"


def test_token_ids_are_compared_one_by_one() -> None:
    a, b = build(d_vocab=19, seed=0), build(d_vocab=19, seed=1)
    tokens = random_tokens(batch=4, pos=9, d_vocab=19)
    found = compare_losses(a, b, tokens, tokens_at_once=18)
    with torch.no_grad():
        expected = [model(tokens, return_type="loss", loss_per_token=True).flatten() for model in (a, b)]
    torch.testing.assert_close(found.losses, torch.stack(expected, dim=1))
    assert found.unit == "token"
    assert found.spans[:3] == [str(id) for id in tokens[0, 1:4].tolist()]
    assert not compare_losses(a, a, tokens).by("position", least=1).mean[:, 2:5].any()


def test_groups_by_repetition() -> None:
    """By hand, of 5 6 7 5 6 8 6 7: the second 6 continues 5, and the last 7 continues 6."""
    found = LossComparison(
        unit="token",
        losses=torch.tensor([[8.0, 8], [8, 8], [8, 8], [8, 2], [8, 8], [8, 8], [8, 4]], dtype=torch.float64),
        document=torch.zeros(7, dtype=torch.long),
        start=torch.arange(1, 8),
        end=torch.arange(2, 9),
        texts=[["5", "6", "7", "5", "6", "8", "6", "7"]],
    )
    by = found.by("repetition", least=1)
    table = by.table().pivot(index="repetition", columns="measure", values="value")
    assert table["spans"].to_dict() == {"continues a repetition": 2, "new": 3, "seen before": 2}
    assert not table.loc[["new", "seen before"], "difference"].any()
    assert table.loc["continues a repetition", "difference"] == pytest.approx(-(6 + 4) / 2 / math.log(2))
    assert by.axes["repetition"][0] == "continues a repetition"
    assert found.largest(1)["before"].tolist() == ["5 6 7 5"]
    assert found.largest(5, better="model").empty
    with pytest.raises(BadInput, match="has 3 spans"):
        found.by("bigram", least=3)


def test_effects_and_contrasts_by_formula() -> None:
    a, b = reader("neox", 0), reader("neox", 1)
    found = compare_losses(a, b, TEXTS)
    change = found.bits[:, 1] - found.bits[:, 0]
    by = found.by("kind", least=2)
    row = by.mean[by.axes["kind"].index("number")]
    inside = torch.tensor([span.strip()[:1].isdigit() for span in found.spans])
    assert int(row[5]) == int(inside.sum())
    x, y = change[inside], change[~inside]
    pooled = ((x.var(unbiased=False) * len(x) + y.var(unbiased=False) * len(y)) / len(change)).sqrt()
    assert float(row[4]) == pytest.approx(float((x.mean() - y.mean()) / pooled))
    both = found.bits.var(0, unbiased=False).mean().sqrt()
    assert float(row[3]) == pytest.approx(float(x.mean() / both))
    assert by.mean[:, 4].abs().tolist() == sorted(by.mean[:, 4].abs().tolist(), reverse=True)


def test_it_is_kept(tmp_path) -> None:
    found = compare_losses(reader("neox", 0), reader("llama", 1), TEXTS)
    found.save(tmp_path / "losses")
    loaded = LossComparison.load(tmp_path / "losses")
    assert loaded.largest().equals(found.largest())
    assert loaded.table().equals(found.table())


def test_what_cannot_be_compared() -> None:
    a, b, ids = reader("neox", 0), reader("llama", 1), torch.tensor([[1, 2, 3]])
    with pytest.raises(BadInput, match="other vocabularies"):
        compare_losses(a, b, ids)
    with pytest.raises(BadInput, match="either all texts or all token ids"):
        compare_losses(a, a, ["When Mary", ids[0]])
    with pytest.raises(BadInput, match="has no text of which both models predict"):
        compare_losses(a, a, [])
    with pytest.raises(BadInput, match="sees the tokens that follow"):
        compare_losses(a, build(attention_dir="bidirectional"), TEXTS)
    with pytest.raises(NoTokenizer):
        compare_losses(a, build(), TEXTS)
