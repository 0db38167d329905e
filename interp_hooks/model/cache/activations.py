"""Activations of a run by hook name, which also understand short keys and whole layers.

    cache["q", 3]      cache["resid_post", -1]      cache["scale", 0, "ln1"]      cache["mlp_out0"]

Negative layers. A key names one layer, so that -1 is the last of them. Methods that take everything before a layer
count layers, so that their `layer=-1`, like None, is all `n_layers`, and nothing else counts from the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook, nearest
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.slices import RowSlice, Slice
from interp_hooks.model.padding import Padding, counted_back


class Activations(Mapping[str, Tensor]):
    """A mapping from hook names, full or short, to activations; all attributes of a cache are set here.

    `has_batch_dim` is False once the batch axis of a single prompt was removed.
    """

    def __init__(self, cache_dict: Mapping[str, Tensor], model: Any, has_batch_dim: bool = True) -> None:
        self.cache_dict = dict(cache_dict)
        self.model = model
        self.has_batch_dim = has_batch_dim
        self._n_layers: int | None = None  # of the model, where that is gone
        self.padding = Padding()  # of the tokens that were read

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        name = self._full_name(key)
        if name not in self.cache_dict:
            known = self.model is None or name in self.model.hook_dict
            why = "was not cached in this run" if known else "is no hook point"
            raise UnknownHook(f"{key!r} ({name}) {why}.{nearest(name, self.cache_dict)}")
        return self.cache_dict[name]

    def _full_name(self, key: Any) -> str:
        if isinstance(key, str):
            return get_act_name(key)
        if not (isinstance(key, tuple) and 2 <= len(key) <= 3 and isinstance(key[0], str)):
            raise UnknownHook(f"a key is a hook name or (name, layer) or (name, layer, sublayer), got {key!r}")
        name, layer, *kind = key
        if isinstance(layer, int) and layer < 0:
            layer += self.n_layers
        return get_act_name(name, layer, kind[0] if kind else None)

    @property
    def n_layers(self) -> int:
        """How many layers the model has, or had if it is gone."""
        return self.known_model.cfg.n_layers if self._n_layers is None else self._n_layers

    @property
    def known_model(self) -> Any:
        """The model that the activations come from.

        Raises:
            BadInput: the cache was made or loaded without one.
        """
        if self.model is None:
            raise BadInput("this needs the weights, and the cache has no model; load(path, model) gives it one")
        return self.model

    def __contains__(self, key: object) -> bool:
        try:
            return key in self.cache_dict or self._full_name(key) in self.cache_dict
        except (UnknownHook, TypeError):
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations: {', '.join(list(self)[:4])}, ...)"

    @property
    def real(self) -> Bool[Tensor, "*batch pos"] | None:
        """Which of the tokens that were read are real, as far as that is known; None: all of them.

        Raises:
            BadInput: nobody can tell.
        """
        real = self.padding.real
        return real if real is None or self.has_batch_dim else real[0]

    def at(self, name: str, pos: Slice) -> Tensor:
        """An activation at some positions; negative ones count back from the last real token of each prompt.

        Raises:
            BadInput: a position outside a prompt.
        """
        pos = from_first(pos, self.padding)
        if isinstance(pos, RowSlice) and not self.has_batch_dim:
            return pos.apply(self[name][None], 1)[0]
        return pos.apply(self[name], 1 if self.has_batch_dim else 0)

    @checked
    def layers_before(self, layer: int | None, mlp_input: bool = False) -> int:
        """How many layers stand before `layer`: None and -1 mean all.

        Raises:
            BadInput: a layer out of range, or, with `mlp_input`, one without an MLP.
        """
        cfg = self.known_model.cfg
        n_layers: int = cfg.n_layers
        if layer is None or layer == -1:
            layer = n_layers
        if not 0 <= layer <= n_layers:
            raise BadInput(f"layer must be 0..{n_layers}, or -1 or None for the whole model, got {layer}")
        if mlp_input and (layer == n_layers or cfg.attn_only):
            raise BadInput(f"mlp_input=True needs a layer 0..{n_layers - 1} that has an MLP, got layer {layer}")
        return layer


def from_first(pos: Slice, padding: Padding) -> Slice:
    """A choice of positions in which those that count from the end do so from the last real token of each prompt.

    Raises:
        BadInput: nobody can tell where that is, a position outside a prompt, or a range of another length in each.
    """
    real = padding.real if pos.counts_back and not isinstance(pos, RowSlice) else None
    if real is None:
        return pos
    if pos.mode != "slice":
        return RowSlice(counted_back(torch.as_tensor(pos.slice).reshape(1, -1), real), single=pos.mode == "int")
    start, stop, step = pos.slice.start, pos.slice.stop, pos.slice.step
    if start is None or start >= 0:
        if bool(real[:, -1].all()):  # all of them end together
            return pos
        raise BadInput(
            f"prompts end at different places, so that {pos} is of another length in each; count both ends back"
        )
    last = 0 if stop is None else stop
    if last > 0 or (stop is not None and stop >= 0):
        raise BadInput(f"{pos} begins at a position from the end and ends at one from the beginning")
    return RowSlice(counted_back(torch.arange(start, last, step or 1)[None], real))
