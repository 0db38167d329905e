"""A program together with the model that it was compiled into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.ground_truth.rasp import Value, Variable
from interp_hooks.ground_truth.system import Edge
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A program as a model, which reads BOS (token 0) and then words (1, 2, ... in the order of `vocabulary`).

    The logits of a categorical program are those of `outputs`, one-hot or all zero for no value; a numerical program
    writes its number to logit 0, beside a logit 1 that is always 0. `edges` are those that matter at a word, with the
    variables that they carry (none: what is the same for all sequences, or of no consequence). Removing one changes
    what the model says about some sequence, unless the program computes something that it does not use. `writers`
    are the nodes that compute the variables.
    """

    model: HookedTransformer
    program: Variable
    vocabulary: tuple[Value, ...]
    outputs: tuple[Any, ...]
    edges: Mapping[Edge, frozenset[Variable]]
    writers: Mapping[Variable, str]

    @property
    def circuit(self) -> frozenset[Edge]:
        return frozenset(self.edges)

    def encode(self, *sequences: Sequence[Value]) -> Int[Tensor, "batch pos"]:
        """Token ids, BOS first, of sequences of the same length.

        Raises:
            BadInput: an unknown word, unequal lengths, or more words than the model has positions for.
        """
        ids = {word: id + 1 for id, word in enumerate(self.vocabulary)}
        longest = self.model.cfg.n_ctx - 1
        if len({*map(len, sequences)}) != 1 or not 1 <= len(sequences[0]) <= longest:
            lengths = sorted({*map(len, sequences)})
            raise BadInput(f"expected sequences of one length, of 1 to {longest} words, got lengths {lengths}")
        if unknown := [word for words in sequences for word in words if word not in ids]:
            near = nearest(str(unknown[0]), map(str, ids))
            raise BadInput(f"{unknown[0]!r} is not in the vocabulary {self.vocabulary}.{near}")
        return torch.tensor([[0, *(ids[word] for word in words)] for words in sequences])

    def decode(self, logits: Float[Tensor, "batch pos d_vocab_out"]) -> list[list[Any]]:
        """What the model says at every word: a number, or the value (None: no value) that the logits are closest to."""
        if self.program.numerical:
            return logits[:, 1:, 0].tolist()
        top, place = logits[:, 1:].max(-1)
        rows = zip(top.tolist(), place.tolist(), strict=True)
        return [[self.outputs[i] if high > 0.5 else None for high, i in zip(*row, strict=True)] for row in rows]
