"""The features of dictionaries as units that a scan measures, each in the layer whose activation it is read from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.units import Units
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.single import SingleSite
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.names import LAYER, get_act_name
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer


def by_layer(model: HookedTransformer, dictionaries: Dictionary | Sequence[Dictionary]) -> dict[int, SingleSite]:
    """Dictionaries that read the same hook of different layers, by layer, on the model's device.

    Raises:
        BadInput: dictionaries of several sites or none, two of one layer, or of different hooks, or outside of layers.
        UnknownHook: the model lacks a hook.
    """
    listed = [dictionaries] if isinstance(dictionaries, Dictionary) else list(dictionaries)
    found: dict[int, SingleSite] = {}
    templates: set[str] = set()
    for one in listed:
        if not isinstance(one, SingleSite):
            raise BadInput(f"expected SAEs or transcoders, which read one hook each, got {type(one).__name__}")
        one.refuse_unfit(model)
        (hook,) = one.hooks_in
        layer = Stream(model).place(hook).layer
        if layer in found or not 0 <= layer < model.cfg.n_layers:
            raise BadInput(
                f"expected dictionaries of different layers, got a second one of {hook}"
                if layer in found
                else f"features are listed by layer, and {hook} is in none"
            )
        templates.add(_template(hook, layer))
        found[layer] = one.to(model.device)
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

    The scan reads the model as it is. Their name holds a digest of the weights, so that a scan that was kept is not
    taken for one of other dictionaries.

    Raises:
        BadInput: dictionaries of several sites (crosscoders, cross-layer transcoders), two of one layer, or of
            different hooks, or of a hook outside of the layers.
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
    hook = _template(one.hooks_in[0], layer)
    return Units(f"{name}_{digest(by)}", (hook,), of=_Encoded(by), layers=tuple(by))


class _Encoded:
    """The features of one layer, from the activation that its dictionary reads."""

    def __init__(self, dictionaries: Mapping[int, SingleSite]) -> None:
        self.dictionaries = dictionaries

    def __call__(
        self, found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
    ) -> Float[Tensor, "row pos feature"]:
        assert layer is not None
        (value,), one = found.values(), self.dictionaries[layer]
        return one.encode(value.flatten(2) if one.head is None else value[:, :, one.head])


def digest(dictionaries: Mapping[int, Dictionary]) -> str:
    """A short digest of dictionaries: of their weights, and of where they stand."""
    found = hashlib.sha256()
    for layer, one in dictionaries.items():
        found.update(f"{layer} {one.hooks} {one.head} {type(one).__name__}".encode())
        for name, weight in one.tensors().items():
            found.update(f"{name} {tuple(weight.shape)}".encode())
            found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
