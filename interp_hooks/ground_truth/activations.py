"""Activations that are made of known features: a tree of them, correlated ones, at chosen rates and magnitudes.

    x = sum over features i that are there of m_i t_i + noise       t_i: its direction, m_i: how much of it there is
    i is there where z_i lies below a quantile and i's parent is there        z: normal, with a correlation matrix

What is planted is what dictionaries are checked against (`dictionaries.planted_metrics`): children that are there only
with their parents lead to absorption (Chanin et al. 2024, arXiv 2409.14507), correlations to hedging (Chanin et al.
2025, arXiv 2505.11756).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Seed, checked, told_shape

ROOT = -1  # the parent of a feature that has none
OWN = 0x504C414E54  # changes seeds, with which weights may be drawn too: they shall not be the directions


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnActivations:
    """Tokens that were drawn: how much of every true feature each has, 0 where it is not there, and what that sums to.

    `features` are those that the activations were made of, before noise.
    """

    features: Float[Tensor, "token true"]
    activations: Float[Tensor, "token d"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedFeatures:
    """True features, in an order in which parents come before their children, and how they are drawn.

    `rates` are the shares of all tokens at which features are there, `parents` their places (-1: none), `correlation`
    that of the normal numbers which decide who is there. A feature that is there has a magnitude of its own at each
    token, uniform within `spread` (a share of it) about its mean. `noise` is the standard deviation of each coordinate.

    Raises:
        BadInput: sizes that do not fit together, values out of range, a child before its parent or at more tokens, or a
            correlation of a feature with its ancestors, on whom it depends already.
    """

    directions: Float[Tensor, "true d"]
    rates: Float[Tensor, " true"]
    parents: Int[Tensor, " true"]
    magnitudes: Float[Tensor, " true"]
    correlation: Float[Tensor, "true true"]
    spread: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.directions)
        for name, shape in (("rates", (n,)), ("parents", (n,)), ("magnitudes", (n,)), ("correlation", (n, n))):
            if getattr(self, name).shape != shape:
                raise BadInput(f"{name} must be {list(shape)} for {n} features, got {told_shape(getattr(self, name))}")
        if not bool(((self.rates > 0) & (self.rates <= 1)).all()):
            raise BadInput(f"rates must be above 0 and up to 1, got {self.rates.tolist()}")
        if not bool(((self.magnitudes > 0) & self.magnitudes.isfinite()).all()):
            raise BadInput(f"magnitudes must be above 0 and finite, got {self.magnitudes.tolist()}")
        if not 0 <= self.spread < 1 or not 0 <= self.noise < float("inf"):
            raise BadInput(f"spread must be in 0..1 and noise 0 or more, got {self.spread} and {self.noise}")
        if not bool(self.directions.isfinite().all() & (self.directions.norm(dim=-1) > 0).all()):
            raise BadInput("directions must be finite and none of them 0")
        if not bool((self.parents >= ROOT).all() & (self.parents < torch.arange(n)).all()):
            raise BadInput(f"a parent must come before its children, and be -1 where there is none, got {self.parents}")
        if not bool((self._given_parent <= 1).all()):
            raise BadInput("a child cannot be there at more tokens than its parent: lower its rate")
        self._refuse_no_correlation()

    def _refuse_no_correlation(self) -> None:
        given = self.correlation
        ones = torch.allclose(given.diagonal(), torch.ones_like(given.diagonal()))
        if not ones or not torch.allclose(given, given.T) or torch.linalg.cholesky_ex(given).info:
            raise BadInput("correlation must be symmetric and positive definite, with a diagonal of ones")
        if bool(((given != 0) & self.descends).any()):
            raise BadInput("a feature may not be correlated with its ancestors: say by its rate how often it is there")

    @property
    def _given_parent(self) -> Float[Tensor, " true"]:
        """How often each feature is there, where its parent is."""
        return self.rates / torch.where(self.parents == ROOT, 1.0, self.rates[self.parents])

    @property
    def pairs(self) -> Int[Tensor, "pair 2"]:
        """Each child, after its parent."""
        (children,) = (self.parents != ROOT).nonzero(as_tuple=True)
        return torch.stack((self.parents[children], children), 1)

    @property
    def descends(self) -> Tensor:
        """Which feature (row) descends from which (column), as a matrix of bools."""
        found = torch.zeros(len(self.rates), len(self.rates), dtype=torch.bool)
        for parent, child in self.pairs.tolist():
            found[child] = found[parent]
            found[child, parent] = True
        return found

    @checked
    def draw(self, n_tokens: Count, seed: Seed = 0) -> DrawnActivations:
        """Draw tokens; the same seed gives the same ones."""
        generator = torch.Generator().manual_seed(seed ^ OWN)
        n, d = self.directions.shape
        options: dict[str, Any] = dict(generator=generator, dtype=self.directions.dtype)
        normal = torch.randn(n_tokens, n, **options) @ torch.linalg.cholesky(self.correlation).T
        there = normal < torch.special.ndtri(self._given_parent)
        for parent, child in self.pairs.tolist():
            there[:, child] &= there[:, parent]
        varied = 1 + self.spread * (2 * torch.rand(n_tokens, n, **options) - 1)
        features = self.magnitudes * varied * there
        noise = self.noise * torch.randn(n_tokens, d, **options)
        return DrawnActivations(features=features, activations=features @ self.directions + noise)


@checked
def planted_features(
    rates: Sequence[float],
    d: Count,
    *,
    parents: Sequence[int] | None = None,
    correlated: Sequence[tuple[int, int, float]] = (),
    magnitudes: float | Sequence[float] = 1.0,
    spread: float = 0.0,
    noise: float = 0.0,
    seed: Seed = 0,
) -> PlantedFeatures:
    """Features in `d` dimensions that are there at chosen `rates`: shares of all tokens, of children too.

    `parents` are places in `rates`, -1 for features without one (default: all), and `correlated` has pairs of features
    with the correlation of the normal numbers that decide whether they are there. Directions have length 1; they are
    orthogonal if there are no more than d, and drawn independently otherwise.

    Raises:
        BadInput: no features, or what `PlantedFeatures` refuses.

    >>> from interp_hooks.ground_truth import planted_features
    >>> animals = planted_features([0.3, 0.1, 0.1, 0.2], d=8, parents=[-1, 0, 0, -1])  # dogs and cats are animals
    >>> drawn = animals.draw(1000)
    >>> bool((drawn.features[:, 1:3].any(1) <= (drawn.features[:, 0] > 0)).all())
    True
    """
    n = len(rates)
    if not n or d < 1:
        raise BadInput(f"expected rates of some features and d of at least 1, got {n} rates and d {d}")
    generator = torch.Generator().manual_seed(seed ^ OWN)
    directions = torch.randn(n, d, generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(directions.T).Q.T if n <= d else directions / directions.norm(dim=-1, keepdim=True)
    correlation = torch.eye(n, dtype=torch.float64)
    for i, j, value in correlated:
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise BadInput(f"correlated names two of {n} features, got {i} and {j}")
        correlation[i, j] = correlation[j, i] = value
    each = [magnitudes] * n if isinstance(magnitudes, (int, float)) else magnitudes
    return PlantedFeatures(
        directions=directions,
        rates=torch.tensor(rates, dtype=torch.float64),
        parents=torch.tensor([ROOT] * n if parents is None else parents),
        magnitudes=torch.tensor(each, dtype=torch.float64),
        correlation=correlation,
        spread=spread,
        noise=noise,
    )
