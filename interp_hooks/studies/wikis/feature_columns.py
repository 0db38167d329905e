"""What a wiki knows of a dictionary's features: their weights, what goes with them, and what is lost without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import leads
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.experiments.gradients import integrated_gradients
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.sites import at
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import CHUNK, unembedding
from interp_hooks.studies.features.causes import feature_effects
from interp_hooks.studies.features.relations import RelatedFeatures, related_features
from interp_hooks.studies.features.units import LayerFeatures
from interp_hooks.studies.neurons.vocabulary import moments_of, null_space
from interp_hooks.studies.wikis.material import LISTED, Column, Listing, Material, columns_from, lost_columns

NULL = 0.1  # singular values below this share of their root mean square are of null directions
WEIGHTS = {
    "kurtosis": ("none", "kurtosis of its effect on logits over the vocabulary"),
    "skew": ("none", "skew of that effect"),
    "variance": ("logits squared", "variance of that effect for a feature of 1, but for the final norm's scale"),
    "norm": ("length of a vector in the residual stream", "norm of what it writes for a feature of 1"),
}


def stream_rows(model: HookedTransformer, features: LayerFeatures) -> Float[Tensor, "feature d_model"] | None:
    """What each feature writes to the stream for a feature of 1, in all layers; None where it writes something else."""
    written = [_stream_rows(model, features, *one) for one in features.writes]
    rows = [one for one in written if one is not None]
    return torch.stack(rows).sum(0) if len(rows) == len(written) else None


def _stream_rows(
    model: HookedTransformer, features: LayerFeatures, hook: str, rows: Float[Tensor, "feature d_out"]
) -> Float[Tensor, "feature d_model"] | None:
    place, rows = Stream(model).place(hook), rows.detach().float()
    if place.point.axes[2:] == ("d_model",) and place.stays:
        return rows
    if hook == f"blocks.{place.layer}.attn.hook_z":
        block, head = model.blocks[place.layer], features.dictionary.head
        W_O = model.whole(block.attn.W_O).detach().float() * block.residual_scale
        return rows @ (W_O.flatten(0, 1) if head is None else W_O[head])
    return None


def _effects(material: Material, kind: str) -> dict[int, dict[str, Tensor]]:
    """By layer, the moments and the ends of all features' effects on the vocabulary."""
    return material.once(f"{kind} effects", lambda: _effects_of(material, kind))


