"""How well a model does what language models are made for: predict text, and repeat what it has read.

Losses are in nats per token. Nothing is downloaded unless you leave the texts out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.texts import CORPORA, Texts, corpus_texts, first_rows, token_rows
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.losses import check_counted, check_predicted, counted_predictions
from interp_hooks.model.tokenization import check_tokenizer
from interp_hooks.model.transformer import HookedTransformer

PARAGRAPH = (
    "For a long time nobody could say why the water in the harbour rose and fell twice a day. Then somebody noticed "
    "that the highest water came with the full moon and with the new one, and within a few years the tables that "
    "sailors kept could be computed instead of remembered."
)


@checked
def lm_accuracy(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    per_token: bool = False,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, ""] | Bool[Tensor, "batch pos-1"]:
    """The share of tokens that the model found likeliest before they came; `per_token` tells for each whether it did.

    With `attention_mask` [batch, pos], a prediction counts if both its token and the next one are real.

    Raises:
        BadInput: tokens or a mask of another shape than the logits; for the share, no real token that follows another.
    """
    check_predicted(logits, tokens, attention_mask)
    right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    counted = torch.ones_like(right) if attention_mask is None else counted_predictions(attention_mask).to(right.device)
    if per_token:
        return right & counted
    check_counted(counted.sum())
    return (right & counted).sum() / counted.sum()


@no_gradients
@checked
def sanity_check(model: HookedTransformer) -> Float[Tensor, ""]:
    """The loss on some plain English: below 5 for a language model that works, above 7 where something is wrong."""
    return model(model.to_tokens(PARAGRAPH, truncate=True), return_type="loss")


# ------------------------------------------------------------------------------------------------------------ text


@no_gradients
@checked
def evaluate_on_dataset(
    model: HookedTransformer,
    data_loader: Iterable[Mapping[str, Tensor]],
    truncate: int | None = 100,
    device: Any = None,
) -> float:
    """The mean loss per token over the first `truncate` batches (None: all), each {"tokens": [batch, pos]}.

    Padding does not count: what the batch's "attention_mask" says, or without one what the model finds.

    Raises:
        BadInput: no batches, a device other than the model's, or tokens that may be padding or text.
    """
    _check_device(model, device)
    total, count = 0.0, 0
    for batch in islice(data_loader, truncate):
        tokens = model.checked_tokens(batch["tokens"])
        real = batch["attention_mask"] if "attention_mask" in batch else model.text.padding(tokens).real
        real = torch.ones_like(tokens) if real is None else real.to(tokens.device)
        losses = model(tokens, return_type="loss", loss_per_token=True, attention_mask=real)
        total, count = total + losses.double().sum().item(), count + int(counted_predictions(real).sum())
    if not count:
        raise BadInput("there is no batch of at least two tokens to evaluate on")
    return total / count


@checked
def evaluate_on_texts(
    model: HookedTransformer,
    texts: Texts,
    truncate: int | None = 100,
    batch_size: int = 8,
    tokenizer: Any = None,
    max_length: int | None = None,
) -> float:
    """The mean loss per token on texts, read as rows of `max_length` tokens (default: n_ctx, at most 1024).

    At most `truncate` batches of rows are read (None: all); the last one may be smaller.

    Raises:
        BadInput: the texts do not fill one row.
    """
    length = min(1024, model.cfg.n_ctx) if max_length is None else max_length
    tokenizer = model.text.tokenizer if tokenizer is None else tokenizer
    rows = token_rows(texts, tokenizer, length, add_bos_token=model.text.prepend_bos)
    tokens = first_rows(rows, length, None if truncate is None else truncate * batch_size)
    batches = ({"tokens": batch, "attention_mask": torch.ones_like(batch)} for batch in tokens.split(batch_size))
    return evaluate_on_dataset(model, batches, truncate)


@checked
def corpus_losses(
    model: HookedTransformer,
    truncate: int | None = 100,
    batch_size: int = 8,
    tokenizer: Any = None,
    texts: Mapping[str, Texts] | None = None,
) -> dict[str, float]:
    """The mean loss per token on several corpora, by "<name>_loss": those in `texts`, or all of `CORPORA` on the hub.

    Raises:
        ImportError: the package `datasets`, which downloads them, is not installed.
    """
    corpora = {name: corpus_texts(name) for name in CORPORA} if texts is None else texts
    return {
        f"{name}_loss": evaluate_on_texts(model, corpus, truncate, batch_size, tokenizer)
        for name, corpus in corpora.items()
    }


evaluate = corpus_losses  # its name in TransformerLens; `interp_hooks.evaluate` runs interventions


def _check_device(model: HookedTransformer, device: Any) -> None:
    if device is not None and str(device).partition(":")[0] != model.device.type:
        raise BadInput(f"this model is on {model.device}, so it is not evaluated on {device}; use model.to(...)")


# ------------------------------------------------------------------------------------------------------ repetition


@no_gradients
@checked
def induction_loss(
    model: HookedTransformer,
    tokenizer: Any = None,
    batch_size: int = 4,
    subseq_len: int = 384,
    prepend_bos: bool | None = None,
    device: Any = None,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The mean loss on the repetition in BOS, x_1 ... x_n, x_1 ... x_n: near 0 for a model with induction heads.

    It is read from the second token of the repetition on. Each row draws n = `subseq_len` different ordinary tokens.
    The BOS comes on top; by default rows have one if the model's prompts do and the tokenizer has one.

    Raises:
        BadInput: two copies do not fit into the context, or the vocabulary has too few tokens.
        TokenError: `prepend_bos` without a BOS token.
    """
    _check_device(model, device)
    if batch_size < 1:
        raise BadInput(f"batch_size must be at least 1, got {batch_size}")
    tokens = repeated_tokens(model, batch_size, subseq_len, tokenizer, prepend_bos, generator)
    first = tokens.shape[1] - subseq_len  # position of the second x_1, which predicts the second x_2
    losses = model(tokens, return_type="loss", loss_per_token=True, attention_mask=torch.ones_like(tokens))
    return losses[:, first:].mean()


