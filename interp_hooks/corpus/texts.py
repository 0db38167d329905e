"""Texts as rows of tokens, all of one length, as language models are trained and measured on.

    BOS | text 1 ... text 1 EOS text 2 ...      every row is full: a text may go on in the next row
    BOS | ... text 2 EOS text 3 ...             tokens at the end that do not fill a row are dropped

Texts are read one by one, and only as many as are needed, so that only the rows have to fit in memory. A tokenizer here
is one of transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from interp_hooks.errors import BadInput, TokenError, nearest
from interp_hooks.errors.arguments import checked, told
from interp_hooks.model.token_text import read
from interp_hooks.model.tokenization import check_tokenizer

Texts = Iterable[str] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A data set on the HuggingFace hub, and the column that holds its texts."""

    path: str
    config: str | None = None
    column: str = "text"


CORPORA = {
    "wiki": Corpus(path="Salesforce/wikitext", config="wikitext-2-v1"),
    "owt": Corpus(path="stas/openwebtext-10k"),
    "pile": Corpus(path="NeelNanda/pile-10k"),
    "code": Corpus(path="codeparrot/codeparrot-valid-v2-near-dedup", column="content"),
}


def corpus_texts(name: str) -> Iterator[str]:
    """The texts of a corpus on the HuggingFace hub ("wiki", "owt", "pile", "code"), in their order there.

    Raises:
        BadInput: an unknown corpus.
        ImportError: the package `datasets` is not installed.
    """
    if name not in CORPORA:
        raise BadInput(f"there is no corpus {name!r}; there are {', '.join(CORPORA)}.{nearest(name, CORPORA)}")
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"the corpus {name!r} comes from the hub: pip install datasets, or give texts") from error
    corpus = CORPORA[name]
    return (str(row[corpus.column]) for row in load_dataset(corpus.path, corpus.config, split="train"))


def token_rows(
    texts: Texts,
    tokenizer: Any,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
) -> Iterator[Int[Tensor, " pos"]]:
    """Read texts as full rows of `max_length` tokens, one after the other; the BOS counts.

    `texts` are strings, or mappings that have the text at `column_name`.

    Raises:
        BadInput: `max_length` leaves no room for text, texts of another kind, or no tokenizer of transformers.
        TokenError: the tokenizer has no EOS, or no BOS where rows have to begin with one; a text that it would cut.
    """
    check_tokenizer(tokenizer)
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if eos is None or (add_bos_token and bos is None):
        raise TokenError("the tokenizer needs an EOS token to part texts, and a BOS token unless add_bos_token=False")
    begins = [bos] if add_bos_token else []
    if max_length <= len(begins):
        raise BadInput(f"max_length={max_length} leaves no room for text")
    waiting: list[Any] = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            text = text[column_name] if isinstance(text, Mapping) and column_name in text else text
        if not isinstance(text, str):
            raise BadInput(f"texts are strings, or mappings with the text at {column_name!r}, got {told(text)}")
        waiting += [eos] * (number > 0) + read(tokenizer, text)
        room = max_length - len(begins)
        full = len(waiting) // room * room
        for start in range(0, full, room):
            yield torch.tensor(begins + waiting[start : start + room])
        waiting = waiting[full:]


@dataclass(frozen=True, eq=False)
class TokenRows(Dataset):
    """Rows of tokens in the form that torch's and HuggingFace's loaders take: `rows[3]["tokens"]`, `rows["tokens"]`.

    Each has an "attention_mask" too, which says that all of its tokens are real.
    """

    tokens: Int[Tensor, "row pos"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, str):
            return {"tokens": self.tokens[index], "attention_mask": torch.ones_like(self.tokens[index])}
        if index not in ("tokens", "attention_mask"):
            raise KeyError(f"rows have the columns 'tokens' and 'attention_mask', got {index!r}")
        return self.tokens if index == "tokens" else torch.ones_like(self.tokens)


@checked
def tokenize_and_concatenate(
    dataset: Texts,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = None,
) -> TokenRows:
    """Texts as full rows of tokens, all of them; see `token_rows`.

    `streaming` and `num_proc`, which other libraries take, change nothing here.

    Raises:
        BadInput: the texts do not fill one row, or are a single string.
    """
    if isinstance(dataset, str):
        raise BadInput("dataset must be a list of texts (or rows of a data set), got one string: pass [text]")
    return TokenRows(first_rows(token_rows(dataset, tokenizer, max_length, column_name, add_bos_token), max_length))


def first_rows(rows: Iterator[Tensor], max_length: int, most: int | None = None) -> Int[Tensor, "row pos"]:
    """The first `most` rows (None: all) as one tensor.

    Raises:
        BadInput: there is no row.
    """
    found = list(islice(rows, most))
    if not found:
        raise BadInput(f"these texts do not fill a row of {max_length} tokens; give more text or a smaller max_length")
    return torch.stack(found)


def _data_loader(name: str) -> Callable[..., DataLoader]:
    def make_data_loader(
        tokenizer: Any, batch_size: int = 8, max_length: int = 1024, rows: int | None = None
    ) -> DataLoader:
        tokens = first_rows(token_rows(corpus_texts(name), tokenizer, max_length), max_length, rows)
        return DataLoader(TokenRows(tokens), batch_size=batch_size, drop_last=True)

    make_data_loader.__doc__ = f"Batches of the first `rows` rows (default: all) of the corpus {name!r}, in its order."
    return make_data_loader


make_wiki_data_loader = _data_loader("wiki")
make_owt_data_loader = _data_loader("owt")
make_pile_data_loader = _data_loader("pile")
make_code_data_loader = _data_loader("code")
