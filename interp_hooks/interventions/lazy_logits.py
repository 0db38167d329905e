"""Logits that are computed when they are read, so that a plain function of logits costs what it reads.

    def metric(logits):                                                     # [batch, pos, d_vocab]
        return (logits[:, -1, answer] - logits[:, -1, wrong]).mean()        # unembeds a position, and two tokens there

Indexing by positions gives logits that are still to be computed; indexing by tokens, or `gather` along the last axis,
computes just these. Anything else (an operation, a method, another function) first makes an ordinary tensor of all that
is selected, and goes on with that. What is computed can be differentiated with respect to the stream below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from interp_hooks.model.transformer import HookedTransformer

LEFT_OUT = -1  # stands for the row of a position that is not in the stream
ELSEWHERE = "the metric reads other positions in some runs than in the prompts left alone"
FEW = 8  # reading a smaller share than this of the logits is done token by token

# What a tensor tells without its numbers.
KNOWN_BEFORE = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point, Tensor.is_complex),
}


class ReadElsewhere(Exception):
    """A function read a position whose stream was left out, since it did not read it before."""


class _FinalStream:
    """The stream [row, d_model] after the last block, from which all selections of a run's logits are computed.

    `read` are the rows whose logits were asked for; `missed` tells whether one of them is not in the stream.
    """

    def __init__(self, model: HookedTransformer, rows: Float[Tensor, "row d_model"]) -> None:
        self.model, self.rows = model, rows
        self.read: list[Int[Tensor, " n"]] = []
        self.missed = False

    def logits(self, rows: Int[Tensor, " n"], tokens: Int[Tensor, " t"] | None = None) -> Float[Tensor, "n t"]:
        """The logits of some tokens (None: of all) at some rows.

        Raises:
            ReadElsewhere: the stream was left out at one of these rows.
        """
        if bool((rows == LEFT_OUT).any()):
            self.missed = True
            raise ReadElsewhere(ELSEWHERE)
        self.read.append(rows)
        return self.model.logits(self.rows[rows][None], None if tokens is None else tokens[None])[0]


class LazyLogits(Tensor):
    """Logits [..., d_vocab] at some rows of a final stream; see above. To other code they are a tensor as any other."""

    _stream: _FinalStream
    _rows: Int[Tensor, "..."]
    _whole: Tensor | None

    @staticmethod
    def __new__(cls, stream: _FinalStream, rows: Int[Tensor, "..."]) -> LazyLogits:
        like, d_vocab = stream.rows, stream.model.cfg.d_vocab_out
        made = Tensor._make_wrapper_subclass(
            cls, (*rows.shape, d_vocab), dtype=like.dtype, device=like.device, requires_grad=like.requires_grad
        )
        made._stream, made._rows, made._whole = stream, rows, None
        return made

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        stream: Float[Tensor, "batch read d_model"],
        length: int,
        positions: Int[Tensor, "batch read"] | None = None,
    ) -> LazyLogits:
        """The logits [batch, length, d_vocab] of a final stream that holds all positions, or these of each prompt."""
        batch, read = stream.shape[:2]
        rows = torch.arange(batch * read, device=stream.device).reshape(batch, read)
        if positions is not None:
            nowhere = torch.full((batch, length), LEFT_OUT, device=stream.device)
            rows = nowhere.scatter(1, positions.to(stream.device), rows)
        return cls(_FinalStream(model, stream.flatten(0, 1)), rows)

    @property
    def final_stream(self) -> Float[Tensor, "row d_model"]:
        """The final stream that they are computed from, at all its positions."""
        return self._stream.rows

    @property
    def missed(self) -> bool:
        """Whether a position was asked for that is not in the stream."""
        return self._stream.missed

    def position_read(self) -> Int[Tensor, " batch"] | None:
        """The position of each prompt that was read so far, if it is a single one of each.

        To be asked of the logits of all positions of all prompts.
        """
        seen = torch.zeros(self._rows.numel(), dtype=torch.bool, device=self._rows.device)
        for rows in self._stream.read:
            seen[rows] = True
        of_prompt = seen.reshape(self._rows.shape)
        return of_prompt.int().argmax(1) if bool((of_prompt.sum(1) == 1).all()) else None

    def whole(self) -> Tensor:
        """All that is selected, as an ordinary tensor."""
        if self._whole is None:
            self._whole = self._stream.logits(self._rows.flatten()).reshape(self.shape)
        return self._whole

    def _picked(self, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """What `pick`, which takes single entries of a tensor of this shape, takes of the logits."""
        rows = pick(self._rows[..., None].expand(self.shape))
        if self._whole is not None or FEW * rows.numel() > self.numel():
            return pick(self.whole())
        tokens = pick(torch.arange(self.shape[-1], device=rows.device).expand(self.shape))
        some_rows, row = rows.unique(return_inverse=True)
        some_tokens, token = tokens.unique(return_inverse=True)
        return self._stream.logits(some_rows, some_tokens)[row, token]

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in KNOWN_BEFORE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        logits = args[0] if args else None
        if isinstance(logits, LazyLogits) and not kwargs:
            if func is Tensor.__getitem__:
                of_rows = _index_of_rows(args[1], logits.ndim)
                if of_rows is None:
                    return logits._picked(lambda values: values[args[1]])
                return LazyLogits(logits._stream, logits._rows[of_rows])
            if func is Tensor.unbind and args[1:] in ((), (0,)):  # what a loop over the logits does
                return tuple(logits[row] for row in range(len(logits)))
            if func in (Tensor.gather, torch.gather) and args[1] in (-1, logits.ndim - 1):
                return logits._picked(lambda values: values.gather(-1, args[2]))
        return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_ordinary, (args, kwargs or {}))
        return func(*args, **kwargs)


def _ordinary(value: Any) -> Any:
    return value.whole() if isinstance(value, LazyLogits) else value


def _index_of_rows(index: Any, ndim: int) -> Any:
    """The same index for a tensor without the last axis; None if it takes anything apart along that."""
    items = list(index) if isinstance(index, tuple) else [index]
    axes = [axes for item in items if (axes := _axes(item)) is not None]
    if len(axes) < len(items):
        return None
    open_end = any(item is Ellipsis for item in items)
    if (open_end and items[-1] is not Ellipsis) or sum(axes) == ndim:
        if not (isinstance(items[-1], slice) and items[-1] == slice(None)):
            return None
        items = items[:-1]
    return tuple(items)


def _axes(item: Any) -> int | None:
    """How many axes a part of an index stands for; None if that is not plain."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, slice | int) and not isinstance(item, bool):
        return 1
    if isinstance(item, Tensor | np.ndarray):
        return item.ndim if item.dtype in (torch.bool, torch.uint8, np.bool_) else 1
    return None


def scored(score: Callable[[Tensor], Any], logits: Tensor) -> Any:
    """What a function of logits gives.

    Raises:
        ReadElsewhere: it read a position that was left out, even if it hides that.
    """
    value = score(logits)
    if isinstance(logits, LazyLogits) and logits.missed:
        raise ReadElsewhere(ELSEWHERE)
    return value
