"""Divergences of predictions, against the formula over all logits; what one model favours, where that is planted."""

import copy
import itertools

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import PredictionChanges, prediction_changes
from tests.tiny import FAMILY_CONFIGS, build, fresh_hf, random_tokens

TOKENS = random_tokens(batch=6, pos=9, d_vocab=19)
QUIET = dict(progress=False, exclude=())


@pytest.fixture(scope="module")
def pair() -> tuple[HookedTransformer, HookedTransformer]:
    return build(d_vocab=19, seed=0), build(d_vocab=19, seed=1)


def test_measures_are_those_of_the_logits(pair) -> None:
    found = prediction_changes(*pair, TOKENS, tokens_at_once=18, **QUIET)
    with torch.no_grad():
        p, q = (torch.distributions.Categorical(logits=model(TOKENS)[:, :-1]) for model in pair)
    kl, reverse = torch.distributions.kl_divergence(p, q), torch.distributions.kl_divergence(q, p)
    came = q.log_prob(TOKENS[:, 1:]) - p.log_prob(TOKENS[:, 1:])
    same = (p.logits.argmax(-1) == q.logits.argmax(-1)).double()
    expected = torch.stack([one.mean() for one in (kl, reverse, came, same)])
    torch.testing.assert_close(found.mean, expected, rtol=1e-10, atol=1e-12)
    best = found.contexts().iloc[0]
    assert best["kl_nats"] == pytest.approx(float(kl.max()))
    row, place = divmod(int(kl.argmax()), 8)
    assert (best["document"], best["position"]) == (row, place + 1)
    assert best["token"] == str(int(TOKENS[row, place + 1]))
    assert best["before"].split() == [str(id) for id in TOKENS[row, : place + 1].tolist()]
    rare = found.by_token(100, least=1)
    token = rare.iloc[3]
    at = TOKENS[:, 1:] == int(token["token"])
    assert token["kl_nats"] == pytest.approx(float(kl[at].mean()))
    assert token["count"] == int(at.sum())


def test_log_prob_differences_average_to_the_divergence(pair) -> None:
    """Over all next tokens of some contexts, each as often as the model says it, up to what counting leaves."""
    contexts = TOKENS[:3, :4]
    every = torch.stack([torch.cat((row, torch.tensor([id]))) for row, id in itertools.product(contexts, range(19))])
    with torch.no_grad():
        p, q = (model(every)[:, -2].log_softmax(-1) for model in pair)
    weight = p.exp().gather(1, every[:, -1:])[:, 0]
    found = [prediction_changes(*pair, row[None], **QUIET) for row in every]
    before = [prediction_changes(*pair, row[None, :-1], **QUIET) for row in every]
    last = torch.stack([one.mean[2] * 4 - other.mean[2] * 3 for one, other in zip(found, before, strict=True)])
    divergence = (p.exp() * (p - q)).sum(-1).reshape(3, 19)[:, 0]
    torch.testing.assert_close(-(weight * last).reshape(3, 19).sum(1), divergence, rtol=1e-9, atol=1e-10)


def test_a_model_beside_itself_and_its_processed_twin(pair) -> None:
    found = prediction_changes(pair[0], pair[0], TOKENS, **QUIET)
    assert found.mean.tolist() == [0, 0, 0, 1]
    assert found.mining().empty
    hf = fresh_hf(next(iter(FAMILY_CONFIGS))).double()
    raw = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf, dtype=torch.float64)
    processed = HookedTransformer.from_pretrained("tiny", hf_model=hf, dtype=torch.float64)
    assert not torch.allclose(raw.W_U, processed.W_U)
    twin = prediction_changes(raw, processed, random_tokens(batch=3, pos=9), **QUIET)
    assert float(twin.mean[:3].abs().max()) < 1e-12


def test_a_favoured_token_is_mined(pair) -> None:
    twin = copy.deepcopy(pair[0])
    with torch.no_grad():
        twin.unembed.b_U[7] += 3.0
    found = prediction_changes(pair[0], twin, TOKENS, **QUIET)
    table = found.mining()
    assert table["token"].tolist() == ["7"]
    assert table["share"].tolist() == [1.0]
    assert table["enrichment"].tolist() == [19.0], "one of 19 tokens is mined at each position"
    assert table["raised"].tolist() == [1.0]
    assert found.by_token(1, "log_prob_difference", least=1)["token"].tolist() == ["7"]


def test_no_split_of_a_corpus_matters(pair) -> None:
    one, other = (prediction_changes(*pair, TOKENS, per_batch=n, **QUIET) for n in (1, 6))
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-13, atol=0)
    assert one.contexts().drop(columns="kl_nats").equals(other.contexts().drop(columns="kl_nats"))
    assert one.mining().equals(other.mining())


def test_it_is_kept(pair, tmp_path) -> None:
    found = prediction_changes(*pair, TOKENS, **QUIET)
    found.save(tmp_path / "predictions")
    loaded = PredictionChanges.load(tmp_path / "predictions")
    for table in ("table", "contexts", "by_token", "mining"):
        assert getattr(loaded, table)().equals(getattr(found, table)())


def test_what_cannot_be_compared(pair) -> None:
    with pytest.raises(BadInput, match="other vocabularies"):
        prediction_changes(pair[0], build(), TOKENS, **QUIET)
    with pytest.raises(BadInput, match="follows another"):
        prediction_changes(*pair, TOKENS[:, :1], **QUIET)
    with pytest.raises(BadInput, match="measure must be one of"):
        prediction_changes(*pair, TOKENS, **QUIET).contexts("kl")
