"""The loss of logits that predict the next token."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import is_integral, told


def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
    *,
    documents: Int[Tensor, "batch pos"] | None = None,
) -> Tensor:
    """The cross-entropy of next tokens in nats, at least in float32: its mean, or with `per_token` [batch, pos-1].

    With `attention_mask`, a prediction counts if both its token and the next one are real, with `documents` (the number
    of the document of each token), if both are of one document; `per_token` gives 0 for the others.

    Raises:
        BadInput: tokens or a mask of another shape than the logits; for the mean, no real token that follows another.
    """
    check_predicted(logits, tokens, attention_mask)
    precise = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).to(precise), tokens[:, 1:], reduction="none")
    if attention_mask is None and documents is None:
        if not per_token:
            check_counted(losses.numel())
        return losses if per_token else losses.mean()
    counted = counted_predictions(torch.ones_like(tokens) if attention_mask is None else attention_mask)
    if documents is not None:
        counted = counted & (documents[:, :-1] == documents[:, 1:])
    counted = counted.to(losses.device)
    losses = losses.where(counted, losses.new_zeros(()))
    if not per_token:
        check_counted(counted.sum())
    return losses if per_token else losses.sum() / counted.sum()


def counted_predictions(attention_mask: Tensor) -> Bool[Tensor, "batch before"]:
    """Whether a token and the next one are real, so that the prediction counts."""
    real = attention_mask.bool()
    return real[:, :-1] & real[:, 1:]


def check_counted(count: int | Tensor) -> None:
    """Raises BadInput if there is nothing to take a mean of; compiled code cannot stop at a value, and goes on."""
    unknown = isinstance(count, Tensor) and (torch.compiler.is_compiling() or count.is_meta)
    if not unknown and not count:
        raise BadInput("a mean over next tokens needs a prompt of at least two tokens: nothing follows a single one")


def check_predicted(logits: object, tokens: object, attention_mask: object = None) -> None:
    """Raises BadInput unless tokens (and the mask, if there is one) fit the logits [batch, pos, d_vocab]."""
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise BadInput(f"logits must be a tensor [batch, pos, d_vocab], got {told(logits)}")
    if not is_integral(tokens) or tokens.shape != logits.shape[:2]:
        raise BadInput(f"tokens must be integers [batch, pos] = {list(logits.shape[:2])}, got {told(tokens)}")
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.shape == tokens.shape):
        raise BadInput(f"attention_mask must be [batch, pos] = {list(tokens.shape)}, got {told(attention_mask)}")
