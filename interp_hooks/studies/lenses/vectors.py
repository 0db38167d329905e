"""Lens vectors: for a token the direction in the stream of a layer along which a lens reads its logit.

    vector of token v at layer l = J' N' w        w: the column of W_U for v, less the mean column, times the multiplier
                                                  N: the final norm but for its scale    J: the lens' map of the layer

The product of a vector with the stream is the lens' logit of the token, less the mean logit, before the norm's scale
and a soft cap and but for what biases add. So it does not depend on whether weights were folded or centred. A vector is
made for the tokens that are asked for, and no matrix of all of them. What they do is said as interventions, which go
into any `Run`:

    added      h + coefficient v                        steer
    ablated    h without its component in their span    what the lens reads of these tokens is gone
    swapped    h with its coordinates along two of them exchanged, once or more than that
    clamped    h with its component in their span from another run
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about, checked
from interp_hooks.hooks.modes import study
from interp_hooks.interventions.runs import Intervention, SourceLike
from interp_hooks.interventions.sites import Here, Site, Source, at
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.base import Lens

SAME, ALIKE = 0.999, 0.99  # cosines above which two vectors are no two directions, or hardly


@study
def lens_vectors(model: HookedTransformer, lens: Lens, layer: int, tokens: Any) -> LensVectors:
    """The lens vectors of some tokens (ids or text, one or a list) in the stream that enters a layer.

    Raises:
        BadInput: a layer without a map, a token outside the vocabulary, or a masked-LM head, which is not linear.

    >>> from interp_hooks.studies import Lens, lens_vectors
    >>> names = lens_vectors(model, Lens.identity(model), 2, [" Mary", " John"])
    >>> names.vectors.shape, names.words
    (torch.Size([2, 128]), [' Mary', ' John'])
    >>> run = Run(model.to_tokens(clean), [names.swapped(pos=-1)])
    >>> with steer(model, names.vectors[0], "resid_pre2", coefficient=0.1):
    ...     steered = model(clean)
    """
    lens.refuse_unfit(model)
    lens.refuse_layer(layer)
    with about("tokens"):
        ids = model.token_ids(tokens).reshape(-1)
    if not len(ids):
        raise BadInput("tokens must name at least one token")
    vectors = pulled_back(model, lens.maps[layer], unembedding_of(model, ids))
    words = list(map(names_of(model), ids.tolist()))
    return LensVectors(layer=layer, tokens=ids.cpu(), vectors=vectors, words=words)


def unembedding_of(model: HookedTransformer, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """The columns of W_U for some tokens, less the mean column, times the logits' multiplier.

    Raises:
        BadInput: a masked-LM head.
    """
    if model.cfg.mlm_head:
        raise BadInput("a masked-LM head is not linear, so that no direction stands for logits")
    W_U = model.W_U.detach()
    columns = W_U.T[ids.to(W_U.device)].to(torch.promote_types(W_U.dtype, torch.float32))
    return (columns - mean_column(model)) * model.cfg.logits_scale


def mean_column(model: HookedTransformer) -> Float[Tensor, " d_model"]:
    """The mean of W_U over the vocabulary."""
    return model.W_U.detach().mean(1, dtype=torch.promote_types(model.W_U.dtype, torch.float32))


def pulled_back(
    model: HookedTransformer, map: Tensor | None, onto: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """Directions before a lens' map and the final norm (but for its scale) that read what `onto` reads after them."""
    if model.ln_final.kind is not None:
        onto = FrozenNorm.of(model.ln_final, onto.new_ones(1)).pulled_back(onto)
    if map is None:
        return onto
    precise = torch.promote_types(onto.dtype, map.dtype)
    return onto.to(precise) @ map.to(onto.device, precise)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensVectors:
    """The lens vectors of some tokens (`words` are their texts) in the stream that enters a layer, and what they do."""

    layer: int
    tokens: Int[Tensor, " token"]
    vectors: Float[Tensor, "token d_model"]
    words: list[str]

    def __repr__(self) -> str:
        return f"LensVectors(layer={self.layer}, words={self.words})"

    @property
    def cosines(self) -> Float[Tensor, "token token"]:
        """The cosines of the angles between them."""
        rows = self.vectors / self.vectors.norm(dim=1, keepdim=True)
        return rows @ rows.T

    @checked
    def coordinates(self, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows token"]:
        """The stream's coordinates along them: those of its component in their span, V⁺ h."""
        return _coordinates(stream, self._apart)

    def added(self, coefficient: float = 1.0, *, pos: int | Tensor | None = None) -> Intervention:
        """Add `coefficient` times the sum of them, at one position of each prompt or at all."""
        return Intervention(self._site(pos), Added(self.vectors.sum(0), float(coefficient)))

    def ablated(self, source: SourceLike = 0.0, *, pos: int | Tensor | None = None) -> Intervention:
        """Take the component in their span away; with another source (a `Mean`), put that of the source in its place.

        Raises:
            BadInput: two of them are the same direction.
        """
        return Intervention(self._site(pos), source, along=self._apart)

    def clamped(self, source: SourceLike, *, pos: int | Tensor | None = None) -> Intervention:
        """Let the coordinates along them be those of another run, `Run(clean)`, or of another source.

        Raises:
            BadInput: two of them are the same direction.
        """
        return Intervention(self._site(pos), source, along=self._apart)

    def swapped(self, strength: float = 1.0, *, pos: int | Tensor | None = None) -> Intervention:
        """Exchange the coordinates along the two: h + strength V (σ(V⁺h) - V⁺h), where 2 overdoes it.

        Raises:
            BadInput: there are not two of them, or they are the same direction.
        """
        if len(self.vectors) != 2:
            raise BadInput(f"coordinates are exchanged between two tokens, these are {len(self.vectors)}: {self.words}")
        return Intervention(self._site(pos), Swapped(self._apart, float(strength)))

    def _site(self, pos: int | Tensor | None) -> Site:
        return at("resid_pre", self.layer) if pos is None else at("resid_pre", self.layer, pos=pos)

    @property
    def _apart(self) -> Float[Tensor, "token d_model"]:
        """The vectors, if they are different directions."""
        between = self.cosines.abs() - torch.eye(len(self.vectors)).to(self.vectors)
        most, place = between.flatten().max(0)
        one, other = divmod(int(place), len(self.vectors))
        told = f"the lens vectors of {self.words[one]!r} and {self.words[other]!r} have a cosine of {float(most):.4f}"
        if float(most) > SAME:
            raise BadInput(f"{told}, so that they are no two directions; leave one of them out")
        if float(most) > ALIKE:
            warnings.warn(
                f"{told}, so that coordinates along them are mostly differences of large numbers", stacklevel=4
            )
        return self.vectors


def _coordinates(stream: Tensor, vectors: Float[Tensor, "token d_model"]) -> Float[Tensor, "*rows token"]:
    precise = torch.promote_types(stream.dtype, vectors.dtype)
    return stream.to(precise) @ torch.linalg.pinv(vectors.to(stream.device, precise))


@dataclass(frozen=True, eq=False)
class Added(Source):
    """As a source: the value that is there, plus a vector times a coefficient."""

    vector: Float[Tensor, " d_model"]
    coefficient: float

    def put(self, here: Here) -> Tensor:
        return here.value + self.coefficient * self.vector.to(here.value)


@dataclass(frozen=True, eq=False)
class Swapped(Source):
    """As a source: the value that is there, its coordinates along two vectors exchanged as often as `strength` says."""

    vectors: Float[Tensor, "2 d_model"]
    strength: float

    def put(self, here: Here) -> Tensor:
        coordinates = _coordinates(here.value, self.vectors)
        change = (coordinates.flip(-1) - coordinates) @ self.vectors.to(coordinates)
        return (here.value + self.strength * change).to(here.value.dtype)
