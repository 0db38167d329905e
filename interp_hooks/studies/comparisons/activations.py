"""What changed in activations and attention, and the mean change at the first tokens of any text.

Activations of two models can be subtracted where one was made from the other (fine-tuned, edited, steered), not where
each was trained from its own random weights: then no coordinate means the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import State, exact, number
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.tables import pd
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import PairReading, PairSums, relative, scan_pair
from interp_hooks.studies.directions import tokens_of
from interp_hooks.studies.lenses.base import Lens

HOOKS = ("attn_out", "mlp_out", "resid_post")
MEASURES = ("relative_difference", "mean_difference", "cosine", "centred_cosine", "norm_ratio")


@checked
def activation_changes(
    model: HookedTransformer,
    other: HookedTransformer,
    corpus: Corpus,
    *,
    hooks: Sequence[str] | None = None,
    **options: Any,
) -> Result:
    """How far apart the activations of two models are, layer by layer: axes "layer", "hook" and "measure".

    x are the activations of `model`, y those of `other`, at all tokens of a corpus but BOS:

        relative_difference   sqrt(sum |y - x|^2 / sum |x|^2)
        mean_difference       |mean of y - x| over the root mean square of |x|: what is the same at all tokens
        cosine                the mean cosine of x and y
        centred_cosine        of all tokens together, once each model's own mean is taken away
        norm_ratio            sqrt(sum |y|^2 / sum |x|^2)

    `hooks` are short names (default: "attn_out", "mlp_out", "resid_post", where the model has them); of several heads
    ("z") all together. Other keyword arguments are those of `corpus.scan` (`length`, `limit`, `exclude`, ...).

    Raises:
        BadInput: other vocabularies, sizes or numbers of layers; a corpus without tokens that count.

    >>> from interp_hooks.studies import activation_changes
    >>> float(activation_changes(model, model, clean, progress=False).mean[..., 0].max())
    0.0
    """
    layers = _common_layers(model, other)
    if hooks is None:
        hooks = [hook for hook in HOOKS if all(get_act_name(hook, layer) in model.hook_dict for layer in layers)]
    names = [model.points(get_act_name(hook, layer))[0].name for layer in layers for hook in hooks]
    found = scan_pair(model, other, corpus, PairReading((model, other), names, _Differences()), **options)
    measured = torch.stack([found["pair"][place] for place in range(len(names))])
    return Result(
        metric="value",
        axes={"layer": layers, "hook": list(hooks), "measure": list(MEASURES)},
        values=measured.reshape(len(layers), len(hooks), len(MEASURES), 1),
    )


@checked
def pattern_changes(model: HookedTransformer, other: HookedTransformer, corpus: Corpus, **options: Any) -> Result:
    """How far apart the attention patterns of two models are: axes "layer" and "head".

    The total variation distance: the share of a token's attention that goes elsewhere, on average over all tokens that
    attend but BOS. Other keyword arguments are those of `corpus.scan`.

    Raises:
        BadInput: other vocabularies or numbers of heads; no layer with attention.

    >>> from interp_hooks.studies import pattern_changes
    >>> float(pattern_changes(model, model, clean, progress=False).mean.max())
    0.0
    """
    layers = [one for one in _common_layers(model, other) if get_act_name("pattern", one) in model.hook_dict]
    if not layers:
        raise BadInput("no layer of this model has attention patterns")
    names = [get_act_name("pattern", layer) for layer in layers]
    found = scan_pair(model, other, corpus, PairReading((model, other), names, _Distances()), **options)
    distances = torch.stack([found["pair"][place] for place in range(len(layers))])
    return Result(
        metric="total_variation", axes={"layer": layers, "head": range(distances.shape[1])}, values=distances[..., None]
    )


@checked
def mean_difference(
    model: HookedTransformer,
    other: HookedTransformer,
    corpus: Corpus,
    hook: str = "resid_post",
    *,
    first: Positive = 5,
    layers: Sequence[int] | None = None,
    limit: Count | None = None,
    progress: bool = True,
) -> Result:
    """The mean of `other`'s activations less `model`'s at the `first` tokens of any texts.

    What fine-tuning on a narrow subject adds is there at the first tokens of texts about anything, and its direction
    tells the subject (Minder et al. 2025, arxiv.org/abs/2510.13900): read it with `difference_tokens`, and steer
    `model` with it. Axes are "layer", "pos" and "coordinate"; position 0 is BOS, if the models put one in front. Means
    are in float64.

    Raises:
        BadInput: other vocabularies or sizes, no texts, or texts that all end before some of these tokens.

    >>> from interp_hooks.studies import mean_difference
    >>> found = mean_difference(model, model, clean, first=3, layers=[1], progress=False)
    >>> found.values.shape
    torch.Size([1, 3, 128, 1])
    >>> with steer(model, found.mean[0, 2].to(model.dtype), "resid_post1", coefficient=4.0):
    ...     steered = model(clean)
    """
    known = _common_layers(model, other)
    chosen = known if layers is None else list(layers)
    if not chosen or not {*chosen} <= {*known}:
        raise BadInput(f"layers must be some of 0..{known[-1]}, got {layers}")
    names = [model.points(get_act_name(hook, layer))[0].name for layer in chosen]
    reading = PairReading((model, other), names, _FirstMeans(first))
    found = scan_pair(
        model, other, corpus, reading, length=max(2, first), longer="cut", exclude=(), limit=limit, progress=progress
    )
    means = torch.stack([found["pair"][place] for place in range(len(chosen))])
    if not bool(means.isfinite().all()):
        raise BadInput(f"no text has as many as {first} tokens; ask for fewer with first=")
    return Result(
        metric="difference",
        axes={"layer": chosen, "pos": range(first), "coordinate": range(means.shape[-1])},
        values=means[..., None],
    )


@study
def difference_tokens(
    model: HookedTransformer, difference: Result, *, lens: Lens | None = None, k: Count = 10
) -> pd.DataFrame:
    """Which tokens' logits the differences of `mean_difference` at "resid_post" raise most, a row for each of the `k`.

    Columns: `layer`, `pos`, `norm` (of the difference), `rank`, `token` and `value` (its logit, less the mean and but
    for the final norm's scale). A `lens` maps differences onto the final stream before, with its map of the stream that
    enters the next layer; without one, or where it has none, they are read as they are.

    Raises:
        BadInput: a result of something else, or of another model.

    >>> from interp_hooks.studies import difference_tokens, mean_difference
    >>> from interp_hooks.experiments import orthogonalize
    >>> edited = orthogonalize(model, model.W_U[:, 5])
    >>> found = mean_difference(model, edited, clean, first=2, layers=[1], progress=False)
    >>> difference_tokens(model, found, k=3).shape
    (6, 6)
    """
    if [*difference.axes] != ["layer", "pos", "coordinate"] or len(difference.axes["coordinate"]) != model.cfg.d_model:
        raise BadInput(f"expected what mean_difference finds in this model's stream, got axes {[*difference.axes]}")
    rows = []
    for layer, of_layer in zip(difference.axes["layer"], difference.mean, strict=True):
        entering = None if lens is None else lens.maps.get(layer + 1)
        vectors = of_layer if entering is None else of_layer @ entering.to(of_layer).T
        found = tokens_of(model, vectors.to(model.device), k=k)
        for place, pos in enumerate(difference.axes["pos"]):
            words, values = found.words(place)[0], found.top_values[place].tolist()
            norm = float(of_layer[place].norm())
            rows += [(layer, pos, norm, rank, *one) for rank, one in enumerate(zip(words, values, strict=True))]
    return pd.DataFrame(rows, columns=["layer", "pos", "norm", "rank", "token", "value"])


def _common_layers(model: HookedTransformer, other: HookedTransformer) -> list[int]:
    counts = [one.cfg.n_layers for one in (model, other)]
    if counts[0] != counts[1]:
        raise BadInput(f"these models have {counts[0]} and {counts[1]} layers, so that no layer is the other's")
    return list(range(counts[0]))


@dataclass(frozen=True)
class _Differences(PairSums):
    """Sums of squares and products of two activations, for `MEASURES`."""

    def reduce(self, a: Tensor, b: Tensor, positions: Int[Tensor, " token"]) -> State:
        a, b = a.flatten(1), b.flatten(1)
        change, cosine = b - a, F.cosine_similarity(a, b, dim=-1).sum()
        squares = torch.stack((change.square().sum(), a.square().sum(), b.square().sum(), (a * b).sum(), cosine))
        vectors = torch.stack((change.sum(0), a.sum(0), b.sum(0)))
        return {"count": torch.tensor(len(a)), "sums": exact(squares), "vectors": exact(vectors)}

    def result(self, state: State) -> Float[Tensor, " measure"]:
        n = state["count"]
        change, a, b, product, cosine = number(state["sums"]).unbind()
        shift, mean_a, mean_b = (number(state["vectors"]) / n).unbind()
        centred = product - n * (mean_a @ mean_b)
        spreads = (a - n * mean_a.square().sum()) * (b - n * mean_b.square().sum())
        root = relative(a, n.double()).sqrt()
        measures = (
            relative(change, a).sqrt(),
            relative(shift.norm(), root),
            cosine / n,
            relative(centred, spreads.clamp(min=0).sqrt()),
            relative(b, a).sqrt(),
        )
        return torch.stack(measures)


@dataclass(frozen=True)
class _Distances(PairSums):
    """The sum of the distances of two patterns, by head."""

    def reduce(self, a: Tensor, b: Tensor, positions: Int[Tensor, " token"]) -> State:
        return {"count": torch.tensor(len(a)), "sum": exact((b - a).abs().sum((0, 2)) / 2)}

    def result(self, state: State) -> Float[Tensor, " head"]:
        return number(state["sum"]) / state["count"]


@dataclass(frozen=True)
class _FirstMeans(PairSums):
    """The sum of two activations' differences at each of the first positions."""

    first: int

    def reduce(self, a: Tensor, b: Tensor, positions: Int[Tensor, " token"]) -> State:
        change, inside = (b - a).flatten(1), positions < self.first
        sums = change.new_zeros(self.first, change.shape[1]).index_add_(0, positions[inside], change[inside])
        return {"count": positions[inside].bincount(minlength=self.first), "sum": exact(sums)}

    def result(self, state: State) -> Float[Tensor, "pos width"]:
        return number(state["sum"]) / state["count"][:, None]
