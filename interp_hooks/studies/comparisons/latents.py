"""Which features of a crosscoder of two models are of one model alone: latent scaling.

A decoder that is short in one model may mean that the model lacks the feature, or that training left it out there,
because it costs (shrinkage) or because another feature says the same there (decoupling). So one asks the activations
themselves, by least squares: with f the feature's activations and d its decoder where that is longer,

    beta = argmin sum |y - beta f d|^2 = sum f (y . d) / (sum f^2 |d|^2)        sums over tokens

for two y of each model, x being its activations and r their reconstructions:

    error             y = x - (r - f d_own)    what the other features leave over; d_own is the decoder in that model
    reconstruction    y = r less its bias      what all features say

The ratio is beta in the model where the decoder is shorter over that in the other one: near 0 where the feature is not
there; near 1 in the error if it was shrunk away, and in the reconstruction if others say it (Minder et al. 2025, arXiv
2504.02922).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import State, added, exact, number
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import PairReading, PairSums, relative, scan_pair

LATENT_MEASURES = (
    *("share", "reconstruction_ratio", "error_ratio", "density", "owner"),
    *("reconstruction_model", "reconstruction_other", "error_model", "error_other"),
)


@checked
def latent_scaling(
    crosscoder: Crosscoder,
    model: HookedTransformer,
    other: HookedTransformer,
    corpus: Corpus,
    *,
    latents: Sequence[int] | None = None,
    **options: Any,
) -> Result:
    """How much each feature of a crosscoder is of one model alone: axes "latent" and "measure".

        share                  of the decoder norms, that of `other`: 0.5 for features that both have alike
        reconstruction_ratio   see the top of this module; a feature is of one model alone only if
        error_ratio            both ratios are small
        density                the share of tokens at which it is active; where it never is, ratios are nan
        owner                  0 if the decoder is longer in `model`, 1 if it is in `other`
        reconstruction_model, reconstruction_other, error_model, error_other    the four betas

    `crosscoder` has two sites, one hook twice, whose first is `model`'s; `latents` are some of its features (default:
    all). Other keyword arguments are those of `corpus.scan`.

    Raises:
        BadInput: a crosscoder of other sites or of another width, features that there are not, other vocabularies.

    >>> from interp_hooks.dictionaries import Crosscoder
    >>> from interp_hooks.studies import latent_scaling
    >>> W_dec = torch.eye(128)[:, None].expand(-1, 2, -1)
    >>> biases = dict(b_enc=torch.zeros(128), b_dec=torch.zeros(2, 128))
    >>> both = Crosscoder(sites=("mlp_out1",) * 2, W_enc=W_dec.permute(1, 2, 0) / 2, W_dec=W_dec, **biases)
    >>> latent_scaling(both, model, model, clean, latents=[5], progress=False).mean[0, :3].tolist()
    [0.5, 1.0, 1.0]
    """
    hooks = set(crosscoder.sites)
    if len(crosscoder.sites) != 2 or len(hooks) != 1:
        raise BadInput(f"a crosscoder of two models has one hook twice as its sites, got {crosscoder.sites}")
    count = crosscoder.n_features
    chosen = list(range(count)) if latents is None else list(latents)
    if not chosen or not all(0 <= one < count for one in chosen):
        raise BadInput(f"latents must be some of 0..{count - 1}, got {latents}")
    (hook,) = hooks
    if (width := model.points(hook)[0].sizes.get("d_model")) not in (None, crosscoder.d_in):
        raise BadInput(f"this crosscoder reads {crosscoder.d_in} numbers, and {hook} has {width}")
    on_cpu = crosscoder.to("cpu")
    assert isinstance(on_cpu, Crosscoder)
    sums = _Scaling(on_cpu, torch.tensor(chosen))
    found = scan_pair(model, other, corpus, PairReading((model, other), [hook], sums), **options)
    return Result(
        metric="value",
        axes={"latent": chosen, "measure": list(LATENT_MEASURES)},
        values=found["pair"][0][..., None],
    )


@dataclass(frozen=True, eq=False)
class _Scaling(PairSums):
    """Sums of what features are worth in both models' errors and reconstructions."""

    crosscoder: Crosscoder
    latents: Int[Tensor, " latent"]

    @property
    def _decoders(self) -> Float[Tensor, "latent site d"]:
        return self.crosscoder.W_dec[self.latents].double()

    def _owners(self) -> tuple[Int[Tensor, " latent"], Float[Tensor, "latent d"]]:
        """Where each decoder is longer, and the decoder there."""
        decoders = self._decoders
        owner = decoders.norm(dim=-1).argmax(1)
        return owner, decoders[torch.arange(len(owner)), owner]

    def reduce(self, a: Tensor, b: Tensor, positions: Int[Tensor, " token"]) -> State:
        x = torch.stack((a.flatten(1), b.flatten(1)), dim=1)
        features = self.crosscoder.encode(x)
        made = self.crosscoder.decode(features).double()
        f, d = features[:, self.latents].double(), self._owners()[1]
        error, bias = x - made, self.crosscoder.b_dec.double()
        own = f.square().sum(0) * torch.einsum("lsd,ld->sl", self._decoders, d)
        in_error = torch.einsum("tl,tsd,ld->sl", f, error, d) + own
        in_made = torch.einsum("tl,tsd,ld->sl", f, made - bias, d)
        return {
            "count": torch.tensor(len(f)),
            "active": (f > 0).sum(0),
            "squares": exact(f.square().sum(0)),
            "products": exact(torch.stack((in_made, in_error))),
        }

    def merge(self, one: State, other: State) -> State:
        counts = {name: one[name] + other[name] for name in ("count", "active")}
        return counts | {name: added(one[name], other[name]) for name in ("squares", "products")}

    def result(self, state: State) -> Float[Tensor, "latent measure"]:
        owner, d = self._owners()
        norms = self._decoders.norm(dim=-1)
        betas = number(state["products"]) / (number(state["squares"]) * d.square().sum(-1))
        place = owner.expand(2, 1, -1)
        there, elsewhere = (betas.gather(1, one)[:, 0] for one in (place, 1 - place))
        ratios = torch.where(state["active"] > 0, relative(elsewhere, there), torch.nan)
        columns = (norms[:, 1] / norms.sum(1), *ratios, state["active"] / state["count"], owner, *betas.flatten(0, 1))
        return torch.stack([one.double() for one in columns], dim=1)
