"""What is measured of a checkpoint, against sums written out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks.errors import BadInput, NoTokenizer
from interp_hooks.studies import (
    FourierShares,
    HeadAttention,
    HeadComposition,
    InContextScore,
    NextTokenLoss,
    WeightNorms,
    usual_measures,
)
from interp_hooks.studies.training_runs.measures import rows_of
from tests.tiny import build, our_logits, random_tokens, unchecked_types

PLAIN = dict(d_vocab_out=23, normalization_type=None)


def losses_by_hand(logits: Tensor, tokens: Tensor) -> list[list[float]]:
    """Of every row, the loss of each token but the first."""
    return [
        [-float(logits[row, at - 1].log_softmax(-1)[tokens[row, at]]) for at in range(1, tokens.shape[1])]
        for row in range(len(tokens))
    ]


def test_losses_of_rows() -> None:
    model, tokens = build(d_vocab_out=23), random_tokens(3, 7, 23)
    each = losses_by_hand(our_logits(model, tokens), tokens)
    found = NextTokenLoss(tokens=tokens)(model)
    assert (found.axes, found.metric) == ({}, "loss_nats")
    assert found.values.tolist() == pytest.approx([sum(row) / 6 for row in each], rel=1e-12)
    counted = torch.zeros_like(tokens, dtype=torch.bool)
    counted[0, [0, 2]], counted[1, 6], counted[2, 3:] = True, True, True
    found = NextTokenLoss(tokens=tokens, counted=counted)(model)
    assert found.values.tolist() == pytest.approx([each[0][1], each[1][5], sum(each[2][2:]) / 4], rel=1e-12)


def test_in_context_score_is_late_minus_early() -> None:
    model, tokens = build(d_vocab_out=23), random_tokens(3, 8, 23)
    each = losses_by_hand(our_logits(model, tokens), tokens)
    found = InContextScore(tokens=tokens, early=2, late=7)(model)
    assert found.values.tolist() == pytest.approx([row[6] - row[1] for row in each], rel=1e-12)


def test_many_rows_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = build(d_vocab_out=23), random_tokens(7, 6, 23)
    whole = NextTokenLoss(tokens=tokens)(model).values
    monkeypatch.setattr("interp_hooks.studies.training_runs.measures.AT_ONCE", 13)
    torch.testing.assert_close(NextTokenLoss(tokens=tokens)(model).values, whole, rtol=1e-12, atol=0)


def test_attention_of_heads_above_uniform() -> None:
    model = build(d_vocab_out=23)
    tokens = torch.tensor([[4, 7, 2, 9, 4, 7, 2, 9]])
    _, cache = model.run_with_cache(tokens)
    found = HeadAttention(kind="induction", tokens=tokens)(model)
    assert found.axes == {"head": [f"L{layer}H{head}" for layer in range(3) for head in range(4)]}
    for layer in range(3):
        pattern = cache["pattern", layer][0]
        wanted = torch.stack([pattern[:, query, query - 3] for query in range(4, 8)]).mean(0)
        uniform = sum(1 / (query + 1) for query in range(4, 8)) / 4
        assert found.mean[4 * layer : 4 * layer + 4].tolist() == pytest.approx((wanted - uniform).tolist(), rel=1e-9)


def test_composition_is_that_of_the_matrices() -> None:
    model = build(**PLAIN)
    found = HeadComposition(via="K")(model)
    OV, QK_T = model.W_V @ model.W_O, model.W_K @ model.W_Q.mT
    pairs = [(a, h, b, k) for a in range(3) for h in range(4) for b in range(a + 1, 3) for k in range(4)]
    assert found.axes == {"heads": [f"L{a}H{h} > L{b}H{k}" for a, h, b, k in pairs]}
    for value, (a, h, b, k) in zip(found.mean.tolist(), pairs, strict=True):
        one, other = OV[a, h].detach(), QK_T[b, k].detach()
        expected = torch.linalg.matrix_norm(one @ other) / (
            torch.linalg.matrix_norm(one) * torch.linalg.matrix_norm(other)
        )
        assert value == pytest.approx(float(expected), rel=1e-9)
    assert HeadComposition(via="K", statistic="score_z")(model).mean.isfinite().all()


def test_norms_of_weights() -> None:
    model = build()
    found = WeightNorms()(model)
    squares = {name: float((weight.detach() ** 2).sum()) for name, weight in model.named_parameters()}
    assert found.axes == {"weight": [*squares, "all"]}
    assert (found.mean**2).tolist() == pytest.approx([*squares.values(), sum(squares.values())], rel=1e-12)


@pytest.mark.parametrize("p", [7, 12])
def test_shares_of_frequencies_are_numpys(p: int) -> None:
    model = build()
    power = np.abs(np.fft.rfft(model.W_E[:p].detach().numpy(), axis=0)) ** 2
    power[1 : (p + 1) // 2] *= 2  # those that numpy leaves out, since they mirror these
    expected = power.sum(1)[1:] / power.sum(1)[1:].sum()
    found = FourierShares(p=p)(model)
    assert list(found.axes["frequency"]) == list(range(1, p // 2 + 1))
    assert found.mean.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["repetition_loss", "induction", "previous_token", "K_composition", "weight_norms"]),
        ({"n_layers": 1}, ["repetition_loss", "induction", "previous_token", "weight_norms"]),
        ({"attention_dir": "bidirectional"}, ["K_composition", "weight_norms"]),
        ({"n_ctx": 3}, ["K_composition", "weight_norms"]),
        ({"gated_attn": True}, ["repetition_loss", "K_composition", "weight_norms"]),
    ],
)
def test_usual_measures_are_those_that_a_model_has_a_place_for(fields: dict[str, Any], expected: list[str]) -> None:
    model = build(**dict(d_vocab_out=23) | fields)
    found = usual_measures(model, n=2)
    assert list(found) == expected
    assert all(bool(measure(model).values.isfinite().all()) for measure in found.values())


def test_usual_measures_of_given_tokens_and_residues() -> None:
    model = build(d_vocab_out=23, n_ctx=520, n_layers=1)
    found = usual_measures(model, random_tokens(1, 502, 23), modulus=11, n=2)
    assert {"loss", "in_context_score", "fourier_shares"} < set(found)
    assert "in_context_score" not in usual_measures(model, random_tokens(1, 40, 23), n=2)
    with pytest.raises(BadInput, match=r"p must be 3\.\.23"):
        usual_measures(model, modulus=24)


def test_the_same_seed_draws_the_same_tokens() -> None:
    model = build(d_vocab_out=23)
    one, same, other = (usual_measures(model, n=2, seed=seed)["repetition_loss"](model) for seed in (0, 0, 1))
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.values, other.values)


TOKENS = random_tokens(2, 6, 23)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NextTokenLoss(tokens=TOKENS[0]), r"tokens must be a tensor \[batch pos\]"),
        (lambda: NextTokenLoss(tokens=TOKENS[:, :1]), "at least two tokens"),
        (lambda: NextTokenLoss(tokens=TOKENS, counted=torch.ones(2, 5).bool()), r"counted must be \[batch, pos\]"),
        (lambda: NextTokenLoss(tokens=TOKENS, counted=torch.eye(2, 6).bool()), "row 0 has no token that counts"),
        (lambda: InContextScore(tokens=TOKENS), "1 <= early < late < 6 of the rows, got 50 and 500"),
        (lambda: HeadAttention(kind="inducton", tokens=TOKENS), "Did you mean induction"),
        (lambda: HeadComposition(via="K", statistic="z")(build()), "statistic must be 'score' or 'score_z'"),  # type: ignore
        (lambda: HeadComposition(via="O")(build()), "via must be 'Q', 'K' or 'V'"),  # type: ignore
        (lambda: usual_measures(build(), n=0), "n must be at least 1"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        make()


def test_a_corpus_needs_a_tokenizer(tmp_path: Any) -> None:
    (tmp_path / "texts.txt").write_text("some text\n")
    with pytest.raises(NoTokenizer):
        rows_of(build(), tmp_path / "texts.txt", 2)
