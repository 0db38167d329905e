"""The activations of one forward pass, and what they add up to.

`ActivationCache` is a mapping from hook name to tensor that also understands short keys: `cache["q", 3]`,
`cache["resid_post", -1]`, `cache["scale", 0, "ln1"]`, `cache["mlp_out0"]`.

Negative layers. A key (and `get_neuron_results`) names one layer, so that -1 is the last of them. Methods that stack
what stands before a layer count layers, so that their `layer=-1`, like None, is all `n_layers`, and nothing else
counts from the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook, nearest
from interp_hooks.errors.arguments import as_device, checked
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.root_module import HookedRootModule
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.direct_effects import DirectEffects
from interp_hooks.model.tensor_files import write_tensors


class ActivationCache(DirectEffects):
    """What `run_with_cache` returns: activations by hook name, in order of execution.

    Entries may share memory with each other (one block's `resid_post` is the next one's `resid_pre`): to change one,
    `clone()` it first. `has_batch_dim` is False once the batch axis of a single prompt was removed. Without a model
    (None) it is a mapping, and what needs weights says so.
    """

    def __init__(self, cache_dict: Mapping[str, Tensor], model: Any, has_batch_dim: bool = True) -> None:
        self.cache_dict = dict(cache_dict)
        self.model = model
        self.has_batch_dim = has_batch_dim
        self._n_layers: int | None = None  # of the model, where that is gone

    # --------------------------------------------------------------------------------------------------------- keys

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
        """How many layers the model has, or had."""
        return self.known_model.cfg.n_layers if self._n_layers is None else self._n_layers

    @property
    def known_model(self) -> Any:
        """The model that the activations are of.

        Raises:
            BadInput: the cache has none.
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

    # ------------------------------------------------------------------------------------------ the whole of a cache

    def to(self, device: torch.device | str) -> ActivationCache:
        """This cache with all activations on another device, in place; arithmetic happens where they lie."""
        device = as_device(device)
        self.cache_dict = {name: value.to(device) for name, value in self.cache_dict.items()}
        return self

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Turn gradients off (or on) for everything that torch does in this thread from now on."""
        torch.set_grad_enabled(mode)

    def remove_batch_dim(self) -> ActivationCache:
        """This cache without the batch axis of its only prompt, in place.

        Raises:
            BadInput: there are several prompts.
        """
        if not self.has_batch_dim:
            return self
        several = {name: value.shape[0] for name, value in self.cache_dict.items() if value.shape[0] != 1}
        if several:
            name, size = next(iter(several.items()))
            raise BadInput(f"the batch axis can only be removed from a single prompt, but {name} has {size}")
        self.cache_dict = {name: value[0] for name, value in self.cache_dict.items()}
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: SliceInput) -> ActivationCache:
        """Another cache of some of the prompts; an int leaves one, without batch axis.

        Raises:
            BadInput: the batch axis is gone already, or a prompt that is not there.
        """
        chosen = Slice(batch_slice)
        if not self.has_batch_dim and chosen.mode != "identity":
            raise BadInput("the batch axis of this cache was removed, so that there are no prompts to choose from")
        sliced = {name: chosen.apply(value) for name, value in self.cache_dict.items()}
        return self._like(sliced, self.has_batch_dim and chosen.mode != "int")

    def _like(self, cache_dict: Mapping[str, Tensor], has_batch_dim: bool) -> ActivationCache:
        cache = ActivationCache(cache_dict, self.model, has_batch_dim)
        cache._n_layers = self._n_layers
        return cache

    @checked
    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """One activation of every layer before `layer`, [layer, ...]; name and sublayer are those of a key."""
        n_layers = self.n_layers
        layer = n_layers if layer is None or layer == -1 else layer
        if not 0 < layer <= n_layers:
            raise BadInput(f"layer must be 1..{n_layers}, or -1 or None for the whole model, got {layer}")
        return torch.stack([self[activation_name, at, sublayer_type] for at in range(layer)])

    def compute_head_results(self) -> None:
        """Add what each head writes, `hook_result` [batch, pos, head, d_model], to the cache wherever it is not there.

        `stack_head_results` needs no such call. Heads and `b_O` sum to what attention writes.
        """
        results: dict[str, Tensor] = {}
        for at, block in enumerate(self.known_model.blocks):
            name = f"blocks.{at}.attn.hook_result"
            if name not in self.cache_dict:
                z = self["z", at]
                results[name] = torch.einsum("...hk,hkd->...hd", z, block.attn.W_O.detach().to(z.device))
        self.cache_dict |= results

    # -------------------------------------------------------------------------------------------------------- on disk

    @checked
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all activations to a safetensors file, by hook name.

        Raises:
            BadInput: the file exists, and `overwrite` was not asked for.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise BadInput(f"{path} exists already; overwrite=True replaces it")
        told = {"has_batch_dim": self.has_batch_dim, "n_layers": self.n_layers, "names": list(self.cache_dict)}
        write_tensors(path, self.cache_dict, {name: json.dumps(value) for name, value in told.items()})

    @classmethod
    @checked
    def load(
        cls, path: str | Path, model: HookedRootModule | None = None, device: torch.device | str = "cpu"
    ) -> ActivationCache:
        """The cache in a file; `model` is the one that it is of, without which it is a mapping.

        Raises:
            BadInput: no file of a cache, or one of a model that is built otherwise.
        """
        try:
            with safe_open(path, "pt", str(as_device(device))) as file:
                metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
                activations = {name: file.get_tensor(name) for name in metadata["names"]}
            cache = cls(activations, model, metadata["has_batch_dim"])
            cache._n_layers = metadata["n_layers"]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise BadInput(f"{path} is no file that ActivationCache.save wrote: {error}") from error
        cache._check_model()
        return cache

    def _check_model(self) -> None:
        """Refuse a model whose hook points have other names or sizes."""
        if self.model is None:
            return
        if self.model.cfg.n_layers != self._n_layers:
            raise BadInput(f"the cache is of {self._n_layers} layers, the model has {self.model.cfg.n_layers}")
        for name, value in self.cache_dict.items():
            point = self.model.hook_dict.get(name.removesuffix("_grad"))
            if point is None:
                raise BadInput(f"the cache is of another model: this one has no hook point {name}")
            axes = point.axes if self.has_batch_dim else point.axes[1:]
            sizes = dict(zip(axes, value.shape, strict=False))
            if len(axes) != value.ndim or any(sizes[axis] != point.sizes.get(axis, sizes[axis]) for axis in axes):
                raise BadInput(f"the cache is of another model: {name} is {list(value.shape)}, not {point.sizes}")
