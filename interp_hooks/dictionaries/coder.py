"""One set of features in training: an encoder, decoder rows of norm 1, and which features are active in a batch.

A dictionary of one hook, or a crosscoder, has one; a cross-layer transcoder has one for each layer (see `trainable`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp_hooks.dictionaries.activations import Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp_hooks.dictionaries.active import decoded, encoded, largest_of_batch, largest_of_tokens
from interp_hooks.dictionaries.ranks import Ranks
from interp_hooks.dictionaries.recipe import Recipe

BANDWIDTH = 0.05  # of the rectangle that stands for the derivative of a step (2407.14435)
FIRST_THRESHOLD = 0.01
FEW = ("batchtopk", "topk")  # of these kinds few features are active
RATE = 0.01  # of the running mean of thresholds, at least


class _Jump(torch.autograd.Function):
    """pre where it is above a threshold, with the gradient for the threshold that the paper's kernel gives."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        return grad * (pre > threshold), -(threshold * near * grad).sum(0)


class _Step(torch.autograd.Function):
    """1 where pre is above a threshold, with the same gradient for the threshold."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        return None, -(near * grad).sum(0)


class Encoded(NamedTuple):
    """The features of a batch: what the first n of them `said`, which of them were `active`, and their `number`.

    `pre` are all pre-activations, where they are needed, and `smallest` the least active feature, where it is known.
    """

    said: Callable[[int], Float[Tensor, "token d_out"]]
    active: Bool[Tensor, " feature"]
    number: int
    pre: Float[Tensor, "token feature"] | None
    smallest: Tensor | None = None


class Coder(nn.Module):
    """The parameters of some features that read `d_in` numbers and write `d_out`.

    `since_active` counts tokens since each feature was active, `threshold_mean` is that of BatchTopK.
    """

    def __init__(
        self, recipe: Recipe, d_in: int, d_out: int, dtype: torch.dtype, device: torch.device, ranks: Ranks, seed: int
    ) -> None:
        super().__init__()
        self.recipe, self.ranks, n = recipe, ranks, recipe.n_features
        generator = torch.Generator().manual_seed(seed)
        decoder = torch.randn(n, d_out, generator=generator, dtype=torch.float64)
        decoder = decoder / decoder.norm(dim=-1, keepdim=True)
        encoder = decoder if not recipe.predicts else torch.randn(n, d_in, generator=generator, dtype=torch.float64)
        encoder = encoder / encoder.norm(dim=-1, keepdim=True)

        def parameter(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.to(device, dtype).clone())

        self.W_enc, self.b_enc, self.W_dec = parameter(encoder.T), parameter(torch.zeros(n)), parameter(decoder)
        self.r_mag = parameter(torch.zeros(n)) if recipe.kind == "gated" else None
        self.b_mag = parameter(torch.zeros(n)) if recipe.kind == "gated" else None
        self.threshold = parameter(torch.full((n,), FIRST_THRESHOLD)) if recipe.kind == "jumprelu" else None
        self.since_active: Tensor
        self.threshold_mean: Tensor
        self.register_buffer("since_active", torch.zeros(n, dtype=torch.long, device=device))
        self.register_buffer("threshold_mean", torch.full((), float("nan"), dtype=torch.float64, device=device))

    # ------------------------------------------------------------------------------------------------------ a batch

    def encoded(self, x: Float[Tensor, "token d_in"], subtracted: Tensor | None, revives: bool) -> Encoded:
        """The features of a batch, from which something may be `subtracted`; with `pre` where dead ones are revived."""
        return self._listed(x, subtracted, revives) if self.recipe.kind in FEW else self._dense(x, subtracted)

    def _dense(self, x: Tensor, subtracted: Tensor | None) -> Encoded:
        """The features of a batch as a matrix."""
        pre = (x if subtracted is None else x - subtracted) @ self.W_enc + self.b_enc
        features = self._features(pre)
        active = features.detach() > 0
        return Encoded(lambda n: features[:, :n] @ self.W_dec[:n], active.any(0), int(active.sum()), pre)

    def _listed(self, x: Tensor, subtracted: Tensor | None, revives: bool) -> Encoded:
        """The features of a batch as a list; pre-activations are there where dead features are to be revived."""
        shift = self.b_enc if subtracted is None else self.b_enc - subtracted @ self.W_enc
        with torch.set_grad_enabled(revives):
            pre = x @ self.W_enc + shift
        kept, k = pre.detach(), self.recipe.k
        if self.recipe.kind == "topk":
            active = largest_of_tokens(kept, k)
        else:
            guess = 0.8 * float(self.threshold_mean.nan_to_num(0.0))
            active = self.ranks.largest(kept, largest_of_batch(kept, k * len(x) * self.ranks.count, guess), k * len(x))
        values = encoded(x, self.W_enc, shift, kept, active)

        def said(n: int) -> Tensor:
            if n == self.recipe.n_features:
                return decoded(values, self.W_dec, active)
            which = active.below(n)
            return decoded(values[which], self.W_dec, active.chosen(which))

        some = torch.zeros_like(self.since_active, dtype=torch.bool).index_fill_(0, active.feature, True)
        smallest = values.detach().min() if len(values) else None
        return Encoded(said, some, len(values), pre if revives else None, smallest)

    def _features(self, pre: Float[Tensor, "token feature"]) -> Float[Tensor, "token feature"]:
        """Features in training, of kinds of which many may be active."""
        if self.threshold is not None:
            return _Jump.apply(pre.relu(), self.threshold)  # pyright: ignore[reportReturnType]
        return self.gate()(pre) if self.recipe.kind == "gated" else pre.relu()

    def gate(self) -> Gated:
        """The activation of a gated dictionary."""
        assert self.r_mag is not None
        assert self.b_mag is not None
        return Gated.of(self.r_mag, self.b_mag, self.b_enc)

    def sparsity(self, pre: Float[Tensor, "token feature"], alone: Callable[[Tensor], Tensor]) -> Tensor:
        """What its kind asks for; `alone` is the loss of a gated dictionary whose features are its gates."""
        kind, weight = self.recipe.kind, self.recipe.sparsity
        if self.threshold is not None:
            l0: Tensor = _Step.apply(pre, self.threshold).sum(-1).mean()  # pyright: ignore
            l0 = l0 + (self.ranks.mean(l0.detach()) - l0.detach())  # the value of all ranks, the gradient of this one
            return weight * (2 / self.recipe.k) * (l0 - self.recipe.k).square()
        if kind == "relu":
            return weight * pre.relu().sum(-1).mean()
        if kind == "gated":  # the gates alone should be able to say it all, with the decoder as it is
            gates = pre.relu()
            return weight * gates.sum(-1).mean() + alone(gates @ self.W_dec.detach())
        return pre.new_zeros(())

    def revival(self, pre: Tensor, error: Float[Tensor, "token d_out"], dead: Bool[Tensor, " feature"]) -> Tensor:
        """How far the dead features that are nearest to being active are from the error, less if there are few."""
        wanted, there = error.shape[1] // 2, int(dead.sum())
        best = torch.where(dead, pre, -torch.inf).topk(min(max(1, wanted), there), dim=-1, sorted=False)
        acts = torch.zeros_like(pre).scatter(-1, best.indices, best.values)
        return min(1.0, there / max(1, wanted)) * (error - acts @ self.W_dec).square().sum(-1).mean()

    @torch.no_grad()
    def count(self, found: Encoded, n_tokens: int, rate: float) -> None:
        """Count the tokens of a batch, of all ranks, and follow the least active feature, at a rate."""
        self.since_active += n_tokens * self.ranks.count
        self.since_active[self.ranks.any(found.active)] = 0
        if self.recipe.kind == "batchtopk":
            before = self.threshold_mean
            here = before.new_tensor(torch.inf) if found.smallest is None else found.smallest.double()
            smallest = self.ranks.smallest(here)
            if bool(smallest.isfinite()):
                before.copy_(torch.where(before.isnan(), smallest, before + rate * (smallest - before)))

    # -------------------------------------------------------------------------------------------------- between steps

    @torch.no_grad()
    def project(self) -> None:
        """Take out of the decoder's gradient what would change the norm of its rows."""
        if self.W_dec.grad is not None:
            self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(-1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def constrain(self) -> None:
        """Give the decoder's rows norm 1 again, and let no threshold be negative."""
        self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        if self.threshold is not None:
            self.threshold.clamp_(min=0)

    def activation(self) -> Activation:
        """The activation in use, as it is now."""
        return {
            "batchtopk": lambda: BatchTopK(self.threshold_mean.nan_to_num(0.0).to(self.W_enc.dtype), k=self.recipe.k),
            "topk": lambda: TopK(self.recipe.k),
            "relu": lambda: ReLU(),
            "gated": lambda: self.gate().detached(),
            "jumprelu": lambda: JumpReLU(self.threshold.detach().clone()),  # pyright: ignore
        }[self.recipe.kind]()
