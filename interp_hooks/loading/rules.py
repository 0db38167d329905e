"""The language in which a family says where its tensors go. One entry, one rule:

    "blocks.{i}.attn.W_Q, blocks.{i}.attn.W_K, blocks.{i}.attn.W_V":
        "gpt_neox.layers.{i}.attention.query_key_value.weight | (h qkv k) d -> qkv h d k"

    ours, ours, ... : theirs [or theirs] [?] [| einops pattern [| shares [| pattern of each part]]]

`{i}` runs over the layers; a line for parts that a layer does not have (its experts, say) is passed over there. In its
place "{attention}" or the kind of another mixer runs over the layers that mix tokens so; in a name of theirs `{i+1}` is
the next layer. Several names on the left
split the first axis of the result: each gets one slice, or as many as its share says ("h g g"; "2*g" is a product), and
each part may be rearranged once more (by one pattern, or by one for each, between ";"). `or` gives the tensor's name in
another version of transformers. `*` in a name counts 0, 1, 2, ...: tensors that are separate there and stacked here.
`?` marks a bias that may be absent, and None in place of a source one that always is: ours is then zero. `modules` in
families/shared.py writes the usual lines.

The axes have the config's sizes: h heads, g key/value heads, q query heads for each of those, k d_head, w d_value,
d d_model, m d_mlp, v d_vocab, a d_layer_embed, S streams, e experts, n width of an expert, s width of the shared
expert; in latent attention l and c the latents of keys and values and of queries, r the rotary and p the plain
dimensions of a head, I and J heads and width of an indexer. Of other mixers, H are the heads, G the heads of keys, Q
the heads for each of those, K d_key, W d_value, C the channels that pass the convolution, N the groups of a norm, R
dt_rank, B gate_rank. A word that ends in a number is an axis of that size ("cores4"). A rule reads backwards too, from
our tensors to theirs.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from interp_hooks.errors import WeightMismatch
from interp_hooks.model.config import HookedTransformerConfig

Table = dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of a table, for one layer."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    optional: bool = False
    pattern: str | None = None
    shares: tuple[str, ...] = ()
    part_pattern: str | None = None
    layer: int | None = None

    @property
    def name(self) -> str:
        """The name of their tensor, for error messages."""
        return " or ".join(self.theirs)

    @property
    def part_patterns(self) -> list[str]:
        """The pattern of each part: one of its own, or the same for all."""
        patterns = [one.strip() for one in (self.part_pattern or "").split(";")]
        return patterns if len(patterns) > 1 else patterns * len(self.ours)

    @property
    def stacked(self) -> bool:
        return any("*" in name for name in self.theirs)

    def names(self, state: Mapping[str, Tensor]) -> list[str]:
        """The names that a state dict has for their tensor: one, or several that are stacked; none if it is absent."""
        for name in self.theirs:
            counted = (name.replace("*", str(place)) for place in itertools.count()) if "*" in name else [name]
            if found := list(itertools.takewhile(state.__contains__, counted)):
                return found
        return []

    def find(self, state: dict[str, Tensor]) -> Tensor | None:
        """Take their tensor out of a state dict; None if it isn't there."""
        found = [state.pop(name) for name in self.names(state)]
        return None if not found else torch.stack(found) if self.stacked else found[0]

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
            parts = self._split(whole, sizes)
            if not self.part_pattern:
                return parts
            return [
                self._rearrange(part, pattern, sizes) for part, pattern in zip(parts, self.part_patterns, strict=True)
            ]
        if whole.shape[0] != len(self.ours):
            raise WeightMismatch(
                f"{self.name} gives {whole.shape[0]} slices for {len(self.ours)} weights ({', '.join(self.ours)})"
            )
        return list(whole.unbind())

    def backward(self, ours: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Their tensor, put together from ours: `forward` the other way round."""
        if self.part_pattern is not None:
            lengths = (self._size(share, sizes) for share in self.shares)
            back = [_reversed(pattern) for pattern in self.part_patterns]
            ours = [
                self._rearrange(part, pattern, sizes, x=length)
                for part, pattern, length in zip(ours, back, lengths, strict=True)
            ]
        whole = torch.cat(list(ours)) if self.shares else torch.stack(list(ours)) if len(ours) > 1 else ours[0]
        return whole if self.pattern is None else self._rearrange(whole, _reversed(self.pattern), sizes)

    def _split(self, whole: Tensor, sizes: Mapping[str, int]) -> list[Tensor]:
        lengths = [self._size(share, sizes) for share in self.shares]
        if sum(lengths) != whole.shape[0]:
            raise WeightMismatch(
                f"{self.name} gives {whole.shape[0]} slices, expected {' + '.join(self.shares)} = {sum(lengths)}"
            )
        return list(whole.split(lengths))

    def _size(self, share: str, sizes: Mapping[str, int]) -> int:
        return math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in share.split("*"))

    def _rearrange(self, tensor: Tensor, pattern: str, sizes: Mapping[str, int], **more: int) -> Tensor:
        used = set(re.findall(r"\w+", pattern))
        literal = {axis: int(n.group()) for axis in used if (n := re.search(r"\d+$", axis)) and not axis.isdigit()}
        known = {axis: n for axis, n in sizes.items() if n} | literal | more
        try:
            return rearrange(tensor, pattern, **{axis: n for axis, n in known.items() if axis in used})
        except EinopsError as error:
            raise WeightMismatch(
                f"{self.name} has shape {list(tensor.shape)}, which does not fit '{pattern}' with "
                f"{', '.join(f'{axis}={n}' for axis, n in sizes.items() if axis in used)}"
            ) from error


def _reversed(pattern: str) -> str:
    left, right = pattern.split("->")
    return f"{right.strip()} -> {left.strip()}"


def axis_sizes(cfg: HookedTransformerConfig, layer: int | None = None) -> dict[str, int]:
    """The size of every axis letter that patterns and shares may use, in a layer; 0 where the model has no such axis.

    Without a layer they are those of the tensors outside the layers.
    """
    experts, mixers = cfg.experts, cfg.mixers
    groups = cfg.n_key_value_heads if layer is None else cfg.kv_heads_at(layer)
    of_mixers = {
        "H": "n_heads",
        "G": "n_key_heads",
        "K": "d_key",
        "W": "d_value",
        "C": "channels",
        "N": "norm_groups",
        "R": "dt_rank",
    }
    return {
        **{axis: 0 if mixers is None else getattr(mixers, field) for axis, field in of_mixers.items()},
        "Q": 0 if mixers is None else mixers.n_heads // mixers.n_key_heads,
        "h": cfg.n_heads,
        "g": groups,
        "q": cfg.n_heads // groups,
        "k": cfg.d_head if layer is None else cfg.d_head_at(layer),
        "w": cfg.d_value if layer is None else cfg.d_value_at(layer),
        "d": cfg.d_model,
        "m": cfg.d_mlp if layer is None else cfg.d_mlp_at(layer),
        "a": cfg.d_layer_embed,
        "S": cfg.n_streams,
        "v": cfg.d_vocab,
        "e": 0 if experts is None else experts.n_experts,
        "n": 0 if experts is None else experts.d_expert,
        "s": 0 if experts is None else experts.d_shared,
        "l": cfg.kv_latent,
        "c": cfg.q_latent,
        "r": cfg.rotary_dim,
        "p": cfg.d_head - cfg.rotary_dim,
        "I": 0 if cfg.indexer is None else cfg.indexer.n_heads,
        "J": 0 if cfg.indexer is None else cfg.indexer.d_head,
    }


_OVER_LAYERS = re.compile(r"\{(\w+)\}")


def rules(table: Table, n_layers: int, kinds: Sequence[str] = ()) -> Iterator[Rule]:
    """All rules of a table: a line with `{i}` is one rule for each layer.

    `kinds` are the mixers of the first layers; a line for those of one kind is then no rule for the others.
    """
    for ours, theirs in table.items():
        over = _OVER_LAYERS.search(ours)
        for layer in [None] if over is None else range(n_layers):
            wanted = "i" if over is None else over[1]
            if layer is None or wanted == "i" or layer >= len(kinds) or kinds[layer] == wanted:
                yield _parse(ours, theirs, layer)


def on_layers(kind: str, table: Table) -> Table:
    """The same lines for the layers with one kind of mixer alone."""
    over = f"{{{kind}}}"
    return {
        ours.replace("{i}", over): theirs if theirs is None else theirs.replace("{i}", over)
        for ours, theirs in table.items()
    }


def _of_layer(name: str, layer: int | None) -> str:
    """The name with the layer's number, and that of the next, in their places."""
    return _OVER_LAYERS.sub(str(layer), name.replace("{i+1}", str((layer or 0) + 1)))


def _parse(ours: str, theirs: str | None, layer: int | None) -> Rule:
    names = tuple(_of_layer(name.strip(), layer) for name in ours.split(","))
    if theirs is None:
        return Rule(ours=names, theirs=(), optional=True, layer=layer)
    source, *rest = (part.strip() for part in theirs.split("|"))
    if len(rest) > 3:
        raise ValueError(f"rule {theirs!r}: expected 'tensor | pattern | shares | pattern of each part'")
    pattern, shares, part_pattern = [*rest, "", "", ""][:3]
    return Rule(
        ours=names,
        theirs=tuple(_of_layer(source.replace("?", "").strip(), layer).split(" or ")),
        optional="?" in source,
        pattern=pattern or None,
        shares=tuple(shares.split()),
        part_pattern=part_pattern or None,
        layer=layer,
    )
