"""The arguments of a pass, checked: text, token ids or a stream, which tokens are real, where they stand.

What does not fit the model is refused here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import told, told_shape
from interp_hooks.hooks.autograd import numbers
from interp_hooks.model.components.block import NOTHING, Known
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.padding import Padding, counted_back
from interp_hooks.model.tokenization import TextInterface


class Prompt(NamedTuple):
    """What a pass reads: token ids (None if it starts at a layer without them), and which are real (None: all).

    `seen` are those that attention may look at, cached ones first; `real` are those of `tokens` that count. They differ
    where ids are padded on the right of a causal model, whose real tokens do not see what stands behind them.
    `documents` numbers the document of each token, where rows hold several.
    """

    tokens: Int[Tensor, "batch pos"] | None
    seen: Bool[Tensor, "batch key"] | None
    real: Bool[Tensor, "batch pos"] | None
    documents: Int[Tensor, "batch pos"] | None = None


class Inputs(NamedTuple):
    """What decides how a model reads its arguments: its config, its tokenizer, its device and dtype."""

    cfg: HookedTransformerConfig
    text: TextInterface
    device: torch.device
    dtype: torch.dtype

    def read_at(
        self,
        where: int | Sequence[int] | Tensor,
        stream: Tensor,
        stop: int,
        return_type: str | None,
        real: Bool[Tensor, "batch pos"] | None,
    ) -> Int[Tensor, "batch n"]:
        """The positions `logits_pos` to unembed, as one row of indices for each prompt.

        Raises:
            BadInput: the pass stops before, its loss needs all positions, or the positions do not fit the stream.
        """
        if stop < self.cfg.n_layers:
            raise BadInput(f"logits_pos needs a pass through all {self.cfg.n_layers} layers; this one stops at {stop}")
        if return_type in ("loss", "both"):
            raise BadInput("logits_pos leaves out positions that a loss needs; use return_type='logits'")
        return rows_at(where, stream, real)

    def prompt(
        self,
        input: Any,
        prepend_bos: Any,
        padding_side: Any,
        attention_mask: Tensor | None,
        cache: KeyValueCache | None,
        counts: bool,
    ) -> Prompt:
        """Text or token ids as tokens on the model's device, and which of them (and of cached ones) are real.

        `counts` says that somebody will count tokens, so that padding has to be told from text at both ends of rows.
        """
        padding = Padding()
        if is_text(input):
            encoded = self.text.fitted(input, prepend_bos, padding_side)
            padding = Padding(after_left=encoded.real, neither=encoded.real)
            tokens = self.tokens(encoded.tokens)
        else:
            tokens = self.tokens(input)
        length = tokens.shape[1] + (0 if cache is None else cache.length)
        if length > self.cfg.n_ctx:
            raise BadInput(f"the prompt has {length} tokens, but this model reads at most n_ctx={self.cfg.n_ctx}")
        if attention_mask is None and not is_text(input):
            padding = self.padding(tokens, prepend_bos, padding_side, cache)
        return self.masked(tokens, tokens.shape, padding, attention_mask, cache, counts)

    def padding(
        self, tokens: Int[Tensor, "batch pos"], prepend_bos: Any, padding_side: Any, cache: KeyValueCache | None
    ) -> Padding:
        """The padding in token ids, which may go on after cached ones."""
        begun = None
        if cache is not None and cache.length:
            begun = torch.ones(len(tokens), dtype=torch.bool) if cache.real is None else cache.real.any(1)
            begun = begun if len(begun) == len(tokens) else None  # refused where the cache is read
        return self.text.padding(tokens, padding_side, prepend_bos, begun)

    def masked(
        self,
        tokens: Int[Tensor, "batch pos"] | None,
        shape: Sequence[int],
        padding: Padding,
        attention_mask: Tensor | None,
        cache: KeyValueCache | None,
        counts: bool,
    ) -> Prompt:
        """Tokens [batch, pos] of that shape with the masks that a pass over them needs."""
        if attention_mask is not None:
            seen = self.real(attention_mask, shape, cache)
            return Prompt(tokens, seen, None if seen is None else seen[:, -shape[1] :])
        real = padding.real if counts else padding.neither
        both_ends = cache is not None or self.cfg.attention_dir != "causal"
        seen = self.real(padding.real if both_ends else padding.after_left, shape, cache)
        return Prompt(tokens, seen, None if real is None else real.to(self.device))

    def cache(self, cache: KeyValueCache | None) -> KeyValueCache | None:
        """The key/value cache, if the model can use one."""
        if not isinstance(cache, KeyValueCache | None):
            raise BadInput(f"past_kv_cache must be a KeyValueCache, got {told(cache)}")
        if cache is not None and self.cfg.attention_dir != "causal":
            raise BadInput("past_kv_cache needs a causal model: in this one, earlier tokens see later ones")
        return cache

    def tokens(self, input: Any) -> Int[Tensor, "batch pos"]:
        """Token ids [batch, pos] on the model's device, from ids [batch, pos] or [pos]."""
        counts = isinstance(input, Tensor) and not (input.is_floating_point() or input.is_complex() or input.is_meta)
        if not counts or input.dtype == torch.bool:
            hint = "; a stream needs start_at_layer=" if isinstance(input, Tensor) and input.ndim == 3 else ""
            raise BadInput(f"expected text or an integer tensor of token ids [batch, pos], got {told(input)}{hint}")
        tokens = input[None] if input.ndim == 1 else input
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise BadInput(f"token ids must be [batch, pos] with at least one token, got shape {list(input.shape)}")
        if not torch.compiler.is_compiling():  # compiled code cannot stop at a value; the embedding refuses it
            low, high = int(numbers(tokens).min()), int(numbers(tokens).max())
            if low < 0 or high >= self.cfg.d_vocab:
                raise BadInput(
                    f"token ids must be 0..{self.cfg.d_vocab - 1}, got {low if low < 0 else high}{self._beyond(high)}"
                )
        return tokens.to(self.device, torch.long)

    def _beyond(self, id: int) -> str:
        """What a tokenizer has for an id that is not in the model's vocabulary, for the message of an error."""
        if self.text._tokenizer is None or not self.cfg.d_vocab <= id < len(self.text.tokenizer):
            return ""
        piece = self.text.pieces([id])[0]
        return f", {piece!r}: a token that was added to the tokenizer, and for which this model has no embedding"

    def answers(self, tokens: Any) -> Int[Tensor, "*rest"]:
        """Ids in the output vocabulary, from ids, one-token strings, or a list of either."""
        if isinstance(tokens, str):
            tokens = self.text.single_id(tokens)
        elif isinstance(tokens, list | tuple):
            tokens = [self.text.single_id(token) if isinstance(token, str) else token for token in tokens]
        ids = integers(tokens, "token ids").to(self.device, torch.long)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.cfg.d_vocab_out:
            raise BadInput(f"token ids must be 0..{self.cfg.d_vocab_out - 1}, got {ids.flatten().tolist()}")
        return ids

    def residual(self, input: Any) -> Float[Tensor, "batch pos d_model"]:
        """The stream of a pass that starts at a layer."""
        if not isinstance(input, Tensor) or input.ndim != 3 or input.shape[2] != self.cfg.d_model:
            raise BadInput(
                f"start_at_layer needs a residual stream [batch, pos, d_model={self.cfg.d_model}] as input, "
                f"got {told_shape(input)}"
            )
        if input.is_meta:
            raise BadInput(f"the residual stream has no numbers: it is {told(input)}")
        if input.dtype != self.dtype:
            raise BadInput(f"the residual stream is {input.dtype}, but this model computes in {self.dtype}")
        return input

    def tokens_of(self, tokens: Any, stream: Float[Tensor, "batch pos d_model"]) -> Int[Tensor, "batch pos"]:
        """The tokens of a pass that starts with this stream."""
        checked = self.tokens(tokens)
        if checked.shape != stream.shape[:2]:
            raise BadInput(f"tokens must be those of the stream, {list(stream.shape[:2])}, got {list(checked.shape)}")
        return checked

    def pos_embed(
        self, given: Float[Tensor, "_ pos d_model"] | None, stream: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"] | None:
        """The positions that queries and keys are to read beside a stream, if they are given."""
        if given is None:
            return None
        if self.cfg.positional_embedding_type != "shortformer":
            raise BadInput("shortformer_pos_embed needs a model with positional_embedding_type='shortformer'")
        if given.shape[1:] != stream.shape[1:] or len(given) not in (1, len(stream)):
            raise BadInput(f"shortformer_pos_embed must be {list(stream.shape)}, got {list(given.shape)}")
        return given.to(stream).expand_as(stream)

    def known(
        self,
        known: Mapping[str, Tensor] | None,
        start_at_layer: int | None,
        layers: range,
        stream: Tensor,
        cache: KeyValueCache | None,
    ) -> Known:
        """What need not be computed of the layer at which a pass starts, if anything is given."""
        if not isinstance(known, Mapping | None):
            raise BadInput(f"known= must be a mapping, got {told(known)}")
        if not known:
            return NOTHING
        if start_at_layer is None or not layers or (cache is not None and not cache.frozen):
            raise BadInput(
                "known= is about the layer at which a pass starts: it needs start_at_layer=, that layer within the "
                "pass, and no key/value cache that would have to be extended"
            )
        cfg = self.cfg
        shapes = {"z": [*stream.shape[:2], *cfg.writes_at(layers[0])], "mlp_out": list(stream.shape)}
        if cfg.attn_only:
            del shapes["mlp_out"]
        for name, value in known.items():
            if name not in shapes or not isinstance(value, Tensor) or list(value.shape) != shapes[name]:
                fitting = ", ".join(f"{one} {shape}" for one, shape in shapes.items())
                raise BadInput(f"known= may hold {fitting}; got {name} {told_shape(value)}")
        return Known(**known)

    def real(
        self, attention_mask: Tensor | None, shape: Sequence[int], cache: KeyValueCache | None
    ) -> Bool[Tensor, "batch key"] | None:
        """Which tokens are real, cached ones first; None if nothing is padding."""
        batch, pos = shape[:2]
        past, known = (0, None) if cache is None else (cache.length, cache.real)
        if attention_mask is None and known is None:
            return None
        if attention_mask is not None:
            checked_mask(attention_mask)
        given = torch.ones(batch, pos) if attention_mask is None else attention_mask
        if list(given.shape) == [batch, pos] and past:
            before = torch.ones(batch, past) if known is None else known
            if len(before) != batch:
                raise BadInput(f"past_kv_cache holds {len(before)} prompts, got {batch}")
            given = torch.cat((before.to(self.device).bool(), given.to(self.device).bool()), dim=1)
        if list(given.shape) != [batch, past + pos]:
            raise BadInput(f"attention_mask must be [batch, pos] = {[batch, past + pos]}, got {list(given.shape)}")
        real = given.to(self.device).bool()
        if cache is None and not bool(numbers(real.any(dim=1)).all()):
            raise BadInput("attention_mask leaves a row without any real token")
        return None if bool(numbers(real).all()) else real

    def documents(self, documents: Any, input: Any, cache: KeyValueCache | None) -> Int[Tensor, "batch pos"]:
        """Which document each token of a pass belongs to."""
        apart = integers(documents, "documents").to(self.device)
        if cache is not None:
            raise BadInput("documents= is for rows that are read in one pass; it cannot go with past_kv_cache=")
        if is_text(input):
            raise BadInput("documents= says to which document each token id belongs; pass token ids, not text")
        rows = list(input.shape[:2]) if isinstance(input, Tensor) else []
        if list(apart.shape) != ([1, *rows] if len(rows) == 1 else rows):
            raise BadInput(f"documents must be [batch, pos] = {rows}, got {list(apart.shape)}")
        return apart

    def positions(
        self, real: Bool[Tensor, "batch key"] | None, length: int, documents: Int[Tensor, "batch pos"] | None = None
    ) -> Int[Tensor, "rows key"]:
        """The position of each token, counted without padding; one row for all prompts if nothing is padding.

        It is counted from the beginning of the token's document, if rows hold several.
        """
        if documents is not None:
            places = torch.arange(length, device=self.device).expand_as(documents)
            begins = torch.ones_like(documents, dtype=torch.bool)
            begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
            return places - places.where(begins, 0).cummax(1).values
        if real is not None:
            return (real.long().cumsum(1) - 1).clamp(min=0)
        return torch.arange(length, device=self.device)[None]

    def layer(self, argument: str, layer: int) -> int:
        """A layer as one of 0..n_layers; negative ones count from the end."""
        n_layers = self.cfg.n_layers
        if not isinstance(layer, Integral):
            raise BadInput(f"{argument} must be an int, got {told(layer)}")
        resolved = layer + n_layers if layer < 0 else layer
        if not 0 <= resolved <= n_layers:
            raise BadInput(f"{argument}={layer} is out of range for a model of {n_layers} layers")
        return resolved


def rows_at(
    where: int | Sequence[int] | Tensor, like: Tensor, real: Bool[Tensor, "batch pos"] | None = None
) -> Int[Tensor, "batch n"]:
    """Positions to read as one row of non-negative indices for each prompt of `like` [batch, pos, ...].

    Negative ones count back from the last `real` token of each prompt.

    Raises:
        BadInput: a position outside the prompt, or per-row positions for another number of prompts.
    """
    batch, length = like.shape[:2]
    index = integers(where, "positions").to(like.device)
    index = index.reshape(1, -1) if index.ndim < 2 else index
    if index.shape[0] not in (1, batch) or index.ndim != 2:
        raise BadInput(f"positions per row must be [batch={batch}, n], got {list(index.shape)}")
    real = torch.ones(batch, length, dtype=torch.bool) if real is None else real
    return counted_back(index, real.to(like.device))


def counts_back(where: int | Sequence[int] | Tensor) -> bool:
    """Whether one of these positions is negative, so that it counts back from the last real token."""
    return bool((integers(where, "positions") < 0).any())


def is_text(input: Any) -> bool:
    """Whether an input is a string or a list of strings."""
    return isinstance(input, str) or (isinstance(input, Sequence) and bool(input) and isinstance(input[0], str))


def checked_mask(mask: Any) -> Tensor:
    """An attention mask as it is.

    Raises:
        BadInput: it is no tensor of zeros and ones; one that is to be added to scores is none.
    """
    if not isinstance(mask, Tensor) or mask.is_meta:
        raise BadInput(f"attention_mask must be a tensor [batch, pos], got {told(mask)}")
    if mask.dtype != torch.bool and not bool(numbers((mask == 0) | (mask == 1)).all()):
        raise BadInput("attention_mask must be 1 for real tokens and 0 for padding; it holds other numbers")
    return mask


def integers(given: Any, what: str) -> Tensor:
    """A number, a list or a tensor as a tensor of integers; `what` says in the error what they are."""
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is not None and found.dtype == torch.bool:
        raise BadInput(f"{what} must be integers, got {told(given)}: of a mask, pass mask.nonzero()")
    if found is None or found.is_meta or (found.numel() and (found.is_floating_point() or found.is_complex())):
        raise BadInput(f"{what} must be an integer, a list of integers or a tensor of them, got {told(given)}")
    return found
