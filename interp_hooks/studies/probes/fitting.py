"""Linear classifiers of activations, each the one minimum of a convex function, so that nothing depends on luck.

    ridge      least squares onto a 0 or 1 for each class, plus strength * |weights|^2
    logistic   mean cross-entropy in nats, plus strength / 2 * |weights|^2

Both are of coordinates that are centred and divided by their standard deviation, so that one strength means the same
for all of them; biases are free. Ridge needs nothing but moments, and so whole corpora cost one scan. Logistic
regression is solved by Newton's method, each step of which by conjugate gradients, or by L-BFGS; the two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import is_integral, told_shape
from interp_hooks.hooks.modes import study
from interp_hooks.studies.covariances import JointMoments, one_hot

Solver = Literal["newton", "lbfgs"]
CONVERGED = 1e-10  # the largest entry of a gradient, in nats, at which a search ends
MOST_STEPS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A score for each class, weights x + bias; the highest is what the probe says.

    Weights are for activations as they are, not standardised ones.
    """

    weights: Float[Tensor, "class width"]
    bias: Float[Tensor, " class"]

    def scores(self, x: Float[Tensor, "example width"]) -> Float[Tensor, "example class"]:
        """The score of each class."""
        return x.to(self.weights) @ self.weights.T + self.bias

    def classes(self, x: Float[Tensor, "example width"]) -> Int[Tensor, " example"]:
        """The class with the highest score."""
        return self.scores(x).argmax(-1)

    @property
    def direction(self) -> Float[Tensor, " width"]:
        """What speaks for class 1 rather than class 0, of a probe of two classes.

        Raises:
            BadInput: more classes, which have no single direction.
        """
        if len(self.weights) != 2:
            raise BadInput(f"a probe of {len(self.weights)} classes has no single direction; take its weights")
        return self.weights[1] - self.weights[0]


@study
def ridge(moments: JointMoments, *, strength: float = 1e-2) -> LinearProbe:
    """The ridge probe of moments whose labels are classes (`JointMoments.of`, `of_scan`), in closed form.

    Raises:
        BadInput: a strength that is not above 0.

    >>> from interp_hooks.studies import JointMoments, ridge
    >>> x, z = torch.randn(50, 4), torch.arange(50) % 2
    >>> ridge(JointMoments.of(x, z)).weights.shape
    torch.Size([2, 4])
    """
    _check(strength)
    scale = moments.covariance.diagonal().clamp(min=moments.floor).sqrt()
    standard = moments.covariance / scale[:, None] / scale
    penalty = float(strength) * torch.eye(len(scale)).to(standard)
    weights = (torch.linalg.solve(standard + penalty, moments.cross / scale[:, None]) / scale[:, None]).T
    return LinearProbe(weights=weights, bias=moments.label_mean - weights @ moments.mean)


@study
def logistic(
    x: Float[Tensor, "example width"],
    classes: Int[Tensor, " example"],
    *,
    strength: float = 1e-2,
    balanced: bool = False,
    solver: Solver = "newton",
    n_classes: int | None = None,
) -> LinearProbe:
    """Multinomial logistic regression in float64; with `balanced`, every class weighs as much as every other.

    `n_classes` (default: as many as the largest class number says) counts classes without examples too.

    Raises:
        BadInput: shapes that do not fit, numbers that are not finite, a strength that is not above 0, or an unknown
            solver.

    >>> from interp_hooks.studies import logistic
    >>> x = torch.randn(50, 4)
    >>> logistic(x, (x[:, 2] > 0).long(), strength=1e-3).direction.argmax().item()
    2
    """
    _check(strength)
    if x.ndim != 2 or not is_integral(classes) or classes.shape != x.shape[:1] or not len(x):
        raise BadInput(f"expected x [example, width] and a class for each, got {told_shape(x)}, {told_shape(classes)}")
    x = x.detach().double()
    if not bool(x.isfinite().all()):
        raise BadInput("activations must be finite; look for infinite or nan values")
    mean, scale = x.mean(0), x.std(0, unbiased=False)
    scale = torch.where(scale > 1e-12 * x.abs().amax(0), scale, torch.inf)  # what does not vary gets no weight
    target = one_hot(classes.to(x.device))
    target = torch.nn.functional.pad(target, (0, (n_classes or 0) - target.shape[1])) if n_classes else target
    weight = torch.full((len(x),), 1 / len(x)).to(x)
    if balanced:
        weight = 1 / target.sum(0)[classes.to(x.device)]
        weight = weight / weight.sum()
    problem = _Logistic((x - mean) / scale, target, weight, strength)
    found = (_newton if solver == "newton" else _lbfgs)(problem)
    weights = (found[:-1] / scale[:, None]).T
    bias = found[-1] - weights @ mean
    return LinearProbe(weights=weights, bias=bias - bias.mean())


