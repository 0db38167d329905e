"""Rows that hold several documents: each is read as if it had a row for itself."""

import pytest
import torch

from interp_hooks import KeyValueCache
from interp_hooks.errors import BadInput
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, random_tokens, unchecked_types

TOKENS = random_tokens(batch=2, pos=9, d_vocab=19)
DOCUMENTS = torch.tensor([[0] * 4 + [1] * 3 + [2] * 2, [7] * 2 + [3] * 7])
APART = [(row, DOCUMENTS[row] == number) for row in range(2) for number in DOCUMENTS[row].unique()]
EVERY_TOKEN = torch.ones(1, 9, dtype=torch.bool)  # so that none is taken for padding


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_documents_of_a_row_are_read_apart(name: str) -> None:
    model = hooked(name)
    if model.cfg.mixers is not None:
        with pytest.raises(BadInput, match="give each document a row of its own"):
            model(TOKENS, documents=DOCUMENTS, attention_mask=EVERY_TOKEN.expand(2, -1))
        return
    logits = model(TOKENS, documents=DOCUMENTS, attention_mask=EVERY_TOKEN.expand(2, -1))
    for row, within in APART:
        alone = TOKENS[row : row + 1, within]
        assert_close(logits[row, within], model(alone, attention_mask=torch.ones_like(alone))[0], 1e-9)


def test_a_pass_may_start_at_a_layer() -> None:
    model = hooked("alibi-windows")
    mask = EVERY_TOKEN.expand(2, -1)
    logits, cache = model.run_with_cache(TOKENS, documents=DOCUMENTS, attention_mask=mask, names_filter="resid_pre1")
    again = model(cache["resid_pre1"], start_at_layer=1, tokens=TOKENS, documents=DOCUMENTS, attention_mask=mask)
    assert_close(again, logits, 1e-12)


def test_nothing_is_predicted_of_the_next_document() -> None:
    model, mask = hooked("gpt2"), EVERY_TOKEN.expand(2, -1)
    losses = model(TOKENS, "loss", loss_per_token=True, documents=DOCUMENTS, attention_mask=mask)
    apart = []
    for row, within in APART:
        alone = TOKENS[row : row + 1, within]
        of_alone = model(alone, "loss", loss_per_token=True, attention_mask=torch.ones_like(alone))[0]
        assert_close(losses[row, within.nonzero()[:-1, 0]], of_alone, 1e-9)
        apart.append(of_alone)
    assert int((losses != 0).sum()) == sum(map(len, apart))
    mean = model(TOKENS, "loss", documents=DOCUMENTS, attention_mask=mask)
    assert_close(mean, torch.cat(apart).mean(), 1e-9)


def test_what_does_not_fit_is_refused() -> None:
    model = hooked("gpt2")
    with pytest.raises(BadInput, match=r"documents must be \[batch, pos\] = \[2, 9\], got \[2, 5\]"):
        model(TOKENS, documents=DOCUMENTS[:, :5])
    with pytest.raises(BadInput, match="past_kv_cache"):
        model(TOKENS, documents=DOCUMENTS, past_kv_cache=KeyValueCache.init_cache(model.cfg, "cpu", 2))
    with pytest.raises(BadInput, match="pass token ids, not text"):
        model("a b", documents=DOCUMENTS)
    with unchecked_types(), pytest.raises(BadInput, match="must be an integer"):
        model(TOKENS, documents=DOCUMENTS / 2)


def test_frequencies_that_depend_on_the_length_refuse_a_long_document() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0, "max_position_embeddings": 4}
    model = build(positional_embedding_type="rotary", rotary_layers=(rope,) * 3)
    short = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]])
    model(TOKENS[:1], documents=short)
    with pytest.raises(BadInput, match="a row of its own"):
        model(TOKENS[:1], documents=torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]]))
