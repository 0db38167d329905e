"""From pre-activations to features: what an encoder does after its linear map, as frozen values.

    ReLU()                       max(pre, 0)                                      with an L1 penalty in training
    TopK(k)                      ReLU of the k largest of each token              Gao et al. 2024, arXiv 2406.04093
    BatchTopK(k, threshold)      trained on the n * k largest of n tokens, used with a threshold   2412.06410
    JumpReLU(threshold)          pre where pre > threshold                        Rajamanoharan et al. 2024, 2407.14435
    Gated(scale, shift)          ReLU(scale * pre + shift) where pre > 0          the same, 2404.16014

Scaling pre-activations by c > 0 and scaling features by c is the same thing for the function that `scaled(c)` gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import refuse_outside, told
from interp_hooks.experiments.results.archive import Recordable


class Activation(Recordable, ABC):
    """A function from pre-activations [..., feature] to features of that shape, none of which is negative."""

    @abstractmethod
    def __call__(self, pre: Float[Tensor, "*tokens feature"]) -> Float[Tensor, "*tokens feature"]:
        """The features."""

    @abstractmethod
    def scaled(self, factor: Float[Tensor, " feature"]) -> Activation:
        """The function g with g(factor * pre) = factor * self(pre), for factors above 0."""

    def first(self, n: int) -> Activation:
        """The function of the first n features alone."""
        return self

    @abstractmethod
    def check(self, n_features: int) -> None:
        """Raises BadInput if it is not one of so many features."""


@dataclass(frozen=True)
class ReLU(Activation):
    """What is above 0."""

    def __call__(self, pre: Float[Tensor, "*tokens feature"]) -> Float[Tensor, "*tokens feature"]:
        return pre.relu()

    def scaled(self, factor: Float[Tensor, " feature"]) -> ReLU:
        return self

    def check(self, n_features: int) -> None:
        pass


@dataclass(frozen=True, eq=False)
class TopK(Activation):
    """The ReLU of each token's k largest pre-activations, which are ranked after they were multiplied by `rank_by`."""

    k: int
    rank_by: Float[Tensor, " feature"] | None = None

    def __call__(self, pre: Float[Tensor, "*tokens feature"]) -> Float[Tensor, "*tokens feature"]:
        ranked = pre if self.rank_by is None else pre * self.rank_by
        best = ranked.detach().topk(self.k, dim=-1, sorted=False).indices
        return torch.zeros_like(pre).scatter(-1, best, pre.gather(-1, best).relu())

    def scaled(self, factor: Float[Tensor, " feature"]) -> TopK:
        return replace(self, rank_by=1 / factor if self.rank_by is None else self.rank_by / factor)

    def first(self, n: int) -> TopK:
        return replace(self, k=min(self.k, n), rank_by=None if self.rank_by is None else self.rank_by[:n])

    def check(self, n_features: int) -> None:
        refuse_outside("k", self.k, 1, n_features, "the number of features")
        _check_sizes(n_features, rank_by=self.rank_by)


@dataclass(frozen=True, eq=False)
class JumpReLU(Activation):
    """Pre-activations above their `threshold`, which is one number or one of each feature's own, and 0 elsewhere."""

    threshold: Float[Tensor, "*feature"]

    def __call__(self, pre: Float[Tensor, "*tokens feature"]) -> Float[Tensor, "*tokens feature"]:
        return torch.where(pre > self.threshold, pre, 0.0).relu()

    def scaled(self, factor: Float[Tensor, " feature"]) -> JumpReLU:
        return replace(self, threshold=self.threshold * factor)

    def first(self, n: int) -> JumpReLU:
        return replace(self, threshold=self.threshold[:n]) if self.threshold.ndim else self

    def check(self, n_features: int) -> None:
        _check_sizes(n_features, threshold=self.threshold if self.threshold.ndim else None)


@dataclass(frozen=True, eq=False)
class BatchTopK(JumpReLU):
    """A JumpReLU whose `threshold` stands for what training did: keep, of a batch of n tokens, the n * k largest."""

    k: int = 1


@dataclass(frozen=True, eq=False)
class Gated(Activation):
    """ReLU(scale * pre + shift) where pre is above 0: one linear map says which features are active and how much.

    In the paper's letters pre = (x - b_dec) W_gate + b_gate, scale = exp(r_mag), and shift = b_mag - exp(r_mag) b_gate.
    """

    scale: Float[Tensor, " feature"]
    shift: Float[Tensor, " feature"]

    @classmethod
    def of(
        cls, r_mag: Float[Tensor, " feature"], b_mag: Float[Tensor, " feature"], b_gate: Float[Tensor, " feature"]
    ) -> Gated:
        """From the paper's parameters; `b_gate` is the encoder's bias."""
        return cls(scale=r_mag.exp(), shift=b_mag - r_mag.exp() * b_gate)

    def detached(self) -> Gated:
        """The same without gradients."""
        return Gated(self.scale.detach(), self.shift.detach())

    def __call__(self, pre: Float[Tensor, "*tokens feature"]) -> Float[Tensor, "*tokens feature"]:
        return torch.where(pre > 0, pre * self.scale + self.shift, 0.0).relu()

    def scaled(self, factor: Float[Tensor, " feature"]) -> Gated:
        return replace(self, shift=self.shift * factor)

    def first(self, n: int) -> Gated:
        return Gated(self.scale[:n], self.shift[:n])

    def check(self, n_features: int) -> None:
        _check_sizes(n_features, scale=self.scale, shift=self.shift)


def _check_sizes(n_features: int, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != (n_features,):
            raise BadInput(f"{name} must have a number for each of {n_features} features, got {told(tensor)}")
