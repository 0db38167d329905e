"""Keys and values of the tokens that a model has read, so that it can read on without reading them again.

    layer -> keys [batch, capacity, head, d_head], values [batch, capacity, head, d_value];   `length` tokens are filled
             state [batch, head, ...] after some number of tokens, where a recurrence stands in place of attention

Keys are stored as the scores use them (normalized, rotated), so nothing is ever rotated twice. Room is made for
`capacity` tokens at once and grows by doubling: a step of decoding writes one column and copies nothing else. A pass
writes beyond `length` and moves it only when it has finished, so that an exception in between leaves the cache as it
was.

A recurrence stores what it reads of each token in place of keys and values, and beside that its state after the last
one: a step of decoding goes on from the state, and a cache can be cut at any token, after which the state is computed
from what is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.model.config import HookedTransformerConfig


def _of_layer(place: int) -> int:
    """The layer of what is stored: a recurrence beside attention is stored at ~layer."""
    return place if place >= 0 else ~place


class Earlier:
    """What a cache holds for one layer of the tokens before those of a pass, and keeps of these."""

    def __init__(self, cache: KeyValueCache, layer: int) -> None:
        self.cache, self.layer = cache, layer

    @property
    def beside(self) -> Earlier:
        """The same for what stands beside attention in the layer."""
        return Earlier(self.cache, ~self.layer)

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (or what a recurrence reads) of all tokens so far, the given ones last."""
        return self.cache.extend(self.layer, keys, values)

    def convolved(self) -> Float[Tensor, "batch past channel"] | None:
        """The channels of earlier tokens, which a mixer has stored as its keys; None if there are none."""
        return None if not self.cache.length else self.cache.at(self.layer)[0][:, :, 0]

    def state(self, after: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        """The state after the earlier tokens, None if there are none; `after` computes it from what is stored."""
        return self.cache.state(self.layer, after)

    def keep(self, state: Tensor) -> None:
        """Keep the state after the tokens of the pass, for passes that go on from there."""
        self.cache.keep(self.layer, state)


class KeyValueCache:
    """Keys and values of the tokens read so far, for `model(..., past_kv_cache=)`. A new cache is empty.

    A pass reads the cache and adds the tokens of its input. While the cache is `frozen`, passes leave it as it is, so
    that many continuations can share it. `capacity` is the number of tokens to make room for from the start,
    `batch_size` the number of prompts (None: any). `real` is False for padding tokens (None: there is no padding), and
    `rotated_for` counts the real tokens that each row had when its keys were rotated.

        >>> cache, tokens = KeyValueCache(), model.to_tokens("When Mary and John went to the store")
        >>> logits = model(tokens[:, :4], past_kv_cache=cache)
        >>> more = model(tokens[:, 4:], past_kv_cache=cache)
        >>> torch.allclose(more[:, -1], model(tokens)[:, -1], atol=1e-4)
        True
    """

    def __init__(self, capacity: int = 0, batch_size: int | None = None) -> None:
        self.capacity, self.batch_size, self.length = capacity, batch_size, 0
        self.copies = 1  # of the prompts that are held, for which a frozen cache stands; made a layer at a time
        self.real: Bool[Tensor, "batch past"] | None = None
        self.rotated_for: Int[Tensor, " rows"] | None = None
        self.frozen = False
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._states: dict[int, dict[int, Tensor]] = {}  # by layer and number of tokens, of the prompts once
        self._next_states: dict[int, Tensor] = {}  # of a pass that has not finished

    def __deepcopy__(self, memo: Any) -> KeyValueCache:
        """A cache that reads on by itself. No gradient leads from it to what was read before."""
        copied = KeyValueCache()
        memo[id(self)] = copied
        layers = {layer: tuple(one.detach() for one in stored) for layer, stored in self._layers.items()}
        states = {
            layer: {tokens: state.detach() for tokens, state in known.items()} for layer, known in self._states.items()
        }
        own = vars(self) | {"_layers": layers, "_states": states, "_next_states": {}}
        vars(copied).update(copy.deepcopy(own, memo))
        return copied

    @classmethod
    @checked
    def init_cache(
        cls, cfg: HookedTransformerConfig, device: torch.device | str | None = None, batch_size: int = 1
    ) -> KeyValueCache:
        """An empty cache for `batch_size` prompts; each layer's part lies where the layer computes, whatever `device`.

        Raises:
            BadInput: a model that is not causal.
        """
        if cfg.attention_dir != "causal":
            raise BadInput("a key/value cache needs a causal model: in this one, earlier tokens see later ones")
        return cls(batch_size=batch_size)

    def freeze(self) -> None:
        """Let passes read the cache without extending it."""
        self.frozen = True

    def unfreeze(self) -> None:
        """Let passes extend the cache again."""
        self._layers = {layer: self._stored(layer) for layer in self._layers}
        self._states = {
            layer: {self.length: self._copied(known[self.length])}
            for layer, known in self._states.items()
            if self.length in known
        }
        self.frozen, self.copies = False, 1

    @checked
    def at(self, layer: int) -> tuple[Float[Tensor, "batch past head d_head"], Float[Tensor, "batch past _ d_value"]]:
        """Keys and values of a layer, or what its recurrence reads.

        Raises:
            BadInput: the passes that filled the cache did not come by that layer.
        """
        keys, values = self._stored(layer)
        return keys[:, : self.length], values[:, : self.length]

    def _stored(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, of all copies of the prompts, with the room behind them."""
        if layer not in self._layers:
            raise BadInput(f"this key/value cache holds {self.length} tokens, but not in layer {layer}")
        keys, values = self._layers[layer]
        return self._copied(keys), self._copied(values)

    def extend(
        self, layer: int, keys: Float[Tensor, "batch pos head d_head"], values: Float[Tensor, "batch pos _ d_value"]
    ) -> tuple[Float[Tensor, "batch key head d_head"], Float[Tensor, "batch key _ d_value"]]:
        """All keys and values of `layer`, the given ones last; they stay in the cache once `commit` is called.

        Raises:
            BadInput: another number of prompts, or another dtype, than the cache holds.
        """
        stored = self._stored(layer) if self.length else (keys[:, :0], values[:, :0])
        holds = len(stored[0]) if self.length else self.batch_size
        if holds not in (None, len(keys)):
            raise BadInput(f"past_kv_cache holds {holds} prompts, got {len(keys)}")
        if stored[0].dtype != keys.dtype:
            raise BadInput(f"past_kv_cache holds {stored[0].dtype}, but this model computes in {keys.dtype}")
        past, end = self.length, self.length + keys.shape[1]
        if self.frozen or torch.is_grad_enabled():  # a graph may hold what was read before
            whole = torch.cat((stored[0][:, :past], keys), dim=1), torch.cat((stored[1][:, :past], values), dim=1)
            if not self.frozen:
                self._layers[layer] = whole
            return whole
        if stored[0].shape[1] < end:
            stored = self._moved(stored[0], end), self._moved(stored[1], end)
            self._layers[layer] = stored
        stored[0][:, past:end], stored[1][:, past:end] = keys, values
        return stored[0][:, :end], stored[1][:, :end]

    def state(self, layer: int, after: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        """The state of a layer after all tokens; `after` computes it from what is stored of them, once.

        Raises:
            BadInput: the passes that filled the cache did not come by that layer.
        """
        if not self.length:
            return None
        known = self._states.setdefault(layer, {})
        if self.length not in known:
            self._stored(layer)
            stored = self._layers[layer]
            known[self.length] = after(stored[0][:, : self.length], stored[1][:, : self.length])
        return self._copied(known[self.length])

    def _copied(self, state: Tensor) -> Tensor:
        """What all copies of the prompts hold, from what the prompts do."""
        return state if self.copies == 1 else state.repeat(self.copies, *[1] * (state.ndim - 1))

    def keep(self, layer: int, state: Tensor) -> None:
        """Take the state of a layer after the tokens of a pass; it counts once `commit` is called."""
        if not self.frozen:
            self._next_states[layer] = state

    def _moved(self, stored: Float[Tensor, "batch key head d"], end: int) -> Float[Tensor, "batch room head d"]:
        """What is stored, moved to where there is room for `end` tokens or more."""
        tokens = max(end, self.capacity, 2 * stored.shape[1])
        room = stored.new_empty(stored.shape[0], tokens, *stored.shape[2:])
        room[:, : self.length] = stored[:, : self.length]
        return room

    def commit(
        self, layers: Iterable[int], tokens: int, real: Bool[Tensor, "batch key"] | None, lengths: Int[Tensor, " rows"]
    ) -> None:
        """Keep the `tokens` more tokens that a pass through `layers` wrote; other layers, which lack them, are dropped.

        `real` and `lengths` (the number of real tokens) cover old and new tokens.
        """
        if not self.frozen:
            passed, after = {*layers}, self.length + tokens
            self._layers = {at: stored for at, stored in self._layers.items() if _of_layer(at) in passed}
            self._states = {at: {after: state} for at, state in self._next_states.items() if _of_layer(at) in passed}
            self._next_states = {}
            self.length, self.real, self.rotated_for = self.length + tokens, real, lengths

    @checked
    def prefix(self, tokens: int, copies: int = 1, layers: Container[int] | None = None) -> KeyValueCache:
        """A frozen cache of the first `tokens` tokens (of some layers), for `copies` copies of all prompts.

        Raises:
            BadInput: more tokens than the cache holds.
        """
        if not 0 <= tokens <= self.length:
            raise BadInput(f"this key/value cache holds {self.length} tokens, so it has no first {tokens}")
        part = KeyValueCache()
        part.length, part.frozen, part.copies = tokens, True, copies * self.copies
        part.rotated_for = None if self.rotated_for is None else self.rotated_for.repeat(copies)
        part.real = None if self.real is None else self.real[:, :tokens].repeat(copies, 1)
        part._states = {layer: self._states.setdefault(layer, {}) for layer in self._layers}
        part._layers = {
            there: (keys[:, :tokens], values[:, :tokens])
            for there, (keys, values) in self._layers.items()
            if layers is None or _of_layer(there) in layers
        }
        return part
