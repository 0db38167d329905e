"""Losses and accuracies against what they are by hand, and what a known circuit gets."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus import evals
from interp_hooks.corpus.evals import (
    corpus_losses,
    evaluate_on_dataset,
    evaluate_on_texts,
    induction_loss,
    lm_accuracy,
    sanity_check,
)
from interp_hooks.corpus.texts import token_rows
from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from tests.experiments.by_hand import word_tokenizer
from tests.experiments.gates import induction
from tests.tiny import assert_close, build, random_tokens, redraw

WORDS = ["Mary", "John", "Van", "Gogh", "Cliburn", "gave", "it", "to", "and", "end"]


@pytest.fixture(scope="module")
def reader() -> Any:
    """A random model with a tokenizer of words, whose EOS is "end"."""
    tokenizer = word_tokenizer(*WORDS)
    tokenizer.eos_token = "end"
    model = HookedTransformer(build(n_ctx=12, d_vocab=20, d_vocab_out=20).cfg, tokenizer=tokenizer)
    redraw(model, std=0.4)
    return model


def losses_of(model: Any, tokens: Tensor) -> Tensor:
    """[batch, pos-1], in nats."""
    log_probs = model(tokens, attention_mask=torch.ones_like(tokens)).log_softmax(-1)
    return -log_probs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]


def test_accuracy() -> None:
    tokens = torch.tensor([[0, 2, 1], [1, 1, 0]])
    logits = torch.zeros(2, 3, 3)
    for row, place, likeliest in ((0, 0, 2), (0, 1, 0), (1, 0, 1), (1, 1, 0), (0, 2, 1)):
        logits[row, place, likeliest] = 1.0
    assert lm_accuracy(logits, tokens, per_token=True).tolist() == [[True, False], [True, True]]
    assert lm_accuracy(logits, tokens).item() == 0.75


def test_sanity_check(reader: Any) -> None:
    tokens = reader.to_tokens(evals.PARAGRAPH, truncate=True)
    assert tokens.shape[1] == reader.cfg.n_ctx
    assert_close(sanity_check(reader), losses_of(reader, tokens).mean(), 1e-12)


def test_padding_does_not_count(reader: Any) -> None:
    """Neither where a mask says it, nor where the model finds it."""
    texts = ["w1 w2 w3 w1 w2", "w3 w1"]
    tokens = reader.to_tokens(texts)
    losses = torch.cat([losses_of(reader, reader.to_tokens(text))[0] for text in texts])
    real = reader.text.padding(tokens).real
    assert real.sum(1).tolist() == [6, 3]
    for batch in ({"tokens": tokens}, {"tokens": tokens, "attention_mask": real.long()}):
        assert evaluate_on_dataset(reader, [batch]) == pytest.approx(losses.mean().item(), rel=1e-12)
    right = torch.cat(
        [reader(reader.to_tokens(text))[0, :-1].argmax(-1) == reader.to_tokens(text)[0, 1:] for text in texts]
    )
    found = lm_accuracy(reader(tokens), tokens, attention_mask=real)
    assert found.item() == pytest.approx(right.float().mean().item())
    assert int(lm_accuracy(reader(tokens), tokens, True, real).sum()) == int(right.sum())


# ---------------------------------------------------------------------------------------------------------------- text


def test_every_token_counts_alike(reader: Any) -> None:
    each = random_tokens(3, 5, 20, seed=0), random_tokens(1, 7, 20, seed=1)
    batches = [{"tokens": tokens, "attention_mask": torch.ones_like(tokens)} for tokens in each]
    losses = [losses_of(reader, tokens) for tokens in each]
    expected = torch.cat([loss.flatten() for loss in losses]).mean().item()
    assert evaluate_on_dataset(reader, batches) == pytest.approx(expected, rel=1e-12)
    assert evaluate_on_dataset(reader, batches, truncate=1) == pytest.approx(losses[0].mean().item(), rel=1e-12)
    assert evaluate_on_dataset(reader, batches, truncate=None, device="cpu") == pytest.approx(expected, rel=1e-12)
    with pytest.raises(BadInput, match="no batch"):
        evaluate_on_dataset(reader, [])
    with pytest.raises(BadInput, match="not evaluated on cuda"):
        evaluate_on_dataset(reader, batches, device="cuda")


def test_texts(reader: Any) -> None:
    texts = ["Mary gave it to John and Van", "John and Mary", "to Van Gogh it gave and to Mary"] * 3
    rows = torch.stack(list(token_rows(texts, reader.tokenizer, 5)))
    assert len(rows) > 5
    expected = losses_of(reader, rows).mean().item()
    assert evaluate_on_texts(reader, texts, batch_size=3, max_length=5) == pytest.approx(expected, rel=1e-12)
    two = evaluate_on_texts(reader, texts, truncate=2, batch_size=2, max_length=5)
    assert two == pytest.approx(losses_of(reader, rows[:4]).mean().item(), rel=1e-12)
    whole = torch.stack(list(token_rows(texts, reader.tokenizer, reader.cfg.n_ctx)))
    found = corpus_losses(reader, texts={"mine": texts, "other": texts[:3]})
    assert found["mine_loss"] == pytest.approx(losses_of(reader, whole).mean().item(), rel=1e-12)
    assert list(found) == ["mine_loss", "other_loss"]
    with pytest.raises(BadInput, match="do not fill a row of 12"):
        evaluate_on_texts(reader, ["Mary"])
    with pytest.raises(NoTokenizer):
        evaluate_on_texts(build(), texts)


# ---------------------------------------------------------------------------------------------------------- repetition


def tokens_read(model: HookedTransformer, **options: Any) -> tuple[Tensor, Tensor]:
    read: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    loss = induction_loss(model, **options)
    handle.remove()
    return read[0], loss


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_what_is_read_and_what_is_counted(prepend_bos: bool | None, reader: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens, loss = tokens_read(reader, batch_size=6, subseq_len=4, prepend_bos=prepend_bos, generator=generator)
    bos = 0 if prepend_bos is False else 1
    assert tokens.shape == (6, 8 + bos)
    assert bool((tokens[:, :bos] == 0).all())
    first, second = tokens[:, bos : bos + 4], tokens[:, bos + 4 :]
    assert torch.equal(first, second), "the BOS overwrites nothing"
    assert all(len(set(row.tolist())) == 4 for row in first), "drawn without replacement"
    assert len({tuple(row.tolist()) for row in first}) > 1, "each row its own"
    special = {0, 1, 2, 3 + WORDS.index("end")}
    assert not special & set(first.flatten().tolist())
    assert int(first.max()) < len(reader.tokenizer), "no id that the tokenizer does not write"
    assert_close(loss, losses_of(reader, tokens)[:, bos + 4 :].mean(), 1e-12)
    again = induction_loss(reader, None, 6, 4, prepend_bos, generator=torch.Generator().manual_seed(3))
    assert_close(again, loss, 1e-12)


def test_a_circuit_that_repeats() -> None:
    """Its logit of the right token is 40, of all ten others 0; without its attention it has no idea."""
    circuit, tokenizer = induction(), word_tokenizer(*WORDS[:8])
    with torch.no_grad():
        circuit.unembed.W_U *= 40
    assert induction_loss(circuit, tokenizer, subseq_len=5, prepend_bos=True) < 1e-6
    with circuit.hooks(fwd_hooks=[("z1", lambda z, hook: z * 0)]):
        blind = induction_loss(circuit, tokenizer, subseq_len=5, prepend_bos=True)
    assert blind.item() == pytest.approx(math.log(11), abs=1e-6)


def test_what_does_not_fit(reader: Any) -> None:
    with pytest.raises(BadInput, match=r"must be 2\.\.5"):
        induction_loss(reader)
    with pytest.raises(BadInput, match="fewer than subseq_len=12"):
        induction_loss(build(n_ctx=30, d_vocab_out=11), subseq_len=12)
    with pytest.raises(TokenError, match="BOS"):
        induction_loss(build(), subseq_len=3, prepend_bos=True)
    assert tokens_read(build(), subseq_len=3)[0].shape == (4, 6)


def test_the_bundled_model_repeats() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny")
    assert induction_loss(model, subseq_len=30, generator=torch.Generator().manual_seed(0)) < 0.5
