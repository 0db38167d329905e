"""The features of dictionaries as units that a scan measures, each in the layer whose activation it is read from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.units import Units
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.dictionaries.single import SingleSite
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.names import LAYER, get_act_name
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """The features of one layer: those of an SAE or transcoder, or those that a cross-layer transcoder has at `place`.

    A crosscoder's features belong to several layers; they are listed in that of its last site.
    """

    dictionary: Dictionary
    place: int = 0

    @property
    def n_features(self) -> int:
        return self.dictionary.n_features

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that they are read from."""
        one = self.dictionary
        return one.sites if isinstance(one, Crosscoder) else (one.hooks_in[self.place],)

    @property
    def hook_features(self) -> str | None:
        """The hook at which they are when the dictionary is spliced in as "dictionary"; None if it cannot be."""
        if isinstance(self.dictionary, Crosscoder):
            return None
        return f"{self.dictionary.hooks_out[self.place]}.dictionary.hook_features"

    @property
    def encoder(self) -> Float[Tensor, "feature d_in"] | None:
        """What each feature looks for; None if that is in several activations."""
        one = self.dictionary
        if isinstance(one, SingleSite):
            return one.W_enc.T
        return one.W_enc[self.place].T if isinstance(one, CrossLayerTranscoder) else None

    @property
    def writes(self) -> list[tuple[str, Float[Tensor, "feature d_out"]]]:
        """The hooks that they write to, with what each feature writes there.

        A crosscoder's sites are the same stream at several places, so of these it is the last alone.
        """
        one = self.dictionary
        if isinstance(one, SingleSite):
            return [(one.hooks_out[0], one.W_dec)]
        if isinstance(one, Crosscoder):
            return [(one.sites[-1], one.W_dec[:, -1])]
        assert isinstance(one, CrossLayerTranscoder)
        return [
            (one.layers_out[layer], rows)
            for layer, rows in zip(one.outputs(self.place), one.W_dec[self.place].unbind(1), strict=True)
        ]

    def encode(self, values: Sequence[Tensor]) -> Float[Tensor, "row pos feature"]:
        """The features, from what its hooks show."""
        one = self.dictionary
        if one.head is not None:
            return one.encode(values[0][:, :, one.head])
        flat = [value.flatten(2) for value in values]
        if isinstance(one, CrossLayerTranscoder):
            return one.encode_layer(self.place, flat[0])
        return one.encode(torch.stack(flat, -2) if isinstance(one, Crosscoder) else flat[0])


def by_layer(model: HookedTransformer, dictionaries: Dictionary | Sequence[Dictionary]) -> dict[int, LayerFeatures]:
    """The features of dictionaries that read the same hook of different layers, by layer, on the model's device.

    A cross-layer transcoder has features in each of its layers, a crosscoder in that of its last site.

    Raises:
        BadInput: no dictionaries, two of one layer, or of different hooks, or outside of layers; or a crosscoder beside
            others, or of two models.
        UnknownHook: the model lacks a hook.
    """
    listed = [dictionaries] if isinstance(dictionaries, Dictionary) else list(dictionaries)
    crossing = [one for one in listed if isinstance(one, Crosscoder)]
    if crossing and (len(listed) > 1 or len({*crossing[0].sites}) < len(crossing[0].sites)):
        raise BadInput(
            "a crosscoder's features are listed for it alone, and if its sites are different hooks of a model"
        )
    found: dict[int, LayerFeatures] = {}
    templates: set[str] = set()
    for one in listed:
        one.refuse_unfit(model)
        on_device = one.to(model.device)
        places = range(len(one.hooks_in)) if isinstance(one, CrossLayerTranscoder) else (0,)
        for features in (LayerFeatures(on_device, place) for place in places):
            hook = features.hooks[-1]
            layer = Stream(model).place(hook).layer
            if layer in found or not 0 <= layer < model.cfg.n_layers:
                raise BadInput(
                    f"expected dictionaries of different layers, got a second one of {hook}"
                    if layer in found
                    else f"features are listed by layer, and {hook} is in none"
                )
            templates.add(_template(hook, layer))
            found[layer] = features
    if len(templates) != 1:
        raise BadInput(
            f"dictionaries must be of one hook in different layers, got {sorted(templates)}; name them apart"
        )
    return dict(sorted(found.items()))


def _template(hook: str, layer: int) -> str:
    """A hook's name for any layer."""
    template = hook.replace(f"blocks.{layer}.", f"blocks.{LAYER}.")
    assert get_act_name(template, layer) == hook
    return template


@checked
def feature_units(
    model: HookedTransformer, dictionaries: Dictionary | Sequence[Dictionary], name: str = "feature"
) -> Units:
    """The features of a dictionary as units of a scan; or of several that read the same hook of different layers.

    Those of a crosscoder, which reads several, are units of the layer of its last site. The scan reads the model as it
    is. Their name holds a digest of the weights, so that a scan that was kept is not taken for one of other
    dictionaries.

    Raises:
        BadInput: two dictionaries of one layer, or of different hooks, or of a hook outside of the layers; or a
            crosscoder beside others, or of two models.
        UnknownHook: the model lacks a hook.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.corpus import TopK, scan
    >>> from interp_hooks.studies import feature_units
    >>> units = feature_units(model, dictionaries.load("ioi-tiny/sae"))
    >>> scan(model, clean, {"top": TopK(units, k=2)}, progress=False)["top"][1]["values"].shape
    torch.Size([512, 2])
    """
    by = by_layer(model, dictionaries)
    layer, one = next(iter(by.items()))
    hooks = (*one.hooks[:-1], _template(one.hooks[-1], layer))
    return Units(f"{name}_{digest(by)}", hooks, of=_Encoded(by), layers=tuple(by))


class _Encoded:
    """The features of one layer, from the activations that their dictionary reads."""

    def __init__(self, features: Mapping[int, LayerFeatures]) -> None:
        self.features = features

    def __call__(
        self, found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
    ) -> Float[Tensor, "row pos feature"]:
        assert layer is not None
        return self.features[layer].encode(list(found.values()))


def digest(features: Mapping[int, LayerFeatures]) -> str:
    """A short digest of dictionaries: of their weights, and of where they stand."""
    found = hashlib.sha256()
    first = {id(one.dictionary): (layer, one.dictionary) for layer, one in reversed([*features.items()])}
    for layer, one in sorted(first.values(), key=lambda pair: pair[0]):
        found.update(f"{layer} {one.hooks} {one.head} {type(one).__name__}".encode())
        for name, weight in one.tensors().items():
            found.update(f"{name} {tuple(weight.shape)}".encode())
            found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
