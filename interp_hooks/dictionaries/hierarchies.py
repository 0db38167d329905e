"""Has a dictionary found the features that are planted, and what does it make of those in a tree, or correlated?

    mcc          mean over true features of |cosine| to the feature of the dictionary that each is matched with, where
                 matches are one to one and chosen so that the mean is largest (the Hungarian method)
    absorption   where a child is there, its latent also writes what belongs to the parent, whose own latent is silent
                 (Chanin et al. 2024, arXiv 2409.14507)
    hedging      a dictionary too narrow for all features writes, with one of them, what is there together with it
                 (Chanin et al. 2025, arXiv 2505.11756)

A latent is a feature of the dictionary, as against the true ones. Those papers measure models, whose true features
nobody knows, by probes and by training further; here directions and features are known, and stand in for these. True
features and latents are matched one to one by their |cosine|, so that its sum is largest; where there are fewer of one
kind, some of the other have no match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.single import SAE
from interp_hooks.dictionaries.training import train_on_activations
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Seed, checked, told_shape
from interp_hooks.experiments.results.result import Result
from interp_hooks.ground_truth.activations import DrawnActivations, PlantedFeatures
from interp_hooks.ground_truth.matching import assignment
from interp_hooks.ground_truth.toy_models import Superposition
from interp_hooks.hooks.modes import study

COSINE = 0.025  # with the parent's direction, from which on a latent may absorb (Chanin et al. 2024)
MEASURES = ("l0", "explained_variance", "mcc", "recall", "recall_with_child", "absorbed", "fraction", "hedging")
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Absorption:
    """Of each child and its parent, what the parent's latent does where the child is there, and what others do.

    recall              share of the tokens with the parent, and none of its children, at which its latent is active
    recall_with_child   share of the tokens with the child at which the parent's latent is active
    absorbed            share of the tokens with the child at which the parent's latent is silent, and another one
                        writes more than 0 along the parent's direction
    fraction            of what is written along the parent's direction at tokens with the child, the share of others
                        (mean over tokens at which anything is)

    Others are latents whose decoder has a cosine of at least 0.025 with the parent's direction. Values are nan where
    there are no such tokens, and for parents without a latent of their own.
    """

    pairs: Int[Tensor, "pair 2"]
    recall: Float[Tensor, " pair"]
    recall_with_child: Float[Tensor, " pair"]
    absorbed: Float[Tensor, " pair"]
    fraction: Float[Tensor, " pair"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hedging:
    """Of each latent that stands for a true feature, of what its decoder row is made.

    `coefficients` are those of the true directions, by least squares; `true` is the feature that each of `latents`
    stands for.
    """

    latents: Int[Tensor, " match"]
    true: Int[Tensor, " match"]
    coefficients: Float[Tensor, "match true"]

    @property
    def mixing(self) -> Float[Tensor, "match true"]:
        """Coefficients as multiples of that of the feature which a latent stands for."""
        return self.coefficients / self.coefficients.gather(1, self.true[:, None])

    @property
    def degree(self) -> float:
        """The share of squared coefficients that is of features which have no latent, on average: 0 if all have one."""
        lacking = torch.ones(self.coefficients.shape[1], dtype=torch.bool)
        lacking[self.true] = False
        squares = self.coefficients.square()
        return float((squares[:, lacking].sum(1) / squares.sum(1)).mean())


@study
def absorption(dictionary: SAE, planted: PlantedFeatures, n_tokens: Count = 20_000, seed: Seed = 0) -> Absorption:
    """How far the latents of children stand in for those of their parents, on tokens that are drawn.

    Where directions of true features overlap, what is written along them does too: compare with `random_dictionary`.
    A random dictionary may have latents that are silent as well, but as often without the child as with it.

    Raises:
        BadInput: no feature has a parent, or another width.

    >>> from interp_hooks.dictionaries import SAE, absorption
    >>> from interp_hooks.ground_truth import planted_features
    >>> tree = planted_features([0.3, 0.1], d=4, parents=[-1, 0])
    >>> rows = tree.directions
    >>> perfect = SAE(hook="resid_post0", W_enc=rows.T, b_enc=torch.zeros(2), W_dec=rows, b_dec=torch.zeros(4))
    >>> absorption(perfect.to(torch.float64), tree).absorbed
    tensor([0.], dtype=torch.float64)
    """
    if not len(planted.pairs):
        raise BadInput("no planted feature has a parent, and only with parents there is absorption")
    return _absorption(dictionary, planted, planted.draw(n_tokens, seed))


def _absorption(dictionary: SAE, planted: PlantedFeatures, drawn: DrawnActivations) -> Absorption:
    match = _matches(dictionary, planted)
    latent_of = dict(zip(match.true.tolist(), match.latents.tolist(), strict=True))
    latents = dictionary.encode(drawn.activations.to(dictionary.device)).double().cpu()
    directions = planted.directions / planted.directions.norm(dim=-1, keepdim=True)
    along = dictionary.W_dec.double().cpu() @ directions.T.double()
    cosines = along / dictionary.decoder_norms.double().cpu().clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    pairs, there = planted.pairs, drawn.features > 0
    found = []
    for parent, child in pairs.tolist():
        if parent not in latent_of:
            found.append(torch.full((4,), NAN, dtype=torch.float64))
            continue
        alone = there[:, parent] & ~there[:, pairs[pairs[:, 0] == parent, 1]].any(1)
        own, active = latent_of[parent], latents[there[:, child]]
        others = cosines[:, parent] >= COSINE
        others[own] = False
        by_own = (active[:, own] * along[own, parent]).clamp(min=0)
        by_others = active[:, others] @ along[others, parent]
        silent, written = active[:, own] == 0, by_own + by_others
        share = (by_others / written)[written > 0]
        shares = ((latents[alone, own] > 0), ~silent, silent & (by_others > 0), share)
        found.append(torch.stack([one.double().mean() for one in shares]))
    recall, with_child, absorbed, fraction = torch.stack(found).unbind(1)
    return Absorption(pairs=pairs, recall=recall, recall_with_child=with_child, absorbed=absorbed, fraction=fraction)


@study
def hedging(dictionary: SAE, planted: PlantedFeatures) -> Hedging:
    """What latents write beside the features that they stand for: a narrow dictionary mixes what is correlated.

    Of a Matryoshka dictionary the inner ones are narrow: give `dictionary.prefix(n)`. The best decoder of a latent that
    follows feature i perfectly mixes in cov(j, i) / var(i) of a feature j that has no latent.

    Raises:
        BadInput: directions that are not linearly independent, of which coefficients are not told apart, or another
            width.

    >>> from interp_hooks.dictionaries import SAE, hedging
    >>> from interp_hooks.ground_truth import planted_features
    >>> both = planted_features([0.3, 0.3], d=4, correlated=[(0, 1, 0.5)])
    >>> row = both.directions[:1] + 0.5 * both.directions[1:]
    >>> zero = torch.zeros(4, dtype=torch.float64)
    >>> narrow = SAE(hook="resid_post0", W_enc=row.T, b_enc=zero[:1], W_dec=row, b_dec=zero)
    >>> round(hedging(narrow, both).degree, 6)
    0.2
    """
    true = planted.directions.double()
    if torch.linalg.matrix_rank(true) < len(true):
        raise BadInput(f"hedging needs linearly independent directions, got {len(true)} of width {true.shape[1]}")
    match = _matches(dictionary, planted)
    coefficients = dictionary.W_dec.double().cpu()[match.latents] @ torch.linalg.pinv(true)
    return Hedging(latents=match.latents, true=match.true, coefficients=coefficients)


@study
def planted_metrics(
    dictionaries: SAE | Mapping[str, SAE], planted: PlantedFeatures, n_tokens: Count = 20_000, seed: Seed = 0
) -> Result:
    """How dictionaries do on planted features: one, or several by name (`random_dictionary` of each is a control).

    A table of dictionaries by measures: `l0` and `explained_variance` of tokens that are drawn, `mcc` (the mean
    |cosine| of matched pairs), means over pairs of what `absorption` finds, and the degree of `hedging`. Values are nan
    where a measure says nothing: of absorption without parents, of hedging where directions are not independent.

    Raises:
        BadInput: no dictionaries, or one of another width.

    >>> from interp_hooks.dictionaries import SAE, planted_metrics, random_dictionary
    >>> from interp_hooks.ground_truth import planted_features
    >>> tree = planted_features([0.3, 0.1], d=4, parents=[-1, 0])
    >>> rows = tree.directions.float()
    >>> perfect = SAE(hook="resid_post0", W_enc=rows.T, b_enc=torch.zeros(2) - 0.01, W_dec=rows, b_dec=torch.zeros(4))
    >>> found = planted_metrics({"perfect": perfect, "random": random_dictionary(perfect)}, tree)
    >>> [found.axes["measure"][place] for place in (2, 5)], [round(one, 6) for one in found.mean[0, [2, 5]].tolist()]
    (['mcc', 'absorbed'], [1.0, 0.0])
    """
    named = {"dictionary": dictionaries} if isinstance(dictionaries, SAE) else dict(dictionaries)
    if not named:
        raise BadInput("dictionaries must be a dictionary, or several by name; got none")
    drawn = planted.draw(n_tokens, seed)
    values = torch.tensor([_measures(one, planted, drawn) for one in named.values()], dtype=torch.float64)
    return Result(metric="value", axes={"dictionary": list(named), "measure": [*MEASURES]}, values=values[..., None])


def _measures(dictionary: SAE, planted: PlantedFeatures, drawn: DrawnActivations) -> list[float]:
    match, x = _matches(dictionary, planted), drawn.activations.to(dictionary.device)
    latents = dictionary.encode(x)
    error, variance = x - dictionary.decode(latents, x), (x - x.mean(0)).square().sum()
    true = planted.directions
    absorbing = [NAN] * 4
    if len(planted.pairs):
        found = _absorption(dictionary, planted, drawn)
        of_pairs = (found.recall, found.recall_with_child, found.absorbed, found.fraction)
        absorbing = [float(one.nanmean()) for one in of_pairs]
    return [
        float((latents != 0).double().sum(-1).mean()),
        float(1 - error.square().sum() / variance),
        float(match.cosine.mean()),
        *absorbing,
        hedging(dictionary, planted).degree if torch.linalg.matrix_rank(true) == len(true) else NAN,
    ]


class _Matches(NamedTuple):
    """Which latents stand for which true features, as far as there are of both, and their |cosine|."""

    latents: Int[Tensor, " match"]
    true: Int[Tensor, " match"]
    cosine: Float[Tensor, " match"]


def _matches(dictionary: SAE, planted: PlantedFeatures) -> _Matches:
    """The matches of a dictionary.

    Raises:
        BadInput: it is of another width, or a row that needs a match is 0.
    """
    rows, true = dictionary.W_dec.double().cpu(), planted.directions.double()
    if dictionary.d_in != true.shape[1]:
        raise BadInput(f"the planted features have width {true.shape[1]}, the dictionary reads {dictionary.d_in}")
    if len(rows) < len(true):
        found = recovery(true, rows)
        return _Matches(torch.arange(len(rows)), found.matched, found.cosine)
    found = recovery(rows, true)
    return _Matches(found.matched, torch.arange(len(true)), found.cosine)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery:
    """True features and those of a dictionary that stand for them.

    `matched` is the feature of each true one, `cosine` how much they point the same way (a sign is not told apart), and
    `best` the largest |cosine| of each true feature to any of the dictionary, matched with it or not.
    """

    matched: Int[Tensor, " true"]
    cosine: Float[Tensor, " true"]
    best: Float[Tensor, " true"]

    @property
    def mcc(self) -> float:
        """The mean cosine of matched pairs."""
        return float(self.cosine.mean())

    def recovered(self, above: float = 0.9) -> float:
        """The share of true features whose match has a larger cosine than `above`."""
        return float((self.cosine > above).double().mean())


@checked
def recovery(found: Float[Tensor, "feature d"], true: Float[Tensor, "true d"]) -> Recovery:
    """Match decoder rows with true directions, one to one.

    Raises:
        BadInput: other widths, fewer features than there are true ones, or directions that are 0 or not finite.

    >>> from interp_hooks.dictionaries import recovery
    >>> true = torch.eye(5)[:3]
    >>> recovery(torch.eye(5)[[4, 2, 0, 1]], true).matched
    tensor([2, 3, 1])
    """
    if found.shape[1:] != true.shape[1:] or len(found) < len(true) or not len(true):
        raise BadInput(
            f"expected at least as many features as true ones, of the same width, got {told_shape(found)} for "
            f"{told_shape(true)}"
        )
    norms = [one.double().norm(dim=-1, keepdim=True) for one in (found, true)]
    if not bool(norms[1].isfinite().all() & norms[0].isfinite().all() & (norms[1] > 0).all()):
        raise BadInput("directions must be finite, and true ones must not be 0")
    rows = found.double() / norms[0].clamp(min=torch.finfo(torch.float64).tiny)
    cosine = ((true.double() / norms[1]) @ rows.T).abs().cpu()
    matched = torch.from_numpy(assignment(-cosine.numpy()))
    return Recovery(matched=matched, cosine=cosine.gather(1, matched[:, None])[:, 0], best=cosine.amax(1))


@checked
def superposition_recovery(
    toy: Superposition, recipe: Recipe, *, steps: Count = 1000, tokens_per_step: Count = 512, seed: Seed = 0
) -> dict[str, Recovery]:
    """Train a dictionary on the hidden activations of every toy model of superposition, and match it with W's columns.

    Inputs are drawn as in the toy models' own training. Features that a model leaves out (columns shorter than a tenth
    of the longest) are no true ones; the others keep their order. Results are named by the inputs' probability.

    >>> from interp_hooks.dictionaries import Recipe, superposition_recovery
    >>> from interp_hooks.ground_truth import superposition
    >>> toy = superposition(5, 2, probability=[0.05], steps=50)
    >>> list(superposition_recovery(toy, Recipe(hook="hidden", n_features=8, k=1), steps=10))
    ['p=0.05']
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Recovery] = {}
    for place, probability in enumerate(toy.probabilities.tolist()):
        columns, size = toy.W[place].T, (min(steps, 200) * tokens_per_step, toy.W.shape[-1])
        x = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < probability)
        hidden = (x[x.any(-1)] @ columns).to(toy.W.dtype)
        trained = train_on_activations(
            hidden, recipe, steps=steps, tokens_per_step=tokens_per_step, seed=seed, progress=False
        )
        assert isinstance(trained, SAE)
        norms = columns.norm(dim=-1)
        name = f"p={probability:.3g}"
        found[name if name not in found else f"{name} ({place})"] = recovery(
            trained.W_dec, columns[norms > norms.max() / 10]
        )
    return found
