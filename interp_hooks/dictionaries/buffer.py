"""Activations of a corpus in random order: a buffer that is shuffled, and half of which is replaced at a time.

Tokens of one text resemble each other, and batches should not. The buffer holds so many tokens; when half of them are
given out, passes of the model fill it up again, and what is there is shuffled anew. Values keep the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.packing import Packer, Rows
from interp_hooks.corpus.passes import counted_values
from interp_hooks.corpus.reading import Corpus
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

ENDED = "the corpus has no more tokens that count: give a list or a file, which can be read again, or more texts"


class ActivationBuffer:
    """Batches of activations at some hooks, at tokens that count; the corpus is read again when it ends.

    `passes` is how many passes were made. What is left to give out (`left`, by hook [token, d]), `passes` and the
    generator's state are all that it takes to go on. `part=(1, 4)` is the second of four that share the corpus: it
    takes every fourth batch of rows.
    """

    def __init__(
        self,
        model: HookedTransformer,
        corpus: Corpus,
        packer: Packer,
        hooks: Sequence[tuple[str, int | None]],
        *,
        column: str,
        tokens: int,
        generator: torch.Generator,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.model, self.corpus, self.packer, self.column = model, corpus, packer, column
        self.hooks = list(dict.fromkeys(hooks))
        self.tokens, self.generator, self.passes, self.part = tokens, generator, 0, part
        self.left: dict[tuple[str, int | None], Tensor] = {}
        last = max(Stream(model).place(hook).layer for hook, _ in self.hooks)
        self.stop = last + 1 if last < model.cfg.n_layers else None
        self._rows: Iterator[Rows] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.left.values()))) if self.left else 0

    def take(self, n: int) -> dict[tuple[str, int | None], Float[Tensor, "token d"]]:
        """The next n tokens' activations.

        Raises:
            BadInput: the corpus has no tokens that count, or ended and cannot be read again.
        """
        if len(self) < max(n, self.tokens // 2):
            self.fill()
        batch = {hook: values[:n] for hook, values in self.left.items()}
        self.left = {hook: values[n:] for hook, values in self.left.items()}
        return batch

    def fill(self) -> None:
        """Fill the buffer up, and shuffle it."""
        parts = {hook: [self.left[hook]] if self.left else [] for hook in self.hooks}
        count = len(self)
        if self._rows is None:
            first, every = self.part
            endless = self.packer.endless(self.corpus, self.column, lambda: ENDED)
            self._rows = islice(endless, first + every * self.passes, None, every)
        while count < self.tokens:
            found = self._read(next(self._rows))
            self.passes += 1
            count += len(found[self.hooks[0]])
            for hook, values in found.items():
                parts[hook].append(values)
        order = torch.randperm(count, generator=self.generator)
        self.left = {hook: torch.cat(values)[order.to(values[0].device)] for hook, values in parts.items()}

    def _read(self, rows: Rows) -> dict[tuple[str, int | None], Tensor]:
        found = counted_values(self.model, rows, dict.fromkeys(name for name, _ in self.hooks), self.stop)
        return {
            (name, head): found[name].flatten(1) if head is None else found[name][:, head] for name, head in self.hooks
        }


class TensorBuffer:
    """Batches of activations that are there, in another order each time they are passed through."""

    def __init__(self, values: Mapping[tuple[str, int | None], Tensor], generator: torch.Generator) -> None:
        self.values, self.generator, self.passes = values, generator, 0
        self.hooks = list(values)
        self.left: dict[tuple[str, int | None], Tensor] = {}

    def take(self, n: int) -> dict[tuple[str, int | None], Float[Tensor, "token d"]]:
        """The next n."""
        if not self.left or len(self.left[self.hooks[0]]) < n:
            self.fill()
        batch = {hook: values[:n] for hook, values in self.left.items()}
        self.left = {hook: values[n:] for hook, values in self.left.items()}
        return batch

    def fill(self) -> None:
        """Begin to pass through them again."""
        order = torch.randperm(len(self.values[self.hooks[0]]), generator=self.generator)
        self.left = {hook: values[order.to(values.device)] for hook, values in self.values.items()}
        self.passes += 1