def _effects_of(material: Material, kind: str) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for layer, one in material.dictionaries[kind].items():
        rows = stream_rows(material.model, one) if material.has_vocabulary else None
        if rows is None:
            continue
        of_heads = one.writes[0][0].endswith("attn.hook_z")
        onto = unembedding(material.model, layer if of_heads else None)
        nothing = null_space(onto, NULL)
        parts = [
            moments_of(some, onto, nothing, min(LISTED, onto.shape[1]))
            for some in rows.to(onto).split(max(1, CHUNK // onto.shape[1]))
        ]
        found[layer] = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return found


def _related(material: Material, kind: str) -> Mapping[int, RelatedFeatures]:
    active = material.found[f"{kind}_active"]
    return {
        layer: related_features(active[layer], material.found.n_tokens, k=LISTED)
        for layer in material.dictionaries[kind]
    }


def _by_layer(material: Material, kind: str, values: Mapping[int, Tensor]) -> dict[int, list[float]]:
    """Values of all layers of a kind, nan in those that have none."""
    return {
        layer: values[layer].tolist() if layer in values else [math.nan] * n
        for layer, n in material.sizes[kind].items()
    }


def feature_weight_columns(kind: str) -> Callable[[Material], list[Column]]:
    """What features' weights do to the vocabulary, whether they read what they write, and which are dead."""

    def columns(material: Material) -> list[Column]:
        effects, one = _effects(material, kind), material.dictionaries[kind]
        made = columns_from(
            WEIGHTS if effects else {},
            lambda name: _by_layer(material, kind, {layer: of[name] for layer, of in effects.items()}),
        )
        cosines = {
            layer: torch.cosine_similarity(of.encoder.float(), of.writes[0][1].float(), dim=1)
            for layer, of in one.items()
            if of.encoder is not None and of.encoder.shape == of.writes[0][1].shape
        }
        if cosines:
            about = "of what its encoder looks for and what its decoder writes in its layer"
            made.append(Column(name="cos_in", unit="cosine", about=about, values=_by_layer(material, kind, cosines)))
        made += _site_columns(one)
        shares = {layer: found["active"].tolist() for layer, found in material.statistics(kind).items()}
        dead = {layer: ["" if share else "dead" for share in listed] for layer, listed in shares.items()}
        about = '"dead" if it is active at no token of the corpus'
        return [*made, Column(name="label", unit="label", about=about, values=dead)]

    return columns


def _site_columns(features: Mapping[int, LayerFeatures]) -> list[Column]:
    """Of a crosscoder, what share each site has of a feature's decoder norms."""
    return [
        Column(
            name=f"share_{place}", unit="share", about=f"of its decoder norms, that of {site}", values={layer: share}
        )
        for layer, one in features.items()
        if isinstance(one.dictionary, Crosscoder)
        for place, (site, share) in enumerate(zip(one.hooks, one.dictionary.shares.unbind(1), strict=True))
    ]


def feature_effect_columns(kind: str) -> Callable[[Material], list[Column]]:
    """What is lost if one feature is set to 0: to the order of a gradient for all, and exactly for those examined.

    These are the ones with the largest estimates; they are ablated on their top contexts and on random ones. A
    crosscoder cannot stand in a model, since its features need later sites too: of its features there are no effects.
    """

    def columns(material: Material) -> list[Column]:
        if not material.has_effects:
            return []
        estimates: dict[int, Tensor] = {}
        rows: dict[tuple[str, int, int], Any] = {}
        for layer, one in material.dictionaries[kind].items():
            if one.hook_features is None:
                continue
            estimates[layer] = _estimate(material, one)
            most = estimates[layer].abs().topk(min(material.n_examined, one.n_features))
            examined = most.indices[most.values > 0].tolist()
            if not examined:
                continue
            options: dict[str, Any] = dict(units=material.units[kind], k=5, n_random=16)
            found = feature_effects(material.model, one.dictionary, material.found, examined, layer=layer, **options)
            for row in found.table().to_dict("records"):
                rows[row["contexts"], layer, row["feature"]] = row
        if not estimates:
            return []
        about = "about how much the next-token loss on a sample of the corpus rises if the feature is 0"
        made = [Column(name="ablation_loss_estimate", unit="nats per token", about=about, values=estimates)]
        return made + lost_columns(rows, material.sizes[kind], "the feature is 0")

    return columns


def _estimate(material: Material, features: LayerFeatures) -> Float[Tensor, " feature"]:
    """What the loss on the sample gains without each feature, by the gradient half way there; BOS is left as it is."""
    model, run, hook = material.model, material.run, features.hook_features
    assert hook is not None
    first = int(all(leads(model, piece.tokens) for piece in material.sample))
    site = at(hook, pos=list(range(first, run.tokens.shape[1])))
    with features.dictionary.splice_into(model, name="dictionary", error_term=True):
        found = integrated_gradients(model, run, Loss(), site, baseline=0.0, steps=1, over=("feature",), progress=False)
    return -found.mean.flatten().cpu()


def listed(
    numbers: Int[Tensor, "unit place"], values: Float[Tensor, "unit place"], text: Callable[[int], str]
) -> list[list[tuple[str, float]]]:
    """For each unit, the texts of some numbers with a value each; numbers below 0 are of no entry."""
    rows = zip(numbers.tolist(), values.tolist(), strict=True)
    return [[(text(number), value) for number, value in zip(*row, strict=True) if number >= 0] for row in rows]


def feature_listings(kind: str) -> Callable[[Material], list[Listing]]:
    """The tokens that features raise and lower, and the features that go with each."""

    def listings(material: Material) -> list[Listing]:
        effects, made = _effects(material, kind), []
        for name, end in (("raises", "top"), ("lowers", "bottom")) if effects else ():
            entries = {
                layer: listed(effects[layer][end], effects[layer][f"{end}_values"], material.words)
                if layer in effects
                else [[]] * n
                for layer, n in material.sizes[kind].items()
            }
            about = f"tokens that it {name} most by its row of the decoder alone"
            made.append(Listing(name=name, unit="logit per activation", about=about, entries=entries))
        related = _related(material, kind)
        for name, (indices, values, unit, about) in RELATIONS.items():
            entries = {
                layer: listed(getattr(found, indices), getattr(found, values), f"L{layer}F{{}}".format)
                for layer, found in related.items()
            }
            made.append(Listing(name=name, unit=unit, about=about, entries=entries, of_units=True))
        return made

    return listings


RELATIONS = {
    "correlated features": (
        "correlated",
        "correlations",
        "Pearson correlation",
        "features of the same dictionary whose activations vary most as its own do, over all tokens; a few very large "
        "activations can rule it, and do not rule the list of co-active ones",
    ),
    "co-active features": (
        "coactive",
        "jaccard",
        "share of the tokens at which either is active",
        "features of the same dictionary that are most often active at the same tokens",
    ),
}
