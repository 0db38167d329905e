"""Has a dictionary found the features that are known to be there? For models and data whose features are planted.

mcc    mean over true features of |cosine| to the feature of the dictionary that each is matched with, where matches
       are one to one and chosen so that the mean is largest (the Hungarian method)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.single import SAE
from interp_hooks.dictionaries.training import train_on_activations
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Seed, checked, told_shape
from interp_hooks.ground_truth.matching import assignment
from interp_hooks.ground_truth.toy_models import Superposition


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
