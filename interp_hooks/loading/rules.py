"""The language in which a family says where its tensors go. One entry, one rule:

    "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V":
        "gpt_neox.layers.{i}.attention.query_key_value.weight | (h qkv k) d -> qkv h d k"

    ours, ours, ... : theirs [or theirs] [?] [| einops pattern [| shares]]

`{i}` runs over the layers. Several names on the left split the first axis of the result: one slice each, or, with
shares ("h g g"), so many. `or` gives the tensor's name in another version of transformers. `?` says that it may be
absent, and None in place of a source that it always is: ours is then a zero bias. The axes h (heads), g (key/value
heads), k (d_head), d (d_model), m (d_mlp), v (d_vocab) have the config's sizes. A rule reads backwards too, from our
tensors to theirs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from interp_hooks.config import HookedTransformerConfig
from interp_hooks.errors import WeightMismatch

Table = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of a table, for one layer."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    optional: bool = False
    pattern: str | None = None
    shares: tuple[str, ...] = ()
    layer: int | None = None

    @property
    def source(self) -> str:
        """Their tensor, for messages."""
        return " or ".join(self.theirs)

    def find(self, state: dict[str, Tensor]) -> Tensor | None:
        """Take their tensor out of a state dict; None if it isn't there."""
        name = next((name for name in self.theirs if name in state), None)
        return None if name is None else state.pop(name)

    def forward(self, theirs: Tensor, sizes: Mapping[str, int]) -> list[Tensor]:
        """Our tensors, as views of theirs where einops can make a view.

        Raises:
            WeightMismatch: their tensor does not have the shape that the rule describes.
        """
        whole = theirs
        if self.pattern is not None:
            whole = self._rearrange(theirs, self.pattern, sizes)
        if len(self.ours) == 1:
            return [whole]
        if self.shares:
            return list(whole.split([sizes[share] for share in self.shares]))
        if whole.shape[0] != len(self.ours):
            raise WeightMismatch(
                f"{self.source} gives {whole.shape[0]} slices for {len(self.ours)} weights ({', '.join(self.ours)})"
            )
        return list(whole.unbind())

    def backward(self, ours: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Their tensor, from ours."""
        whole = torch.cat(list(ours)) if self.shares else torch.stack(list(ours)) if len(ours) > 1 else ours[0]
        if self.pattern is None:
            return whole
        left, right = self.pattern.split("->")
        return self._rearrange(whole, f"{right.strip()} -> {left.strip()}", sizes)

    def _rearrange(self, tensor: Tensor, pattern: str, sizes: Mapping[str, int]) -> Tensor:
        used = set(re.findall(r"\w+", pattern))
        free = {"h", "g"} & used if self.shares else set()  # a joint axis of several kinds of heads has no size by name
        try:
            return rearrange(tensor, pattern, **{axis: n for axis, n in sizes.items() if axis in used - free})
        except EinopsError as error:
            raise WeightMismatch(
                f"{self.source} has shape {list(tensor.shape)}, which does not fit '{pattern}' with "
                f"{', '.join(f'{axis}={n}' for axis, n in sizes.items() if axis in used)}"
            ) from error


def axis_sizes(cfg: HookedTransformerConfig) -> dict[str, int]:
    """The size of every axis letter that patterns and shares may use."""
    return {
        "h": cfg.n_heads,
        "g": cfg.n_key_value_heads,
        "k": cfg.d_head,
        "d": cfg.d_model,
        "m": cfg.d_mlp,
        "v": cfg.d_vocab,
    }


def rules(table: Table, n_layers: int) -> Iterator[Rule]:
    """Every line of a table for every layer that it runs over."""
    for ours, theirs in table.items():
        repeated = "{i}" in ours
        for layer in range(n_layers) if repeated else [None]:
            yield _parse(ours, theirs, layer)


def _parse(ours: str, theirs: str | None, layer: int | None) -> Rule:
    names = tuple(name.strip().replace("{i}", str(layer)) for name in ours.split(","))
    if theirs is None:
        return Rule(ours=names, theirs=(), optional=True, layer=layer)
    source, *rest = (part.strip() for part in theirs.split("|"))
    if len(rest) > 2:
        raise ValueError(f"rule {theirs!r}: expected 'tensor | pattern | shares'")
    pattern, shares = [*rest, "", ""][:2]
    return Rule(
        ours=names,
        theirs=tuple(source.removesuffix("?").strip().replace("{i}", str(layer)).split(" or ")),
        optional=source.endswith("?"),
        pattern=pattern or None,
        shares=tuple(shares.split()),
        layer=layer,
    )
