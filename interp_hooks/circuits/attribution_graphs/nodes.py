"""What the nodes of an attribution graph are, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

KINDS = ("feature", "error", "token", "logit")
FEATURE, ERROR, TOKEN, LOGIT = range(4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of one layer of transcoders that are active on a prompt, by position."""

    pos: Int[Tensor, " feature"]
    index: Int[Tensor, " feature"]
    activation: Float[Tensor, " feature"]
    pre_activation: Float[Tensor, " feature"]

    def __len__(self) -> int:
        return len(self.pos)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """A number for every source, or for several targets [target, ...] each: features by layer, errors, tokens."""

    features: Sequence[Float[Tensor, "*target _feature"]]
    errors: Float[Tensor, "*target layer pos"]
    tokens: Float[Tensor, "*target pos"]

    def flat(self) -> Float[Tensor, "*target source"]:
        """All of them one after the other."""
        return torch.cat((*self.features, self.errors.flatten(-2), self.tokens), dim=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Which nodes there are: of each its `kind`, its `layer` (-1 of tokens), its `pos`, and its `index` (number of the
    feature, id of the token, -1 of an error)."""

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]

    def names(self, text_at: Callable[[int], str]) -> list[str]:
        """What they are called, given the text at a position."""
        columns = torch.stack((self.kind, self.layer, self.pos, self.index), dim=1).tolist()
        return [source_name(kind, layer, pos, index, text_at) for kind, layer, pos, index in columns]


def source_name(kind: int, layer: int, pos: int, index: int, text_at: Callable[[int], str]) -> str:
    """ "L3 pos 5 f1027", "L3 pos 5 error" or "pos 5 ' Paris'"."""
    if kind == TOKEN:
        return f"pos {pos} {text_at(pos)!r}"
    return f"L{layer} pos {pos} " + (f"f{index}" if kind == FEATURE else "error")