def repeated_tokens(
    model: HookedTransformer,
    rows: int,
    subseq_len: int,
    tokenizer: Any = None,
    prepend_bos: bool | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch pos"]:
    """Rows of BOS, x_1 ... x_n, x_1 ... x_n, as `induction_loss` describes them, where the model is."""
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    bos: Any = None if tokenizer is None else tokenizer.bos_token_id
    if prepend_bos and bos is None:
        raise TokenError("prepend_bos=True needs a tokenizer with a BOS token")
    wanted = model.text.prepend_bos if prepend_bos is None else prepend_bos
    begins: list[int] = [bos] if wanted and bos is not None else []
    most = (model.cfg.n_ctx - len(begins)) // 2
    if not 2 <= subseq_len <= most:
        raise BadInput(f"subseq_len must be 2..{most}, so that two copies fit into n_ctx; got {subseq_len}")
    half = _different_tokens(model, tokenizer, rows, subseq_len, generator)
    tokens = torch.cat((torch.tensor(begins, dtype=torch.long).expand(rows, -1), half, half), dim=1)
    return tokens.to(model.device)


def repeat_length(model: HookedTransformer, most: int = 50) -> int:
    """How many tokens come twice by default: as many as fit into context and vocabulary, and `most` of them."""
    return min(most, (model.cfg.n_ctx - 1) // 2, model.cfg.d_vocab // 2)


def ordinary_tokens(model: HookedTransformer, tokenizer: Any, *besides: int | None) -> Int[Tensor, " id"]:
    """The ids that the model both reads and predicts, but for special tokens and those `besides`."""
    count = min(model.cfg.d_vocab, model.cfg.d_vocab_out)
    special = {*besides} if tokenizer is None else {*besides, *tokenizer.all_special_ids}
    count = count if tokenizer is None else min(count, len(tokenizer))
    return torch.tensor([id for id in range(count) if id not in special])


def _different_tokens(
    model: HookedTransformer,
    tokenizer: Any,
    rows: int,
    length: int,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch pos"]:
    """Rows of different ordinary tokens."""
    ordinary = ordinary_tokens(model, tokenizer)
    if len(ordinary) < length:
        raise BadInput(f"the vocabulary has {len(ordinary)} ordinary tokens, fewer than subseq_len={length}")
    drawn = [torch.randperm(len(ordinary), generator=generator)[:length] for _ in range(rows)]
    return ordinary[torch.stack(drawn)]
