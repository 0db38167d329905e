"""Ranks of answers, as printed and as returned."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.compat import answers
from interp_hooks.errors import BadInput, NoTokenizer
from tests.experiments.by_hand import word_tokenizer
from tests.tiny import build, redraw

WORDS = ["Mary", "John", "went", "to", "the", "store", "park"]
PROMPT = "Mary went to"


@pytest.fixture(scope="module")
def reader() -> HookedTransformer:
    model = HookedTransformer(build(d_vocab=10, d_vocab_out=10).cfg, tokenizer=word_tokenizer(*WORDS))
    redraw(model, std=0.4)
    return model


def rank(model: HookedTransformer, read: str, answer: str, **options: Any) -> int:
    """By sorting all tokens."""
    logits = model(read, **options)[0, -1]
    return logits.argsort(descending=True).tolist().index(model.to_single_token(answer))


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_every_token_of_an_answer_has_a_rank(prepend_bos: bool | None, reader: HookedTransformer) -> None:
    found = answers.test_prompt(PROMPT, "the park", reader, print_details=False, prepend_bos=prepend_bos)
    expected = [
        (" the", rank(reader, PROMPT, "the", prepend_bos=prepend_bos)),
        (" park", rank(reader, PROMPT + " the", "park", prepend_bos=prepend_bos)),
    ]
    assert found == expected


def test_several_answers_are_compared_by_their_first_token(reader: HookedTransformer) -> None:
    found = answers.test_prompt(PROMPT, ["store", "the park", "John"], reader, print_details=False)
    assert found == [(f" {word}", rank(reader, PROMPT, word)) for word in ("store", "the", "John")]


def test_what_is_printed(reader: HookedTransformer, capsys: pytest.CaptureFixture[str]) -> None:
    found = answers.test_prompt(PROMPT, "the park", reader, top_k=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Tokenized prompt: [' <s>', ' Mary', ' went', ' to']"
    assert lines[1] == "Tokenized answer: [' the', ' park']"
    assert len(lines) == 2 + 2 * (1 + 3) + 1
    logits = reader(PROMPT)[0, -1]
    the, best = reader.to_single_token("the"), int(logits.argmax())
    chance = logits.softmax(-1)
    answer = f"Answer token rank {found[0][1]} logit {logits[the]:.2f} prob {chance[the]:.2%} | the|"
    assert lines[2].split() == answer.split()
    (word,) = reader.to_str_tokens([best])
    assert lines[3].split()[2:] == f"0 logit {logits[best]:.2f} prob {chance[best]:.2%} |{word}|".split()
    assert lines[-1] == f"Ranks of the answer tokens: {found}"

    answers.test_prompt(PROMPT, ["store", "park"], reader, top_k=100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + reader.cfg.d_vocab + 1, "the likeliest tokens once, at most as many as there are"
    answers.test_prompt(PROMPT, "store", reader, print_details=False)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_space_before_the_answer() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny")
    prompt = "When Mary and John went to the store, John gave a ring to"
    for answer in ("Mary", " Mary"):
        assert answers.test_prompt(prompt, answer, model, print_details=False) == [(" Mary", 0)]
    without = answers.test_prompt(prompt, "Mary", model, prepend_space_to_answer=False, print_details=False)
    assert "".join(piece for piece, _ in without) == "Mary"
    assert without[0][1] > 0


def test_errors(reader: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="at least one answer"):
        answers.test_prompt(PROMPT, [], reader)
    with pytest.raises(BadInput, match="not causal"):
        answers.test_prompt(PROMPT, "the", build(attention_dir="bidirectional"))
    with pytest.raises(NoTokenizer):
        answers.test_prompt(PROMPT, "the", build())
    assert not torch.is_inference_mode_enabled()
