"""What is trained of a dictionary: its parameters, and the loss of a batch of activations.

    loss = sum over d, mean over tokens, of (y - r)^2       the mean of that over `prefixes` of a Matryoshka dictionary
         + sparsity * what its kind asks for                sum of features (ReLU, gated); (L0 - k)^2 * 2 / k (JumpReLU)
         + aux * how far dead features are from y - r       those d/2 which come nearest to being active (2406.04093)

Rows of the decoder have norm 1 throughout. A crosscoder is the SAE of its sites' activations, one after the other.
Inputs are scaled so that their norm is sqrt(d) on average, which the finished dictionary undoes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp_hooks.dictionaries.activations import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp_hooks.dictionaries.active import decoded, encoded, largest_of_batch, largest_of_tokens
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.single import SAE, Transcoder

BANDWIDTH = 0.05  # of the rectangle that stands for the derivative of a step (2407.14435)
FIRST_THRESHOLD = 0.01
FEW = ("batchtopk", "topk")  # of these kinds few features are active
RATE = 0.01  # of the running mean of thresholds


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


class Trainable(nn.Module):
    """The parameters of a dictionary in training, from the first activations that it sees.

    `since_active` counts tokens since each feature was active, `threshold_mean` is that of BatchTopK.
    """

    def __init__(
        self, recipe: Recipe, x: Float[Tensor, "token site d_in"], y: Float[Tensor, "token site d_out"]
    ) -> None:
        super().__init__()
        self.recipe = recipe
        dtype, device = torch.promote_types(x.dtype, torch.float32), x.device
        x, y = x.to(dtype), y.to(dtype)
        self.scale: Tensor
        self.scale_out: Tensor
        self.register_buffer("scale", _scale(x))
        self.register_buffer("scale_out", _scale(y))
        d_in, d_out, n = x.shape[1:].numel(), y.shape[1:].numel(), recipe.n_features
        generator = torch.Generator().manual_seed(recipe.seed)
        decoder = torch.randn(n, d_out, generator=generator, dtype=torch.float64)
        decoder = decoder / decoder.norm(dim=-1, keepdim=True)
        encoder = decoder if recipe.hook_out is None else torch.randn(n, d_in, generator=generator, dtype=torch.float64)
        encoder = encoder / encoder.norm(dim=-1, keepdim=True)

        def parameter(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.to(device, dtype).clone())

        self.W_enc, self.b_enc = parameter(encoder.T), parameter(torch.zeros(n))
        self.W_dec, self.b_dec = parameter(decoder), parameter((y * self.scale_out[:, None]).flatten(1).mean(0))
        self.W_skip = parameter(torch.zeros(d_in, d_out)) if recipe.skip else None
        self.r_mag = parameter(torch.zeros(n)) if recipe.kind == "gated" else None
        self.b_mag = parameter(torch.zeros(n)) if recipe.kind == "gated" else None
        self.threshold = parameter(torch.full((n,), FIRST_THRESHOLD)) if recipe.kind == "jumprelu" else None
        self.since_active: Tensor
        self.threshold_mean: Tensor
        self.register_buffer("since_active", torch.zeros(n, dtype=torch.long, device=device))
        self.register_buffer("threshold_mean", torch.full((), float("nan"), dtype=torch.float64, device=device))

    @property
    def dtype(self) -> torch.dtype:
        return self.W_enc.dtype

    # ------------------------------------------------------------------------------------------------------ a batch

    def loss(self, x: Tensor, y: Tensor, dead_after: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch [token site d], and of it L0, explained variance and the share of dead features."""
        x, y = (self._flat(one, scale) for one, scale in ((x, self.scale), (y, self.scale_out)))
        skip = 0.0 if self.W_skip is None else x @ self.W_skip
        dead = self.since_active >= dead_after
        revives = bool(self.recipe.aux) and bool(dead.any())
        found = self._listed(x, revives) if self.recipe.kind in FEW else self._dense(x)
        r = found.said(self.recipe.n_features) + self.b_dec + skip
        loss = (y - r).square().sum(-1).mean()
        if prefixes := self.recipe.prefixes:
            parts = [found.said(n) + self.b_dec + skip for n in prefixes]
            loss = (loss + torch.stack([(y - part).square().sum(-1).mean() for part in parts]).sum()) / (
                1 + len(prefixes)
            )
        if found.pre is not None:
            loss = loss + self._sparsity(found.pre, y, skip)
            if revives:
                loss = loss + self.recipe.aux * self._revival(found.pre, (y - r).detach(), dead)
        with torch.no_grad():
            self.since_active += len(x)
            self.since_active[found.active] = 0
            if self.recipe.kind == "batchtopk" and found.smallest is not None:
                self._follow(found.smallest.double())
            variance = (y - y.mean(0)).square().sum()
            told = {
                "l0": found.number / len(x),
                "explained_variance": float(1 - (y - r).square().sum() / variance) if variance > 0 else float("nan"),
                "dead": float(dead.double().mean()),
            }
        return loss, told

    def _dense(self, x: Tensor) -> Encoded:
        """The features of a batch as a matrix."""
        pre = self.pre(x)
        features = self.features(pre)
        active = features.detach() > 0
        return Encoded(lambda n: features[:, :n] @ self.W_dec[:n], active.any(0), int(active.sum()), pre)

    def _listed(self, x: Tensor, revives: bool) -> Encoded:
        """The features of a batch as a list; pre-activations are there where dead features are to be revived."""
        shift = self.b_enc - self.b_dec @ self.W_enc if self.recipe.is_sae else self.b_enc
        with torch.set_grad_enabled(revives):
            pre = x @ self.W_enc + shift
        k, guess = self.recipe.k, 0.8 * float(self.threshold_mean.nan_to_num(0.0))
        kept = pre.detach()
        active = largest_of_tokens(kept, k) if self.recipe.kind == "topk" else largest_of_batch(kept, k * len(x), guess)
        values = encoded(x, self.W_enc, shift, kept, active)

        def said(n: int) -> Tensor:
            if n == self.recipe.n_features:
                return decoded(values, self.W_dec, active)
            which = active.below(n)
            return decoded(values[which], self.W_dec, active.chosen(which))

        some = torch.zeros_like(self.since_active, dtype=torch.bool).index_fill_(0, active.feature, True)
        smallest = values.detach().min() if len(values) else None
        return Encoded(said, some, len(values), pre if revives else None, smallest)

    def _flat(self, value: Tensor, scale: Tensor) -> Float[Tensor, "token d"]:
        return (value.to(self.dtype) * scale[:, None]).flatten(1)

    def pre(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token feature"]:
        """Pre-activations; an SAE subtracts its decoder's bias first."""
        return (x - self.b_dec if self.recipe.is_sae else x) @ self.W_enc + self.b_enc

    def features(self, pre: Float[Tensor, "token feature"]) -> Float[Tensor, "token feature"]:
        """Features in training, of kinds of which many may be active."""
        if self.threshold is not None:
            return _Jump.apply(pre.relu(), self.threshold)  # pyright: ignore[reportReturnType]
        return self._gate()(pre) if self.recipe.kind == "gated" else pre.relu()

    def _gate(self) -> Gated:
        assert self.r_mag is not None
        assert self.b_mag is not None
        return Gated.of(self.r_mag, self.b_mag, self.b_enc)

    def _sparsity(self, pre: Tensor, y: Tensor, skip: Tensor | float) -> Tensor:
        kind, weight = self.recipe.kind, self.recipe.sparsity
        if self.threshold is not None:
            l0: Tensor = _Step.apply(pre, self.threshold).sum(-1).mean()  # pyright: ignore
            return weight * (2 / self.recipe.k) * (l0 - self.recipe.k).square()
        if kind == "relu":
            return weight * pre.relu().sum(-1).mean()
        if kind == "gated":  # the gates alone should be able to say it all, with the decoder as it is
            gates = pre.relu()
            alone = gates @ self.W_dec.detach() + self.b_dec.detach() + skip
            return weight * gates.sum(-1).mean() + (y - alone).square().sum(-1).mean()
        return pre.new_zeros(())

    def _revival(self, pre: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """How far the dead features that are nearest to being active are from the error, less if there are few."""
        wanted, there = error.shape[1] // 2, int(dead.sum())
        best = torch.where(dead, pre, -torch.inf).topk(min(max(1, wanted), there), dim=-1, sorted=False)
        acts = torch.zeros_like(pre).scatter(-1, best.indices, best.values)
        return min(1.0, there / max(1, wanted)) * (error - acts @ self.W_dec).square().sum(-1).mean()

    def _follow(self, smallest: Tensor) -> None:
        before = self.threshold_mean
        self.threshold_mean.copy_(torch.where(before.isnan(), smallest, before + RATE * (smallest - before)))

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

    # ------------------------------------------------------------------------------------------------------- the end

    @torch.no_grad()
    def finished(self, facts: Mapping[str, Any]) -> Dictionary:
        """The dictionary as it is now, of activations as they are."""
        recipe, weights = self.recipe, {name: getattr(self, name).detach().clone() for name in WEIGHTS}
        activation = {
            "batchtopk": lambda: BatchTopK(self.threshold_mean.nan_to_num(0.0).to(self.dtype), k=recipe.k),
            "topk": lambda: TopK(recipe.k),
            "relu": lambda: ReLU(),
            "gated": lambda: self._gate().detached(),
            "jumprelu": lambda: JumpReLU(self.threshold.detach().clone()),  # pyright: ignore
        }[recipe.kind]()
        shared: dict[str, Any] = {**weights, "activation": activation, "facts": dict(facts)}
        if recipe.sites:
            return self._crosscoder(shared)
        scale, scale_out = float(self.scale), float(self.scale_out)
        if recipe.hook_out is None:
            sae = SAE(hook=recipe.hook, of_head=recipe.head, b_in=shared["b_dec"], **shared)
            return sae.folded_scale(scale)
        skip = None if self.W_skip is None else self.W_skip.detach().clone()
        transcoder = Transcoder(hook_in=recipe.hook, hook_out=recipe.hook_out, W_skip=skip, **shared)
        return transcoder.folded_scale(scale, scale_out)

    def _crosscoder(self, shared: dict[str, Any]) -> Crosscoder:
        sites, scale = self.recipe.sites, self.scale
        shared["W_enc"] = shared["W_enc"].unflatten(0, (len(sites), -1)) * scale[:, None, None]
        shared["W_dec"] = shared["W_dec"].unflatten(1, (len(sites), -1)) / scale[:, None]
        shared["b_dec"] = shared["b_dec"].unflatten(0, (len(sites), -1)) / scale[:, None]
        return Crosscoder(sites=sites, **shared)


WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


def _scale(x: Float[Tensor, "token site d"]) -> Float[Tensor, " site"]:
    """By which factor the activations of each site have norm sqrt(d) on average."""
    return x.shape[-1] ** 0.5 / x.norm(dim=-1).mean(0).clamp(min=torch.finfo(x.dtype).tiny)
