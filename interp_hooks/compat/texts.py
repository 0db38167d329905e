"""Functions of TransformerLens on tokenizers, data sets and files of the hub, with the results they had there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks import without_collecting
from interp_hooks.compat.utilities import is_library_available, select_compatible_kwargs
from interp_hooks.corpus.texts import TokenRows, token_rows
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import checked

DATASETS = {
    **dict.fromkeys(("openwebtext", "owt"), "stas/openwebtext-10k"),
    **{name: f"NeelNanda/{name}-10k" for name in ("pile", "c4", "code", "wiki")},
    "python": "NeelNanda/code-10k",
    **dict.fromkeys(("c4_code", "c4-code"), "NeelNanda/c4-code-20k"),
}


def get_dataset(dataset_name: str, **kwargs: Any) -> Any:
    """A small data set of the hub; other arguments go to `datasets.load_dataset`.

    Raises:
        BadInput: none is known by that name; ImportError: the package `datasets` is not installed.
    """
    if dataset_name not in DATASETS:
        raise BadInput(
            f"there is no data set {dataset_name!r}; there are {', '.join(DATASETS)}.{nearest(dataset_name, DATASETS)}"
        )
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]

    return load_dataset(DATASETS[dataset_name], split="train", **kwargs)


def keep_single_column(dataset: Any, col_name: str) -> Any:
    """A data set with one of its columns."""
    return dataset.remove_columns([name for name in dataset.features if name != col_name])


@checked
def tokenize_and_concatenate(
    dataset: Iterable[Any],
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = None,
    set_format: bool = True,
) -> Any:
    """Texts as full rows of tokens, as a `datasets` data set where that package is installed (else as `TokenRows`).

    Texts follow each other with an EOS between them, as `interp_hooks.corpus.texts.token_rows` tells; if they do not
    fill one row, it is filled up with the padding token, or EOS. An iterable data set gives one that reads on demand.
    `streaming` and `num_proc` change nothing here; without `set_format` rows are lists of numbers.

    Raises:
        BadInput, TokenError: as `token_rows`.
    """

    def rows() -> Iterator[Tensor]:
        found = token_rows(dataset, tokenizer, max_length, column_name, add_bos_token)
        first = next(found, None)
        yield _short(dataset, tokenizer, max_length, column_name, add_bos_token) if first is None else first
        yield from found

    if not is_library_available("datasets"):
        return TokenRows(torch.stack(list(rows())))
    import datasets  # pyright: ignore[reportMissingImports]

    if isinstance(dataset, datasets.IterableDataset):
        return datasets.IterableDataset.from_generator(lambda: ({"tokens": row.tolist()} for row in rows()))
    kept = datasets.Dataset.from_dict({"tokens": torch.stack(list(rows())).numpy()})
    return kept.with_format("torch", columns=["tokens"]) if set_format else kept


def _short(dataset: Iterable[Any], tokenizer: Any, max_length: int, column: str, add_bos_token: bool) -> Tensor:
    """The one row of texts that do not fill one, filled up."""
    texts = [text if isinstance(text, str) else text[column] for text in dataset]
    fill = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    tokens = [tokenizer.bos_token_id] * add_bos_token
    for number, text in enumerate(texts):
        tokens += [tokenizer.eos_token_id] * (number > 0) + tokenizer(text, add_special_tokens=False).input_ids
    return torch.tensor(tokens + [fill] * (max_length - len(tokens)))


# ------------------------------------------------------------------------------------------------------ BOS and padding


@without_collecting()
def get_tokenizer_with_bos(tokenizer: Any) -> Any:
    """The tokenizer if it puts a BOS before a text, or has none; else a copy of it that does.

    Both have the lists that it read from its files, which are as long as its vocabulary, and which nothing changes.
    """
    if tokenizer.bos_token is None or getattr(tokenizer, "add_bos_token", False):
        return tokenizer
    lists = [vars(tokenizer)[name] for name in ("_vocab", "_merges") if name in vars(tokenizer)]
    with_bos = copy.deepcopy(tokenizer, {id(one): one for one in lists})
    with_bos.add_bos_token = True
    return with_bos


def get_input_with_manually_prepended_bos(bos_token: str | None, input: str | Sequence[str]) -> str | list[str]:
    """A text, or each of some texts, with a BOS before it; None is no BOS."""
    before = bos_token or ""
    return before + input if isinstance(input, str) else [before + text for text in input]


def _leading(is_pad: Tensor) -> Tensor:
    """Where a row begins with such tokens."""
    return is_pad.int().cumprod(-1).bool()


def get_tokens_with_bos_removed(tokenizer: Any, tokens: Tensor, padding_side: str | None = None) -> Tensor:
    """Token ids without the BOS of each row, which is first, or stands after the padding on the left."""
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    if bos is None:
        return tokens
    if (padding_side or tokenizer.padding_side) == "right":
        return tokens[..., 1:]
    place = _leading(tokens == pad).sum(-1) - 1 if bos == pad else (tokens == bos).int().argmax(-1)
    others = torch.arange(tokens.shape[-1], device=tokens.device) != place[..., None]
    return tokens[others].view(*tokens.shape[:-1], -1)


def get_attention_mask(
    tokenizer: Any, tokens: Int[Tensor, "batch pos"], prepend_bos: bool, padding_side: str | None = None
) -> Int[Tensor, "batch pos"]:
    """1 for real tokens and 0 for padding, which is a run of padding tokens at one end of a row.

    Where the padding token is the BOS and `prepend_bos`, the last one of a run on the left is the BOS.
    """
    if tokenizer.pad_token_id is None:
        return torch.ones_like(tokens)
    is_pad = tokens == tokenizer.pad_token_id
    if (padding_side or tokenizer.padding_side) == "right":
        return (~_leading(is_pad.flip(-1)).flip(-1)).to(tokens.dtype)
    padded = _leading(is_pad)
    if prepend_bos and tokenizer.bos_token_id == tokenizer.pad_token_id:
        padded = torch.cat([padded[..., 1:], torch.zeros_like(padded[..., :1])], -1)
    return (~padded).to(tokens.dtype)


# ---------------------------------------------------------------------------------------------------------------- files


def download_file_from_hf(
    repo_name: str,
    file_name: str,
    subfolder: str = ".",
    cache_dir: str | None = None,
    force_is_torch: bool = False,
    **kwargs: Any,
) -> Any:
    """What is in a file of the hub: data of JSON, tensors and plain values of torch; of other kinds, its path.

    Raises:
        pickle.UnpicklingError: a file of torch that holds more, which could run code.
    """
    from huggingface_hub import hf_hub_download

    more = select_compatible_kwargs(kwargs, hf_hub_download)
    path = Path(hf_hub_download(repo_name, file_name, subfolder=subfolder, cache_dir=cache_dir, **more))
    if path.suffix == ".pth" or force_is_torch:
        return torch.load(path, map_location="cpu", weights_only=True)
    return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else str(path)
