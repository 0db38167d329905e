"""Texts become full rows of tokens, in order, parted by EOS."""

import sys
import types
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch.utils.data import DataLoader

from interp_hooks.corpus import texts as corpora
from interp_hooks.corpus.texts import TokenRows, corpus_texts, token_rows, tokenize_and_concatenate
from interp_hooks.errors import BadInput, TokenError
from tests.experiments.by_hand import word_tokenizer

WORDS = [f"w{number}" for number in range(12)]


@pytest.fixture
def tokenizer() -> Any:
    """BOS 0, word w0 is 3; EOS is w11."""
    tokenizer = word_tokenizer(*WORDS)
    tokenizer.eos_token = "w11"
    return tokenizer


def ids(text: str) -> list[int]:
    return [0 if word == "BOS" else 3 + int(word[1:]) for word in text.split()]


TEXTS = ["w0 w1 w2", "w3", "w4 w5 w6 w7 w8"]


def test_rows_by_hand(tokenizer: Any) -> None:
    rows = [row.tolist() for row in token_rows(TEXTS, tokenizer, max_length=4)]
    assert rows == [ids("BOS w0 w1 w2"), ids("BOS w11 w3 w11"), ids("BOS w4 w5 w6")]  # w7 w8 fill no row
    bare = [row.tolist() for row in token_rows(TEXTS, tokenizer, max_length=4, add_bos_token=False)]
    assert bare == [ids("w0 w1 w2 w11"), ids("w3 w11 w4 w5")]


def test_what_the_tokenizer_adds_by_itself_is_left_out(tokenizer: Any) -> None:
    expected = [row.tolist() for row in token_rows(TEXTS, tokenizer, max_length=4)]
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = begins
    assert tokenizer.encode("w0") == [0, 3]
    assert [row.tolist() for row in token_rows(TEXTS, tokenizer, max_length=4)] == expected


def test_only_what_is_needed_is_read(tokenizer: Any) -> None:
    read: list[int] = []

    def texts() -> Any:
        for number in range(100):
            read.append(number)
            yield "w0 w1 w2"

    rows = token_rows(texts(), tokenizer, max_length=4)
    next(rows)
    assert read == [0]


def test_data_sets_have_columns(tokenizer: Any) -> None:
    found = tokenize_and_concatenate([{"content": text} for text in TEXTS], tokenizer, False, 4, "content", num_proc=3)
    assert torch.equal(found.tokens, torch.stack(list(token_rows(TEXTS, tokenizer, 4))))
    assert len(found) == 3
    assert found[1]["tokens"].tolist() == ids("BOS w11 w3 w11")
    assert found[:2]["tokens"].shape == (2, 4)
    assert torch.equal(found["tokens"], found.tokens)
    (batch,) = DataLoader(found, batch_size=3)
    assert torch.equal(batch["tokens"], found.tokens)
    assert torch.equal(batch["attention_mask"], found["attention_mask"]), "rows are full, though some end with an EOS"
    assert bool(found["attention_mask"].all())
    with pytest.raises(KeyError, match="the columns 'tokens' and 'attention_mask'"):
        found["text"]


def test_errors(tokenizer: Any) -> None:
    with pytest.raises(BadInput, match="do not fill a row of 99"):
        tokenize_and_concatenate(TEXTS, tokenizer, max_length=99)
    with pytest.raises(BadInput, match="no room"):
        next(token_rows(TEXTS, tokenizer, max_length=1))
    with pytest.raises(TokenError, match="needs an EOS"):
        next(token_rows(TEXTS, word_tokenizer(*WORDS), max_length=4))


def test_corpora_come_from_the_hub(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, config: str | None, split: str) -> Any:
        asked.append((path, config, split))
        return [{"text": "w0 w1 w2 w3", "content": "w4 w5 w6 w7"}] * 3

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert list(corpus_texts("pile")) == ["w0 w1 w2 w3"] * 3
    assert list(corpus_texts("code")) == ["w4 w5 w6 w7"] * 3
    loader = corpora.make_wiki_data_loader(tokenizer, batch_size=2, max_length=4, rows=3)
    (batch,) = loader  # the second batch is not full
    assert batch["tokens"].tolist() == [ids("BOS w0 w1 w2"), ids("BOS w3 w11 w0")]
    assert asked[-1] == ("Salesforce/wikitext", "wikitext-2-v1", "train")
    assert isinstance(loader.dataset, TokenRows)
    with pytest.raises(BadInput, match="Did you mean pile"):
        corpus_texts("piel")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        corpus_texts("pile")
