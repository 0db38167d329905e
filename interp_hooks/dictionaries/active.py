"""Few active features as a list, in training: of 2,048 features 32 may be active, and the others cost nothing.

    active = largest_of_batch(pre, n)                  which (token, feature) are active
    values = encoded(x, W_enc, b, pre, active)         their pre-activations
    r = decoded(values, W_dec, active)                 the sum of value * W_dec[feature], for every token

Values and gradients are those of the whole matrix. Forward, the pre-activations of all features are needed, to know the
largest; backward, products with the list replace those with matrices that are almost everywhere 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CANDIDATES = 8  # at most so many times the wanted are sorted, if a guess gives them


@dataclass(frozen=True, kw_only=True, eq=False)
class Active:
    """Active features, by token and then by feature, of `shape` (tokens, features)."""

    token: Int[Tensor, " n"]
    feature: Int[Tensor, " n"]
    shape: tuple[int, int]

    def below(self, feature: int) -> Tensor:
        """Which of them are among the first so many features."""
        return self.feature < feature

    def chosen(self, which: Tensor) -> Active:
        """Some of them."""
        return Active(token=self.token[which], feature=self.feature[which], shape=self.shape)

    def times(self, values: Float[Tensor, " n"], dense: Float[Tensor, "feature d"]) -> Float[Tensor, "token d"]:
        """The matrix [token, feature] that has these values times a matrix."""
        return _product(self.token, self.feature, values, self.shape, dense)

    def transposed_times(
        self, values: Float[Tensor, " n"], dense: Float[Tensor, "token d"]
    ) -> Float[Tensor, "feature d"]:
        """The same matrix, transposed, times a matrix."""
        order = self.feature.argsort(stable=True)
        turned = (self.shape[1], self.shape[0])
        return _product(self.feature[order], self.token[order], values[order], turned, dense)


def _product(row: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int], dense: Tensor) -> Tensor:
    """A sparse matrix, by its rows in order, times a dense one."""
    index = torch.stack((row, column))
    sparse = torch.sparse_coo_tensor(index, values, shape, is_coalesced=True, check_invariants=False)
    return torch.sparse.mm(sparse, dense)


@torch.no_grad()
def largest_of_batch(pre: Float[Tensor, "token feature"], n: int, guess: float = 0.0) -> Active:
    """The `n` largest pre-activations of all tokens together that are above 0.

    `guess` is about where the n-th may be. If that many are above it, only those are sorted; it changes no result.
    """
    flat = pre.flatten()
    candidates = (flat > max(guess, 0.0)).nonzero()[:, 0]
    if guess > 0 and not n <= len(candidates) <= CANDIDATES * n:
        candidates = (flat > 0).nonzero()[:, 0]
    if len(candidates) > n:
        candidates = candidates[flat[candidates].topk(n, sorted=False).indices].sort().values
    return _listed(candidates, pre)


@torch.no_grad()
def largest_of_tokens(pre: Float[Tensor, "token feature"], k: int) -> Active:
    """The `k` largest pre-activations of each token that are above 0."""
    values, index = pre.topk(min(k, pre.shape[1]), dim=-1, sorted=False)
    index = index + torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]
    return _listed(index[values > 0].sort().values, pre)


def _listed(flat: Tensor, pre: Tensor) -> Active:
    return Active(token=flat // pre.shape[1], feature=flat % pre.shape[1], shape=(len(pre), pre.shape[1]))


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b: Tensor, pre: Tensor, active: Active) -> Tensor:
        ctx.active = active
        ctx.save_for_backward(x)
        return pre[active.token, active.feature]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,), active = ctx.saved_tensors, ctx.active
        to_b = grad.new_zeros(active.shape[1]).index_add_(0, active.feature, grad)
        return None, active.transposed_times(grad, x).T, to_b, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, active: Active) -> Tensor:
        ctx.active = active
        ctx.save_for_backward(values, W_dec)
        return active.times(values, W_dec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (values, W_dec), active = ctx.saved_tensors, ctx.active
        grad = grad.contiguous()
        to_values = (grad @ W_dec.T)[active.token, active.feature]
        return to_values, active.transposed_times(values, grad), None


def encoded(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    pre: Float[Tensor, "token feature"],
    active: Active,
) -> Float[Tensor, " n"]:
    """The pre-activations `pre` = x W_enc + b of active features, which can be differentiated by the weights and b."""
    return _Encode.apply(x, W_enc, b, pre, active)  # pyright: ignore[reportReturnType]


def decoded(
    values: Float[Tensor, " n"], W_dec: Float[Tensor, "feature d_out"], active: Active
) -> Float[Tensor, "token d_out"]:
    """What active features say together."""
    return _Decode.apply(values, W_dec, active)  # pyright: ignore[reportReturnType]
