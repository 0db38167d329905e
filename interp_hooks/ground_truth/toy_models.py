"""Toy models of superposition (Elhage et al. 2022, arXiv 2209.10652): more features than dimensions.

    x  n features in 0..1, most of them 0  ->  h = W x  in m dimensions  ->  ReLU(W^T h + b), which should be x again

Features that are seldom together may share dimensions. What is best is known for simple cases: inputs that are always
there give the m most important features a dimension each, five rare features in two dimensions form a pentagon.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked, told_shape

BATCH, MEASURED_ON = 1024, 65_536
LEARNING_RATE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Superposition:
    """Trained models ReLU(W^T W x + b), one for each probability, and what they cost.

    `feature_losses` are importance x mean squared error on inputs that were not trained on.
    """

    probabilities: Float[Tensor, " instance"]
    importance: Float[Tensor, " n_features"]
    W: Float[Tensor, "instance n_hidden n_features"]
    b: Float[Tensor, "instance n_features"]
    feature_losses: Float[Tensor, "instance n_features"]

    @property
    def losses(self) -> Float[Tensor, " instance"]:
        """The loss that was trained: the sum over features."""
        return self.feature_losses.sum(-1)

    @property
    def gram(self) -> Float[Tensor, "instance n_features n_features"]:
        """W^T W: squared lengths of features on the diagonal, elsewhere how much two of them interfere."""
        return self.W.mT @ self.W

    @property
    def dimensionality(self) -> Float[Tensor, "instance n_features"]:
        """What share of a dimension each feature has: |W_i|^2 / sum_j (W_i . W_j / |W_i|)^2, and 0 where W_i is 0.

        1: all of one for itself; 1/2: an antipodal pair; 2/5: a pentagon. Over all features at most n_hidden.
        """
        gram = self.gram.double()
        overlap = gram.square().sum(-1)
        share = gram.diagonal(dim1=-2, dim2=-1).square() / overlap.where(overlap > 0, 1.0)
        return share.to(self.W.dtype)

    @property
    def features_per_dimension(self) -> Float[Tensor, " instance"]:
        """|W|^2 / n_hidden, where |W|^2 is about how many features are represented."""
        return self.W.square().sum((-2, -1)) / self.W.shape[-2]

    @checked
    def __call__(self, features: Float[Tensor, "*batch n_features"]) -> Float[Tensor, "*batch instance n_features"]:
        """What each model makes of the same inputs.

        Raises:
            BadInput: inputs of another width.
        """
        if features.shape[-1:] != self.W.shape[-1:]:
            raise BadInput(f"expected inputs [..., n_features] of {self.W.shape[-1]}, got {told_shape(features)}")
        return _reconstructed(self.W, self.b, features[..., None, :])


@checked
def superposition(
    n_features: Positive,
    n_hidden: Positive,
    *,
    probability: float | Sequence[float],
    importance: Sequence[float] | Tensor | None = None,
    steps: Positive = 2000,
    seed: int = 0,
) -> Superposition:
    """Train x -> ReLU(W^T W x + b) on sparse inputs: the toy models of superposition of Elhage et al. 2022.

    A feature is 0, or with `probability` uniform in 0..1. Each entry of a sequence is trained as a model of its own,
    all at once; the same one several times gives models from different beginnings, of which some may end in worse
    places. The loss is the squared error, weighed by `importance` (a number for each feature; 1 by default) and summed.
    Small ones take seconds (Adam; its rate falls from 0.01 to 0). The same seed gives the same models.

    Raises:
        BadInput: sizes or steps below 1, probabilities outside 0..1, or importances that are negative, infinite or too
            many.
    """
    probabilities = torch.as_tensor(probability, dtype=torch.float32).reshape(-1)
    if not len(probabilities) or not ((probabilities > 0) & (probabilities <= 1)).all():
        raise BadInput(f"expected probabilities above 0 and up to 1, got {probability}")
    weights = torch.ones(n_features) if importance is None else torch.as_tensor(importance, dtype=torch.float32).cpu()
    if weights.shape != (n_features,) or not ((weights >= 0) & weights.isfinite()).all():
        raise BadInput(f"expected {n_features} finite importances of 0 or more, got {importance}")
    generator = torch.Generator().manual_seed(seed)
    W, b = _trained(probabilities, weights, n_hidden, steps, generator)
    with torch.no_grad():
        each = [
            _errors(W, b, _features(BATCH, probabilities, n_features, generator)) for _ in range(MEASURED_ON // BATCH)
        ]
    return Superposition(
        probabilities=probabilities,
        importance=weights,
        W=W.detach(),
        b=b.detach(),
        feature_losses=weights * torch.stack(each).mean(0),
    )


def _trained(
    probabilities: Tensor, importance: Tensor, n_hidden: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    instances, n_features = len(probabilities), len(importance)
    scale = (2 / (n_hidden + n_features)) ** 0.5
    W = (scale * torch.randn(instances, n_hidden, n_features, generator=generator)).requires_grad_()
    b = torch.zeros(instances, n_features, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=LEARNING_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            loss = (importance * _errors(W, b, _features(BATCH, probabilities, n_features, generator))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return W, b


def _features(n: int, probabilities: Tensor, n_features: int, generator: torch.Generator) -> Tensor:
    """Inputs [n, instance, n_features]."""
    size = (n, len(probabilities), n_features)
    there = torch.rand(size, generator=generator) < probabilities[:, None]
    return torch.rand(size, generator=generator) * there


def _reconstructed(W: Tensor, b: Tensor, features: Tensor) -> Tensor:
    hidden = torch.einsum("imn,...in->...im", W, features)
    return (torch.einsum("imn,...im->...in", W, hidden) + b).relu()


def _errors(W: Tensor, b: Tensor, features: Tensor) -> Tensor:
    """Mean squared errors [instance, n_features]."""
    return (_reconstructed(W, b, features) - features).square().mean(0)
