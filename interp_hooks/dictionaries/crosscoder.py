"""Crosscoders (Lindsey et al. 2024): one set of features for activations of several layers, or of several models.

features = activation(sum over sites of x[site] W_enc[site] + b_enc)       y[site] = features W_dec[:, site] + b_dec
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation, ReLU
from interp_hooks.dictionaries.base import Dictionary, full_names, refuse_unlike
from interp_hooks.dictionaries.splicing import Part
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told_shape


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Crosscoder(Dictionary):
    """Features of several activations at once, each of which they reconstruct.

    `sites` are hooks. Of two models with the same hook it is named twice, and `facts` may say whose is whose.

    Raises:
        BadInput: weights that do not fit together, or are not finite.
    """

    sites: tuple[str, ...]
    W_enc: Float[Tensor, "site d feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature site d"]
    b_dec: Float[Tensor, "site d"]
    activation: Activation = ReLU()  # noqa: RUF009 (a value that cannot change)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", full_names("sites", self.sites))
        if not isinstance(self.W_enc, Tensor) or self.W_enc.ndim != 3:
            raise BadInput(f"W_enc must be [site, d, feature], got {told_shape(self.W_enc)}")
        sites, d, features = len(self.sites), self.d_in, self.n_features
        refuse_unlike(
            {
                "W_enc": (self.W_enc, (sites, d, features)),
                "b_enc": (self.b_enc, (features,)),
                "W_dec": (self.W_dec, (features, sites, d)),
                "b_dec": (self.b_dec, (sites, d)),
            }
        )
        self.activation.check(features)

    @property
    def hooks_in(self) -> tuple[str, ...]:
        return self.sites

    @property
    def hooks_out(self) -> tuple[str, ...]:
        return self.sites

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[2]

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_enc.shape[1]

    def pre_activations(self, x: Float[Tensor, "*tokens site d"]) -> Float[Tensor, "*tokens feature"]:
        if x.ndim < 2 or x.shape[-2:] != self.W_enc.shape[:2]:
            raise BadInput(f"expected activations [..., site={len(self.sites)}, d={self.d_in}], got {told_shape(x)}")
        return torch.einsum("...sd,sdf->...f", x.to(self.W_enc.dtype), self.W_enc) + self.b_enc

    def encode(self, x: Float[Tensor, "*tokens site d"]) -> Float[Tensor, "*tokens feature"]:
        return self.activation(self.pre_activations(x))

    def decode(
        self, features: Float[Tensor, "*tokens feature"], x: Float[Tensor, "*tokens site d"] | None = None
    ) -> Float[Tensor, "*tokens site d"]:
        return torch.einsum("...f,fsd->...sd", features, self.W_dec) + self.b_dec

    def parts(self) -> list[Part]:
        raise BadInput(
            "a crosscoder's features need all of its sites, the later ones too, so it cannot stand in a model; encode "
            "what run_with_cache finds at its hooks"
        )

    @property
    def decoder_norms(self) -> Float[Tensor, "feature site"]:
        """How long each feature's decoder is at each site."""
        return self.W_dec.norm(dim=-1)

    @property
    def shares(self) -> Float[Tensor, "feature site"]:
        """What share of a feature's decoder norms each site has; of two models 0.5 for features that both have.

        A share near 0 or 1 may be an artefact of an L1 penalty (Minder et al. 2025, arXiv 2504.02922).
        """
        norms = self.decoder_norms
        return norms / norms.sum(-1, keepdim=True)