def _check(strength: float) -> None:
    if not 0 < strength < torch.inf:
        raise BadInput(f"strength must be above 0 and finite, so that there is one best probe; got {strength}")


@dataclass(frozen=True)
class _Logistic:
    """The function that logistic regression minimises, of parameters [width + 1, class], the last row being biases."""

    x: Float[Tensor, "example width"]
    target: Float[Tensor, "example class"]
    weight: Float[Tensor, " example"]
    strength: float

    def logits(self, at: Tensor) -> Float[Tensor, "example class"]:
        return self.x @ at[:-1] + at[-1]

    def value(self, at: Tensor) -> Float[Tensor, ""]:
        losses = -(self.target * self.logits(at).log_softmax(-1)).sum(-1)
        return (self.weight * losses).sum() + self.strength / 2 * at[:-1].square().sum()

    def gradient(self, at: Tensor) -> Tensor:
        return self._back(self.logits(at).softmax(-1) - self.target, at)

    def curvature(self, at: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian as a function of a direction."""
        share = self.logits(at).softmax(-1)

        def times(direction: Tensor) -> Tensor:
            moved = self.logits(direction)
            return self._back(share * (moved - (share * moved).sum(-1, keepdim=True)), direction)

        return times

    def _back(self, by_logit: Float[Tensor, "example class"], at: Tensor) -> Tensor:
        weighted = self.weight[:, None] * by_logit
        return torch.cat((self.x.T @ weighted + self.strength * at[:-1], weighted.sum(0, keepdim=True)))

    @property
    def start(self) -> Tensor:
        return self.x.new_zeros(self.x.shape[1] + 1, self.target.shape[1])


def _newton(problem: _Logistic) -> Tensor:
    """Newton's method with steps that are halved until they help."""
    at = problem.start
    for _ in range(MOST_STEPS):
        gradient = problem.gradient(at)
        if float(gradient.abs().max()) < CONVERGED:
            break
        step = _conjugate_gradients(problem.curvature(at), -gradient)
        size, value, slope = 1.0, float(problem.value(at)), float((gradient * step).sum())
        while float(problem.value(at + size * step)) > value + 1e-4 * size * slope + 1e-15 and size > 1e-8:
            size /= 2
        at = at + size * step
    return at


def _conjugate_gradients(times: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The solution of times(x) = target, for a symmetric map without negative eigenvalues."""
    x, residual = torch.zeros_like(target), target
    direction, size = residual, residual.square().sum()
    enough = min(0.25, float(size) ** 0.25) ** 2 * float(size)  # closer, the closer the search is to its end
    for _ in range(4 * target.numel()):
        if float(size) <= enough:
            break
        along = times(direction)
        step = size / (direction * along).sum()
        x, residual = x + step * direction, residual - step * along
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    return x


def _lbfgs(problem: _Logistic) -> Tensor:
    """L-BFGS of torch, with the gradient that is known."""
    at = problem.start.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [at],
        max_iter=20 * MOST_STEPS,
        history_size=20,
        tolerance_grad=CONVERGED,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        at.grad = problem.gradient(at.detach())
        return float(problem.value(at.detach()))

    optimizer.step(closure)
    return at.detach()
