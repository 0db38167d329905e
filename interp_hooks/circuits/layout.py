"""The sizes of a model that its graph depends on, and the hooks where its parts write and read, in the order of a pass.

    write input · read q k v of layer 0 · write heads · read MLP · write MLP · ... · read logits

In parallel blocks an MLP reads before the heads of its own layer write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import described, fits, told
from interp_hooks.model.stream import INPUT, Stop, Stream, between_ends, block_stops
from interp_hooks.model.transformer import HookedTransformer

ARROW, AT, REST = "->", "@", "rest"
MOST_EDGES = 2**34  # entries of the matrix of edges, a byte each: 80 layers of 64 heads at 200 positions


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes of a model that its graph depends on, and names of token positions that the graph tells apart.

    `stops` are the writers and readers of a model that has others than its sizes say: blocks of another kind, or
    modules that are spliced in where something is written.

    Raises:
        BadInput: sizes that no model has, or a position that is named twice or has a name that positions cannot have.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    attn_only: bool = False
    parallel: bool = False
    positions: tuple[str, ...] = ()
    stops: tuple[Stop, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_key_value_heads"):
            if not fits(size := getattr(self, name), int) or size < 1:
                raise BadInput(f"{name} must be an int of at least 1, got {told(size)}")
        for name, kind in (("attn_only", bool), ("parallel", bool), ("positions", tuple[str, ...])):
            if not fits(value := getattr(self, name), kind):
                raise BadInput(f"{name} must be {described(kind)}, got {told(value)}")
        writers, readers = (self.n_layers * (self.n_heads * names + 1) + 1 for names in (1, 3))
        if writers * readers * len(self.labels) > MOST_EDGES:
            raise BadInput(
                f"a graph of {self.n_layers} layers with {self.n_heads} heads and {len(self.labels)} positions has "
                f"{writers * readers * len(self.labels):.1e} entries; at most {MOST_EDGES:.1e} fit into memory"
            )
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
        """The positions that readers are told apart by: the named ones and "rest", or only "" if none is named."""
        return (*self.positions, REST) if self.positions else ("",)

    @classmethod
    def of(cls, model: HookedTransformer) -> Layout:
        """The layout of a model, without positions.

        Raises:
            BadInput: the stream of the model is not a sum of what is written, or its heads have no inputs of their own.
        """
        cfg, stream = model.cfg, Stream(model)
        stream.check_edge(INPUT, stream.stops[-1].hook)
        if cfg.kv_latent:
            raise BadInput(
                "this model compresses keys and values into one vector for all heads (latent attention), so its heads "
                "have no inputs of their own that edges could lead into; patch its heads as nodes instead"
            )
        if any(source is not None for source in cfg.keys_values_from):
            raise BadInput(
                "layers of this model attend to keys and values that an earlier layer made (keys_values_from), so that "
                "what leads into those reaches several heads at once; patch its heads as nodes instead"
            )
        usual = cls(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_key_value_heads,
            attn_only=cfg.attn_only,
            parallel=cfg.parallel_attn_mlp,
        )
        found = tuple(stop for stop in stream.stops if stop.names)
        return usual if found == usual.in_order else replace(usual, stops=found)

    @property
    def in_order(self) -> tuple[Stop, ...]:
        """The hooks that a pass comes by, without those that show sums of several parts."""
        if self.stops:
            return self.stops
        sizes = (self.n_heads, self.n_key_value_heads, self.attn_only, self.parallel)
        blocks = [stop for layer in range(self.n_layers) for stop in block_stops(layer, *sizes)]
        return tuple(stop for stop in between_ends(self.n_layers, blocks) if stop.names)


def position_number(position: object) -> int:
    """A position that is given as a number.

    Raises:
        BadInput: something else.
    """
    if isinstance(position, bool) or not fits(position, int):
        raise BadInput(f"expected a position as an int, got {told(position)}")
    return int(position)  # pyright: ignore[reportArgumentType]


class Part(NamedTuple):
    """The writers, or the readers, that share a hook. The graph lists them one after the other, part by part.

    `start` is how many names the graph has before these. The rest concerns readers: each of `names` is there once for
    each of `labels`; all of them read the first `seen` writers, `into` the queries ("q"), keys or values of a head, or
    "" for an MLP and the logits. `nodes` are the places of the nodes that they are inputs of, as many for each name.
    """

    hook: str
    layer: int
    names: tuple[str, ...]
    start: int
    labels: tuple[str, ...] = ("",)
    seen: int = 0
    into: str = ""
    nodes: slice = slice(0)

    @property
    def places(self) -> slice:
        """Where these writers or readers stand in the graph's list."""
        return slice(self.start * len(self.labels), (self.start + len(self.names)) * len(self.labels))

    @property
    def rows(self) -> list[int]:
        """The same as a list of numbers."""
        return list(range(self.places.start, self.places.stop))

    @property
    def size(self) -> int:
        """How many nodes each name is an input of: 1, or the number of heads that share a key/value head."""
        return (self.nodes.stop - self.nodes.start) // len(self.names)

    def come_out(self, read: Tensor) -> Tensor:
        """At which nodes and labels something comes out if some of the readers [name, label] read something.

        What is read into keys and values (or into anything named other than "q") moves: it may come out at any
        position. All else comes out where it is read.
        """
        return self._moved(read).repeat_interleave(self.size, 0)

    def highest(self, of_nodes: Tensor) -> Tensor:
        """For each reader [name, label] the highest of the values [node, label] where what it reads may come out."""
        return self._moved(of_nodes.unflatten(0, (len(self.names), self.size)).amax(1))

    def _moved(self, values: Tensor) -> Tensor:
        return values.amax(1, keepdim=True).expand_as(values) if self.into not in ("", "q") else values


def parts_of(layout: Layout) -> tuple[list[Part], list[Part]]:
    """The parts that write and those that read, each in the order in which a pass comes by them."""
    writers: list[Part] = []
    readers: list[Part] = []
    stops = layout.in_order
    nodes = dict[str, slice]()  # for each node the part that it is in
    for _, hook, layer, names in (stop for stop in stops if stop.does == "write"):
        writers.append(Part(hook, layer, names, _count(writers)))
        nodes |= dict.fromkeys(names, writers[-1].places)
    nodes["logits"] = slice(_count(writers), _count(writers) + 1)
    seen = 0
    for does, hook, layer, names in stops:
        if does == "write":
            seen += len(names)
        else:
            node, _, into = names[0].partition("<")
            start = _count(readers)
            inputs = nodes[node] if node in nodes else _split(node, writers)
            readers.append(Part(hook, layer, names, start, layout.labels, seen, into.removesuffix(">"), inputs))
    return writers, readers


def _split(node: str, writers: Sequence[Part]) -> slice:
    """The places of the nodes that a module splits what a node writes into: "m1.f0", "m1.f1", ... for "m1"."""
    places = [part.places for part in writers if part.names[0].startswith(f"{node}.")]
    return slice(places[0].start, places[-1].stop)


def _count(parts: Sequence[Part]) -> int:
    return parts[-1].start + len(parts[-1].names) if parts else 0
