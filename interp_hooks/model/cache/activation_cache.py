"""`ActivationCache`: the activations of one forward pass, what they add up to, and how they are kept on disk.

`Activations` is the mapping, `Decomposition` takes the residual stream apart, `DirectEffects` says what its parts do to
the logits; here is what concerns a cache as a whole.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import as_device, checked_methods
from interp_hooks.hooks.root_module import HookedRootModule
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.direct_effects import DirectEffects
from interp_hooks.model.padding import Padding
from interp_hooks.model.tensor_files import on_disk, write_tensors


@checked_methods
class ActivationCache(DirectEffects):
    """What `run_with_cache` returns: activations by hook name, in order of execution.

    Entries may share memory with each other (one block's `resid_post` is the next one's `resid_pre`): to change one,
    `clone()` it first. `has_batch_dim` is False once the batch axis of a single prompt was removed. Without a model
    (None) it is only a mapping: what needs weights raises BadInput.

        >>> _, cache = model.run_with_cache("When Mary and John went to the store, John gave a drink to")
        >>> cache["pattern", 0].shape == cache["blocks.0.attn.hook_pattern"].shape
        True
        >>> parts, labels = cache.decompose_resid(return_labels=True)
        >>> ActivationCache({"blocks.0.hook_resid_pre": torch.ones(1, 2, 4)}, None)["resid_pre", 0].shape
        torch.Size([1, 2, 4])
    """

    # ------------------------------------------------------------------------------------------ the whole of a cache

    def to(self, device: torch.device | str) -> ActivationCache:
        """Move all activations to another device, in place, and return this cache; it then computes there."""
        device = as_device(device)
        self.cache_dict = {name: value.to(device) for name, value in self.cache_dict.items()}
        return self

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Turn gradients off, or with True on, for everything that torch does in this thread from now on."""
        torch.set_grad_enabled(bool(mode))

    @property
    def _batch(self) -> int:
        """How many prompts there are: what most activations have as the size of their first axis."""
        sizes = Counter(len(value) for value in self.cache_dict.values() if value.ndim)
        return sizes.most_common(1)[0][0] if sizes else 1

    def remove_batch_dim(self) -> ActivationCache:
        """Remove the batch axis of the only prompt, in place, and return this cache.

        What has no batch axis stays; see `apply_slice_to_batch_dim`.

        Raises:
            BadInput: there are several prompts.
        """
        if not self.has_batch_dim:
            return self
        if self._batch > 1:
            raise BadInput(
                f"the batch axis can only be removed from a single prompt, not of a batch size {self._batch}"
            )
        self.cache_dict = {
            name: value[0] if value.ndim and len(value) == 1 else value for name, value in self.cache_dict.items()
        }
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: SliceInput) -> ActivationCache:
        """A new cache that holds only some of the prompts.

        An int chooses one prompt and removes the batch axis. Activations whose first axis is of another size than that
        of most have no batch axis (a bias of positions, what all prompts share), and stay as they are.

        Raises:
            BadInput: the batch axis is gone already, or there is no such prompt.
        """
        chosen = Slice(batch_slice)
        if not self.has_batch_dim and chosen.mode != "identity":
            raise BadInput("the batch axis of this cache was removed, so that there are no prompts to choose from")
        sliced = {
            name: chosen.apply(value) if value.ndim and len(value) == self._batch else value
            for name, value in self.cache_dict.items()
        }
        cache = ActivationCache(sliced, self.model, self.has_batch_dim and chosen.mode != "int")
        cache._n_layers, cache.padding = self._n_layers, self.padding.at(chosen)
        return cache

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """One activation of every layer before `layer`, stacked [layer, ...]; name and sublayer are those of a key."""
        n_layers = self.n_layers
        layer = n_layers if layer is None or layer == -1 else layer
        if not 0 < layer <= n_layers:
            raise BadInput(f"layer must be 1..{n_layers}, or -1 or None for the whole model, got {layer}")
        return torch.stack([self[activation_name, at, sublayer_type] for at in range(layer)])

    def compute_head_results(self) -> None:
        """Add `hook_result` [batch, pos, head, d_model], what each head writes, to the cache where it is missing.

        `stack_head_results` does not need it. The results of all heads and `b_O` sum to what attention writes.
        """
        results: dict[str, Tensor] = {}
        for at, block in enumerate(self.known_model.blocks):
            name = f"blocks.{at}.attn.hook_result"
            if name not in self.cache_dict:
                z = self["z", at]
                W_O = self.known_model.whole(block.attn.W_O.detach())
                results[name] = torch.einsum("...hk,hkd->...hd", z, W_O.to(z.device))
        self.cache_dict |= results

    # -------------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all activations to a safetensors file, by hook name.

        Raises:
            BadInput: the file exists, and `overwrite` was not asked for.
        """
        path = Path(path)
        with on_disk(path):
            if path.exists() and not overwrite:
                raise BadInput(f"{path} exists already; overwrite=True replaces it")
        told = {"has_batch_dim": self.has_batch_dim, "n_layers": self.n_layers, "names": list(self.cache_dict)}
        padding = self.padding
        told["padding"] = [None if padding.neither is None else padding.neither.tolist(), padding.doubt]
        write_tensors(path, self.cache_dict, {name: json.dumps(value) for name, value in told.items()})

    @classmethod
    def load(
        cls, path: str | Path, model: HookedRootModule | None = None, device: torch.device | str = "cpu"
    ) -> ActivationCache:
        """Read a cache from a file. `model` is the model that it comes from; without it the cache is only a mapping.

        Raises:
            BadInput: not a file that `save` wrote, or the cache of another model.
        """
        try:
            with safe_open(path, "pt", str(as_device(device))) as file:
                metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
                activations = {name: file.get_tensor(name) for name in metadata["names"]}
            cache = cls(activations, model, metadata["has_batch_dim"])
            cache._n_layers = metadata["n_layers"]
            real, doubt = metadata.get("padding", (None, None))
            cache.padding = Padding(neither=None if real is None else torch.tensor(real), doubt=doubt)
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
