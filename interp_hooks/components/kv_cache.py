"""Keys and values of the tokens that a model has read, so that it can read on without reading them again.

    layer -> keys [batch, capacity, head, d_head], values [batch, capacity, head, d_value];   `length` tokens are filled

Keys are stored as the scores use them (normalized, rotated), so nothing is ever rotated twice. Room grows by doubling:
a step of decoding writes one column and copies nothing else. A pass writes beyond `length` and moves it only when it
has finished, so that an exception in between leaves the cache as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes keys and values of the tokens that a pass reads, gives those of all tokens up to there."""


class KeyValueCache:
    """What `HookedTransformer.forward(..., past_kv_cache=)` reads and extends. A new one is empty.

    `real` tells which of the tokens read are no padding (None: all), `rotated_for` how many real tokens each row had
    when its keys were rotated. While `frozen`, passes read it and leave it as it is: many continuations can share it.
    """

    def __init__(self) -> None:
        self.length = 0
        self.real: Bool[Tensor, "batch past"] | None = None
        self.rotated_for: Int[Tensor, " rows"] | None = None
        self.frozen = False
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def freeze(self) -> None:
        """From now on passes do not extend it."""
        self.frozen = True

    def unfreeze(self) -> None:
        """From now on passes extend it again."""
        self.frozen = False

    def at(
        self, layer: int
    ) -> tuple[Float[Tensor, "batch past head d_head"], Float[Tensor, "batch past head d_value"]]:
        """Keys and values of a layer.

        Raises:
            BadInput: the passes that filled the cache did not come by that layer.
        """
        if layer not in self._layers:
            raise BadInput(f"this key/value cache holds {self.length} tokens, but not in layer {layer}")
        keys, values = self._layers[layer]
        return keys[:, : self.length], values[:, : self.length]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of `layer`, the given ones last; `commit` makes them stay.

        Raises:
            BadInput: another number of prompts than the cache holds.
        """
        past = self.at(layer) if self.length else (keys[:, :0], values[:, :0])
        if len(past[0]) != len(keys):
            raise BadInput(f"past_kv_cache holds {len(past[0])} prompts, got {len(keys)}")
        if self.frozen or torch.is_grad_enabled():  # a graph may hold what was read before
            both = torch.cat((past[0], keys), dim=1), torch.cat((past[1], values), dim=1)
            if not self.frozen:
                self._layers[layer] = both
            return both
        end = self.length + keys.shape[1]
        stored = self._layers[layer] if self.length else (None, None)
        all_keys, all_values = self._with_room(stored[0], keys, end), self._with_room(stored[1], values, end)
        all_keys[:, self.length : end], all_values[:, self.length : end] = keys, values
        self._layers[layer] = all_keys, all_values
        return all_keys[:, :end], all_values[:, :end]

    def _with_room(self, stored: Tensor | None, like: Tensor, end: int) -> Tensor:
        if stored is not None and stored.shape[1] >= end:
            return stored
        room = like.new_empty(like.shape[0], end if stored is None else max(end, 2 * stored.shape[1]), *like.shape[2:])
        if stored is not None:
            room[:, : self.length] = stored[:, : self.length]
        return room

    def commit(
        self, layers: Iterable[int], tokens: int, real: Bool[Tensor, "batch key"] | None, lengths: Int[Tensor, " rows"]
    ) -> None:
        """Keep what a pass through `layers` over `tokens` more tokens wrote; other layers lack these and are dropped.

        `real` and `lengths` (real tokens) are of old and new.
        """
        if not self.frozen:
            self._layers = {layer: self._layers[layer] for layer in layers}
            self.length, self.real, self.rotated_for = self.length + tokens, real, lengths

    def prefix(self, tokens: int, copies: int = 1, layers: Container[int] | None = None) -> KeyValueCache:
        """A frozen cache of the first `tokens` tokens (of some layers), all prompts `copies` times one below the other.

        Raises:
            BadInput: more tokens than there are.
        """
        if not 0 <= tokens <= self.length:
            raise BadInput(f"this key/value cache holds {self.length} tokens, so it has no first {tokens}")
        part = KeyValueCache()
        part.length, part.frozen = tokens, True
        part.rotated_for = None if self.rotated_for is None else self.rotated_for.repeat(copies)
        part.real = None if self.real is None else self.real[:, :tokens].repeat(copies, 1)
        part._layers = {
            there: (keys[:, :tokens].repeat(copies, 1, 1, 1), values[:, :tokens].repeat(copies, 1, 1, 1))
            for there, (keys, values) in self._layers.items()
            if layers is None or there in layers
        }
        return part
