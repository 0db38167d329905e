"""How wrong logits are about the next token."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Tensor:
    """Cross-entropy of every next token in nats, at least in float32: the mean, or [batch, pos-1].

    With `attention_mask`, a prediction counts if both its token and the next one are real; others are 0 in the
    per-token form.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).to(precise), tokens[:, 1:], reduction="none")
    if attention_mask is None:
        return losses if per_token else losses.mean()
    real = attention_mask.to(losses.device).bool()
    counted = real[:, :-1] & real[:, 1:]
    losses = losses.where(counted, losses.new_zeros(()))
    return losses if per_token else losses.sum() / counted.sum()
