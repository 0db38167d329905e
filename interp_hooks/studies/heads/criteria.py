"""How strongly each head is at work at each query: the numbers by which its most telling examples are found.

    result_norm      the length of what the head writes
    entropy          how widely it attends, in nats
    max_attention    the most that it pays to one key
    value_sum        attention times the length of what the key would have written, summed over keys
    max_value        the largest of these

Lengths are those of vectors in the stream, |v W_O|, so that they do not depend on the head's own coordinates. They are
computed in the head's own width, from R of the decomposition W_O^T = Q R: x (W_O W_O^T) x = |x R^T|^2.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(pattern [batch, head, query, key], value norms [batch, key, head], result norms [batch, query, head])."""


def norm_factor(W_O: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head rank"]:
    """A matrix for each head with |x W_O| = |x factor|: factor times its transpose is the Gram matrix W_O W_O^T."""
    precise = W_O.detach().to(torch.promote_types(W_O.dtype, torch.float32))
    return torch.linalg.qr(precise.mT, mode="r").R.mT


def written_norms(
    x: Float[Tensor, "batch pos group d_head"], factor: Float[Tensor, "head d_head rank"]
) -> Float[Tensor, "batch pos head"]:
    """The length of x W_O for every head, of values or of z, without making the vectors in the stream.

    A layer's `factor` comes from `norm_factor`. Values that several heads share are taken by each of them.
    """
    x = x.repeat_interleave(len(factor) // x.shape[2], dim=2)
    return torch.einsum("bphk,hkr->bphr", x.to(factor.dtype), factor).norm(dim=-1)


def row_entropy(pattern: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows"]:
    """The entropy in nats of each row of an attention pattern."""
    precise = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    return -torch.xlogy(precise, precise).sum(-1)


def _weighted(pattern: Tensor, value_norms: Tensor) -> Float[Tensor, "batch head query key"]:
    return pattern * value_norms.transpose(1, 2)[:, :, None]


HEAD_CRITERIA: Mapping[str, Criterion] = {
    "result_norm": lambda pattern, value_norms, result_norms: result_norms.transpose(1, 2),
    "entropy": lambda pattern, value_norms, result_norms: row_entropy(pattern),
    "max_attention": lambda pattern, value_norms, result_norms: pattern.amax(-1),
    "value_sum": lambda pattern, value_norms, result_norms: torch.einsum("bhqk,bkh->bhq", pattern, value_norms),
    "max_value": lambda pattern, value_norms, result_norms: _weighted(pattern, value_norms).amax(-1),
}
"""The criteria by name; each gives a number [batch, head, query]."""
