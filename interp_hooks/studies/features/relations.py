"""Which features of a dictionary go together, among all of them, from the active ones alone.

    correlation(i, j)  = (mean of f_i f_j - mean f_i * mean f_j) / (std f_i * std f_j)      over all counted tokens
    jaccard(i, j)      = tokens at which both are active / tokens at which one is

A token at which k features are active has k^2 pairs, whatever the number of features; the matrix of all pairs is made
some rows at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.active import as_matrix
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked

AT_ONCE = 2**24  # pairs of features
ROUNDING = 1e-12  # a variance that is a smaller share of the mean square is one of rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class RelatedFeatures:
    """For each feature those that go with it most, best first; -1, with a value of 0, where there are no more."""

    correlated: Int[Tensor, "feature k"]
    correlations: Float[Tensor, "feature k"]
    coactive: Int[Tensor, "feature k"]
    jaccard: Float[Tensor, "feature k"]


@checked
def related_features(active: Mapping[str, Tensor], n_tokens: int, k: Count = 10) -> RelatedFeatures:
    """The `k` features that are most correlated, and most often active together, with each feature of a dictionary.

    `active` is what a scan found with `ActiveUnits(feature_units(...))` in one layer, and `n_tokens` how many tokens it
    counted. Only features whose correlation is above 0, and that are active together at all, are listed.

    Raises:
        BadInput: fewer tokens than there are active features at, or something else than what `ActiveUnits` found.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.corpus import ActiveUnits, scan
    >>> from interp_hooks.studies import feature_units, related_features
    >>> units = feature_units(model, dictionaries.load("ioi-tiny/sae"))
    >>> found = scan(model, clean, {"active": ActiveUnits(units)}, progress=False)
    >>> related_features(found["active"][1], found.n_tokens, k=3).correlated.shape
    torch.Size([512, 3])
    """
    if lacking := {"sizes", "units", "values", "n_units"} - active.keys():
        raise BadInput(f"expected what ActiveUnits found in a layer; it lacks {', '.join(sorted(lacking))}")
    if n_tokens < len(active["sizes"]):
        raise BadInput(f"n_tokens must be at least {len(active['sizes'])}, where features are active, got {n_tokens}")
    n, values = int(active["n_units"]), active["values"].double()
    counts = active["units"].bincount(minlength=n)
    mean, square = (
        torch.zeros(n, dtype=torch.float64).index_add_(0, active["units"], one) / n_tokens
        for one in (values, values.square())
    )
    variance = square - mean.square()
    std = torch.where(variance > ROUNDING * square, variance.sqrt(), torch.inf)  # of a constant: it has no correlation

    def correlation(i: Tensor, j: Tensor, products: Tensor) -> Tensor:
        return (products / n_tokens - mean[i] * mean[j]) / (std[i] * std[j])

    def jaccard(i: Tensor, j: Tensor, both: Tensor) -> Tensor:
        return both / (counts[i] + counts[j] - both)

    correlated, correlations = _best(active, values, correlation, min(k, n))
    coactive, shares = _best(active, torch.ones_like(values), jaccard, min(k, n))
    return RelatedFeatures(correlated=correlated, correlations=correlations, coactive=coactive, jaccard=shares)


def _best(
    active: Mapping[str, Tensor],
    values: Float[Tensor, " n"],
    measure: Callable[[Tensor, Tensor, Tensor], Tensor],
    k: int,
) -> tuple[Int[Tensor, "feature k"], Float[Tensor, "feature k"]]:
    """For each feature the others with the highest measure of the pair, given the sum of the values' products."""
    matrix = as_matrix(active, values)
    n, (token, unit) = matrix.shape[1], matrix.indices()
    by_unit, ends = unit.argsort(stable=True), unit.bincount(minlength=n).cumsum(0)
    indices, found = [], []
    for rows in torch.arange(n).split(max(1, AT_ONCE // n)):
        first = int(rows[0])
        listed = by_unit[int(ends[first - 1]) if first else 0 : int(ends[rows[-1]])]
        at = torch.stack((unit[listed] - first, token[listed]))
        some = torch.sparse_coo_tensor(at, values[listed], (len(rows), len(matrix)), check_invariants=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls its sparse matrices experimental
            pairs = torch.sparse.mm(some, matrix).coalesce()
        i, j = pairs.indices()
        table = torch.zeros(len(rows), n)
        table[i, j] = measure(i + first, j, pairs.values()).where(i + first != j, 0.0).float()
        best = table.topk(k, dim=1)
        indices.append(best.indices.where(best.values > 0, -1))
        found.append(best.values.clamp(min=0))
    return torch.cat(indices), torch.cat(found)
