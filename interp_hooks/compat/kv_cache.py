"""TransformerLens' view of a key/value cache: an entry for each layer, and the mask of all tokens so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.model import config as core
from interp_hooks.model.components import kv_cache


@dataclass
class TransformerLensKeyValueCacheEntry:
    """Keys and values of the tokens so far in one layer. Keys are rotated already, where there they are not yet."""

    past_keys: Float[Tensor, "batch pos head d_head"]
    past_values: Float[Tensor, "batch pos head d_head"]
    frozen: bool = False

    @classmethod
    def init_cache_entry(
        cls, cfg: core.HookedTransformerConfig, device: Any = None, batch_size: int = 1
    ) -> TransformerLensKeyValueCacheEntry:
        """An entry without tokens, in the dtype of a model."""
        dtype = core.as_dtype(cfg.dtype)
        shape = batch_size, 0, cfg.n_key_value_heads
        keys = torch.empty(*shape, cfg.d_head, device=device, dtype=dtype)
        return cls(keys, torch.empty(*shape, cfg.d_value, device=device, dtype=dtype))

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, the given ones last; they stay unless the entry is frozen."""
        keys, values = torch.cat([self.past_keys, new_keys], 1), torch.cat([self.past_values, new_values], 1)
        if not self.frozen:
            self.past_keys, self.past_values = keys, values
        return keys, values


class TransformerLensKeyValueCache(kv_cache.KeyValueCache):
    """A `KeyValueCache` that can be read by layer: `cache[layer].past_keys` [batch, pos, head, d_head].

    It can be filled with entries from the start; `previous_attention_mask` is 0 at padding.
    """

    def __init__(
        self,
        entries: list[TransformerLensKeyValueCacheEntry] | None = None,
        previous_attention_mask: Int[Tensor, "batch pos"] | None = None,
        frozen: bool = False,
        *,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(batch_size=len(entries[0].past_keys) if entries else batch_size)
        self.frozen, self._masks = frozen, [] if previous_attention_mask is None else [previous_attention_mask]
        self._before = entries or []  # those of a cache that no pass has filled may be without tokens
        for layer, entry in enumerate(self._before):
            if length := entry.past_keys.shape[1]:
                self._layers[layer], self.length = (entry.past_keys, entry.past_values), length

    @classmethod
    def init_cache(
        cls, cfg: core.HookedTransformerConfig, device: Any = None, batch_size: int = 1
    ) -> TransformerLensKeyValueCache:
        """A cache with an entry without tokens for each layer; raises as `KeyValueCache.init_cache` does."""
        super().init_cache(cfg, device, batch_size)
        entry = TransformerLensKeyValueCacheEntry.init_cache_entry
        return cls([entry(cfg, device, batch_size) for _ in range(cfg.n_layers)])

    @property
    def entries(self) -> list[TransformerLensKeyValueCacheEntry]:
        """Keys and values of every layer, in order; of those that passes have come by, once they have."""
        if not self._layers:
            return [replace(entry, frozen=self.frozen) for entry in self._before]
        return [TransformerLensKeyValueCacheEntry(*self.at(layer), self.frozen) for layer in sorted(self._layers)]

    def __getitem__(self, layer: int) -> TransformerLensKeyValueCacheEntry:
        return self.entries[layer]

    @property
    def previous_attention_mask(self) -> Int[Tensor, "batch pos"]:
        """1 for the real tokens so far, 0 for padding, of passes or of what was appended."""
        if self._masks:
            return torch.cat(self._masks, -1)
        if self.real is not None:
            return self.real.int()
        return torch.ones(self.batch_size or 1, self.length, dtype=torch.int)

    def append_attention_mask(self, attention_mask: Int[Tensor, "batch new"]) -> Int[Tensor, "batch pos"]:
        """The mask of the tokens so far and of new ones; it is remembered unless the cache is frozen.

        Raises:
            BadInput: the cache has been filled by passes, which say themselves what is padding.
        """
        if self.length:
            raise BadInput("passes have filled this cache, and said what is padding: pass attention_mask= to the model")
        if not self.frozen:
            self._masks.append(attention_mask)
            return self.previous_attention_mask
        return torch.cat([self.previous_attention_mask, attention_mask], -1)


def get_pos_offset(past_kv_cache: kv_cache.KeyValueCache | None, batch_size: int) -> int:
    """How many tokens come before those of a pass."""
    return 0 if past_kv_cache is None else past_kv_cache.length
