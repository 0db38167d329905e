"""What is trained of a dictionary: its parameters, and the loss of a batch of activations.

    loss = sum over d, mean over tokens, of (y - r)^2       the mean of that over `prefixes` of a Matryoshka dictionary
         + sparsity * what its kind asks for                sum of features (ReLU, gated); (L0 - k)^2 * 2 / k (JumpReLU)
         + aux * how far dead features are from y - r       those d/2 which come nearest to being active (2406.04093)

Rows of the decoder have norm 1 throughout. A crosscoder is the SAE of its sites' activations, one after the other. A
cross-layer transcoder has features for every layer, each set of which writes to all later layers, one after the other:
r is the sum of what all say, and sparsity and aux are those of each layer's features, added up.
Inputs are scaled so that their norm is sqrt(d) on average, which the finished dictionary undoes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.coder import RATE, Coder
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.dictionaries.ranks import Ranks
from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.single import SAE, Transcoder


class Trainable(nn.Module):
    """The parameters of a dictionary in training, from the first activations that it sees.

    `coders` are its sets of features: one, or one for every layer of a cross-layer transcoder.
    """

    def __init__(
        self,
        recipe: Recipe,
        x: Float[Tensor, "token site d_in"],
        y: Float[Tensor, "token site d_out"],
        ranks: Ranks = Ranks(),  # noqa: B008 (a value that cannot change)
    ) -> None:
        super().__init__()
        self.recipe, self.ranks = recipe, ranks
        dtype, device = torch.promote_types(x.dtype, torch.float32), x.device
        x, y = x.to(dtype), y.to(dtype)
        self.scale: Tensor
        self.scale_out: Tensor
        self.register_buffer("scale", self._scale(x))
        self.register_buffer("scale_out", self._scale(y))
        (n_in, d_in), (n_out, d_out) = x.shape[1:], y.shape[1:]
        sizes = [(n_in * d_in, n_out * d_out)]
        if recipe.is_cross_layer:
            sizes = [(d_in, (n_out - layer) * d_out) for layer in range(n_in)]
        self.coders = nn.ModuleList(
            Coder(recipe, *size, dtype, device, ranks, recipe.seed + place) for place, size in enumerate(sizes)
        )
        self.b_dec = nn.Parameter(ranks.mean_of_tokens((y * self.scale_out[:, None]).flatten(1)))
        skips = torch.zeros(len(sizes), sizes[0][0], d_out if recipe.is_cross_layer else sizes[0][1])
        self.W_skip = nn.Parameter(skips.to(device, dtype)) if recipe.skip else None

    def _scale(self, x: Float[Tensor, "token site d"]) -> Float[Tensor, " site"]:
        """By which factor the activations of each site have norm sqrt(d) on average."""
        return x.shape[-1] ** 0.5 / self.ranks.mean_of_tokens(x.norm(dim=-1)).clamp(min=torch.finfo(x.dtype).tiny)

    @property
    def dtype(self) -> torch.dtype:
        return self.b_dec.dtype

    # ------------------------------------------------------------------------------------------------------ a batch

    def loss(self, x: Tensor, y: Tensor, dead_after: int, rate: float = RATE) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch [token site d], and of it L0, explained variance and the share of dead features.

        `rate` is that of the running mean of BatchTopK's thresholds. L0 of a cross-layer transcoder is that of a layer,
        on average.
        """
        recipe = self.recipe
        x, y = ((one.to(self.dtype) * scale[:, None]) for one, scale in ((x, self.scale), (y, self.scale_out)))
        each, y = (x.unbind(1) if recipe.is_cross_layer else [x.flatten(1)]), y.flatten(1)
        skipped = self._skipped(each)
        always, still = self.b_dec + skipped, self.b_dec.detach() + skipped
        dead = [one.since_active >= dead_after for one in self._coders]
        revives = [bool(recipe.aux) and bool(one.any()) for one in dead]
        subtracted = self.b_dec if recipe.is_sae else None
        found = [
            coder.encoded(one, subtracted, revived)
            for coder, one, revived in zip(self._coders, each, revives, strict=True)
        ]
        errors = [
            y - always - sum(self._padded(one.said(n), y) for one in found)
            for n in (recipe.n_features, *recipe.prefixes)
        ]
        loss = torch.stack([error.square().sum(-1).mean() for error in errors]).mean()
        rest = errors[0].detach()
        for coder, one, without, revived in zip(self._coders, found, dead, revives, strict=True):
            if one.pre is not None:
                loss = loss + coder.sparsity(one.pre, lambda said: (y - still - said).square().sum(-1).mean())
            if one.pre is not None and revived:
                loss = loss + recipe.aux * coder.revival(one.pre, rest[:, -coder.W_dec.shape[1] :], without)
            coder.count(one, len(x), rate)
        with torch.no_grad():
            variance = (y - y.mean(0)).square().sum()
            explained = 1 - rest.square().sum() / variance if variance > 0 else variance.new_tensor(float("nan"))
            told = {
                "l0": sum(one.number for one in found) / len(x) / len(found),
                "explained_variance": float(explained),
                "dead": float(torch.stack(dead).double().mean()),
            }
        return loss, told

    @property
    def _coders(self) -> list[Coder]:
        return list(self.coders)  # pyright: ignore[reportReturnType]

    def _padded(self, said: Float[Tensor, "token d"], y: Float[Tensor, "token d_out"]) -> Float[Tensor, "token d_out"]:
        """What features say, which write to the last of what is reconstructed."""
        return nn.functional.pad(said, (y.shape[1] - said.shape[1], 0))

    def _skipped(self, each: list[Tensor] | tuple[Tensor, ...]) -> Tensor | float:
        if self.W_skip is None:
            return 0.0
        return torch.cat([one @ skip for one, skip in zip(each, self.W_skip, strict=True)], 1)

    # -------------------------------------------------------------------------------------------------- between steps

    def project(self) -> None:
        """Take out of the decoders' gradients what would change the norms of their rows."""
        for coder in self._coders:
            coder.project()

    def constrain(self) -> None:
        """Give the decoders' rows norm 1 again, and let no threshold be negative."""
        for coder in self._coders:
            coder.constrain()

    # ------------------------------------------------------------------------------------------------------- the end

    @torch.no_grad()
    def finished(self, facts: Mapping[str, Any]) -> Dictionary:
        """The dictionary as it is now, of activations as they are."""
        recipe, coders = self.recipe, self._coders
        if recipe.is_cross_layer:
            return self._cross_layer(facts)
        weights = {name: getattr(coders[0], name).detach().clone() for name in ("W_enc", "b_enc", "W_dec")}
        b_dec, activation = self.b_dec.detach().clone(), coders[0].activation()
        shared: dict[str, Any] = {**weights, "b_dec": b_dec, "activation": activation, "facts": dict(facts)}
        if recipe.sites:
            return self._crosscoder(shared)
        scale, scale_out = float(self.scale), float(self.scale_out)
        if recipe.hook_out is None:
            sae = SAE(hook=recipe.hook, of_head=recipe.head, b_in=shared["b_dec"], **shared)
            return sae.folded_scale(scale)
        skip = None if self.W_skip is None else self.W_skip[0].detach().clone()
        transcoder = Transcoder(hook_in=recipe.hook, hook_out=recipe.hook_out, W_skip=skip, **shared)
        return transcoder.folded_scale(scale, scale_out)

    def _crosscoder(self, shared: dict[str, Any]) -> Crosscoder:
        sites, scale = self.recipe.sites, self.scale
        shared["W_enc"] = shared["W_enc"].unflatten(0, (len(sites), -1)) * scale[:, None, None]
        shared["W_dec"] = shared["W_dec"].unflatten(1, (len(sites), -1)) / scale[:, None]
        shared["b_dec"] = shared["b_dec"].unflatten(0, (len(sites), -1)) / scale[:, None]
        return Crosscoder(sites=sites, **shared)

    def _cross_layer(self, facts: Mapping[str, Any]) -> CrossLayerTranscoder:
        recipe, coders, scale, scale_out = self.recipe, self._coders, self.scale, self.scale_out
        n, skips = len(recipe.sites), self.W_skip
        return CrossLayerTranscoder(
            layers_in=recipe.sites,
            layers_out=recipe.sites_out,
            W_enc=tuple(coder.W_enc * one for coder, one in zip(coders, scale, strict=True)),
            b_enc=tuple(coder.b_enc.clone() for coder in coders),
            W_dec=tuple(
                coder.W_dec.unflatten(1, (n - layer, -1)) / scale_out[layer:, None]
                for layer, coder in enumerate(coders)
            ),
            b_dec=(self.b_dec.unflatten(0, (n, -1)) / scale_out[:, None]).unbind(),
            activations=tuple(coder.activation() for coder in coders),
            W_skip=() if skips is None else (skips * (scale / scale_out)[:, None, None]).unbind(),
            facts=dict(facts),
        ).mapped(lambda weight: weight.detach().clone())
