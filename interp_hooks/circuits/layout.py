"""What the graph of a model depends on, and the hooks where its parts write and read, in the order of a pass.

    write input · read q k v of layer 0 · write heads · read MLP · write MLP · ... · read logits

In parallel blocks an MLP reads before its own layer's heads write. With positions, every reader is there once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import fits, told
from interp_hooks.model.stream import INPUT, Stop, Stream, between_ends, block_stops
from interp_hooks.model.transformer import HookedTransformer

ARROW, AT, REST = "->", "@", "rest"


class Reader(NamedTuple):
    """What a reader's name says: "a1.h0<k>@S2" reads for node "a1.h0", into "k", at "S2"; "" is what it doesn't say."""

    node: str
    into: str
    label: str

    @classmethod
    def of(cls, name: str) -> Reader:
        everywhere, _, label = name.partition(AT)
        node, _, into = everywhere.partition("<")
        return cls(node, into.removesuffix(">"), label)

    @property
    def everywhere(self) -> str:
        """Its name without the position."""
        return f"{self.node}<{self.into}>" if self.into else self.node

    @property
    def moves(self) -> bool:
        """Whether it reads keys or values, which come out at any position, and of all heads that share them."""
        return self.into in ("k", "v")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the graph of a model depends on. `positions` are names of token positions that readers are told apart by.

    Raises:
        BadInput: sizes that no model has, or a position that is named twice, or as nothing can be named.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    attn_only: bool = False
    parallel: bool = False
    positions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_key_value_heads"):
            if not fits(size := getattr(self, name), int) or size < 1:
                raise BadInput(f"{name} must be an int of at least 1, got {told(size)}")
        if self.n_heads % self.n_key_value_heads:
            raise BadInput(f"{self.n_heads} heads cannot share {self.n_key_value_heads} key/value heads evenly")
        if len(set(self.positions)) < len(self.positions):
            raise BadInput(f"expected positions of different names, got {', '.join(self.positions)}")
        if unfit := [name for name in self.positions if name in ("", REST) or AT in name or ARROW in name]:
            raise BadInput(
                f"a position cannot be called {unfit[0]!r}: {REST!r} are all those without a name, and {AT!r} and "
                f"{ARROW!r} belong to edges"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The positions that a reader is told apart by: those named and the rest, or "" alone."""
        return (*self.positions, REST) if self.positions else ("",)

    @classmethod
    def of(cls, model: HookedTransformer) -> Layout:
        """The layout of a model, without positions.

        Raises:
            BadInput: its stream is no sum of what is written, or its heads have no inputs of their own.
        """
        cfg, stream = model.cfg, Stream(model)
        stream.check_edge(INPUT, stream.stops[-1].hook)
        if "blocks.0.hook_q_input" not in model.hook_dict:
            raise BadInput(
                "this model compresses keys and values into one vector for all heads (latent attention), so its heads "
                "have no inputs of their own that edges could lead into; patch its heads as nodes instead"
            )
        return cls(
            n_layers=cfg.n_layers,
            n_heads=model.hook_dict["blocks.0.hook_q_input"].sizes["head"],
            n_key_value_heads=model.hook_dict["blocks.0.hook_k_input"].sizes["head"],
            attn_only=cfg.attn_only,
            parallel=cfg.parallel_attn_mlp,
        )


def position_number(position: object) -> int:
    """A position that is given as a number.

    Raises:
        BadInput: something else.
    """
    if isinstance(position, bool) or not fits(position, int):
        raise BadInput(f"expected a position as an int, got {told(position)}")
    return int(position)  # pyright: ignore[reportArgumentType]


class Part(NamedTuple):
    """The writers, or readers, that share a hook: they stand at `start` and after in the list of all of them.

    Readers have, one after the other, each of `names` at each of `labels`; `seen` is how many writers, the first ones,
    they read.
    """

    hook: str
    layer: int
    names: tuple[str, ...]
    start: int
    seen: int = 0
    labels: tuple[str, ...] = ("",)

    @property
    def every(self) -> list[str]:
        """The names, each with each label: "a1.h0<k>@S2"."""
        return [f"{name}{AT}{label}" if label else name for name in self.names for label in self.labels]

    @property
    def places(self) -> slice:
        return slice(self.start, self.start + len(self.names) * len(self.labels))

    @property
    def rows(self) -> list[int]:
        return list(range(self.places.start, self.places.stop))


def parts_of(layout: Layout) -> tuple[list[Part], list[Part]]:
    """Those that write, and those that read."""
    writers: list[Part] = []
    readers: list[Part] = []
    for does, hook, layer, names in _in_order(layout):
        if does == "write":
            writers.append(Part(hook, layer, names, _end(writers)))
        else:
            readers.append(Part(hook, layer, names, _end(readers), _end(writers), layout.labels))
    return writers, readers


def _end(parts: Sequence[Part]) -> int:
    return parts[-1].places.stop if parts else 0


def _in_order(layout: Layout) -> list[Stop]:
    """What a pass comes by, of parts that are no sums of others."""
    sizes = (layout.n_heads, layout.n_key_value_heads, layout.attn_only, layout.parallel)
    blocks = [stop for layer in range(layout.n_layers) for stop in block_stops(layer, *sizes)]
    return [stop for stop in between_ends(layout.n_layers, blocks) if stop.names]
