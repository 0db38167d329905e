"""What stands along the residual stream, in the order in which a pass comes by it. Nothing else knows this order.

    writer    adds to the stream: the embeddings, a head, an attention layer, an MLP
    reader    reads it: the queries, keys or values of a head, an MLP, the logits
    stage     when, within its block, a hook comes: what stands before it is untouched by a change there

    blocks.0.hook_resid_pre                              write input
    blocks.L.hook_{q,k,v}_input                          read  aL.hH<q>, aL.hH<k>, aL.hH<v>
    blocks.L.hook_mixer_in                               read  aL<in>    (in place of these, without attention)
    blocks.L.attn.hook_z                                 write aL.h0, aL.h1, ...
    blocks.L.hook_recurrence_in, ..._out                 read rL<in>, write rL   (beside attention)
    blocks.L.hook_mlp_in, blocks.L.hook_mlp_out          read and write mL   (parallel blocks read it before z)
    blocks.L.hook_ple_in, blocks.L.hook_ple_out          read and write eL   (a layer's own embeddings)
    blocks.L.hook_laurel_out, blocks.L.hook_altup_out    change it, in models with several streams: no edges
    blocks.<last>.hook_resid_post                        read  logits

Another kind of block, or a module that is spliced in where something is written, says by itself what it has
(`Declares`); edges, graphs, path patching and plans then work with it as with the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.names import short_name
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.components.block import TransformerBlock

BEFORE_MLP = ("attn_out", "recurrence_out", "laurel_out")
ADDED = (*BEFORE_MLP, "mlp_out", "ple_out", "altup_out")  # by a layer, in the order in which they come
EMBEDDINGS = ("hook_embed", "hook_pos_embed", "hook_token_type_embed")
INPUT = "blocks.0.hook_resid_pre"
ATTENTION_INPUTS = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in", "hook_mixer_in")
ATTENTION_INPUTS += ("hook_recurrence_in",)
AFTER_BLOCKS = ("ln_final.", "mlm_head.", "unembed.")


class Stage(IntEnum):
    """When a hook comes. A change at one stage leaves all earlier stages of its layer as they are."""

    EMBEDDING = 0  # before the blocks
    MIXING = 1  # in a block, up to the pattern: positions are about to be mixed
    MIXED = 2  # from z to resid_mid
    MLP = 3
    WRITTEN = 4  # from mlp_out to resid_post
    FINAL = 5  # after the blocks


# Hooks of a transformer block by their stage, as the starts of their names within the block; the rest is MIXING.
STAGES = {
    Stage.MIXED: (
        *("attn.hook_z", "attn.hook_result", "ln1_post.", "hook_attn_out"),
        *("recurrence.hook_z", "recurrence.hook_result", "hook_recurrence_out"),
        *("laurel.", "hook_laurel_out", "hook_resid_mid"),
    ),
    Stage.MLP: ("hook_mlp_in", "ln2.", "mlp.", "ln2_post."),
    Stage.WRITTEN: (
        "hook_mlp_out",
        "hook_ple_in",
        "ple.",
        "hook_ple_out",
        "hook_other_streams",
        "hook_altup_out",
        "hook_resid_post",
        "hook_normalized_resid_post",
    ),
}
OF_PAIRS = tuple(
    f"hook_{part}"
    for part in ("pattern", "attn_scores", "term_scores", "term_pattern", "scores", "index_choice", "mixing")
)
"""Hooks with a number for each pair of tokens, which are computed for who looks."""
OF_QUERIES = (
    *("hook_q_input", "attn.hook_q", "attn.hook_rot_q", "attn.hook_attn_scores", "attn.hook_pattern"),
    *("attn.hook_router_logits", "attn.hook_expert_weights", "attn.hook_term_", "attn.hook_lambda"),
    *("attn.indexer.hook_q", "attn.indexer.hook_weights", "attn.indexer.hook_scores", "attn.hook_index_choice"),
    *(
        f"{at}.{part}"
        for at in ("attn", "recurrence")
        for part in ("hook_gate", "hook_mixing", "hook_state", "hook_mixed", "norm.")
    ),
)


class Place(NamedTuple):
    """Where a hook is: its layer (-1 before the blocks, n_layers after them) and stage.

    What happens at one that `stays` reaches other positions through later layers alone. `looks` says that it shows
    scores or patterns, `before_mixing` that it is the norm through which attention reads.
    """

    point: HookPoint
    layer: int
    stage: Stage
    stays: bool
    looks: bool
    before_mixing: bool


class Stop(NamedTuple):
    """A hook where something writes to the stream or reads it, and the names of the parts that do.

    A reader's name says what it is an input of: "a1.h0<k>" are the keys of head 0 of layer 1; what is read into
    anything but queries ("<q>") or a bare node ("m1") may come out at other positions. A stop without names shows
    several parts at once that have stops of their own, as `hook_attn_out` shows the sum of all heads.
    """

    does: Literal["write", "read"]
    hook: str
    layer: int
    names: tuple[str, ...]


@runtime_checkable
class Declares(Protocol):
    """A block of another kind than `TransformerBlock`, or a module spliced in where something is written."""

    def stops(self, prefix: str, layer: int) -> Sequence[Stop]:
        """Its writers and readers in the order of a pass; full names of its hooks begin with `prefix`."""
        ...

    def adds(self, hook: str, value: Tensor, parts: Sequence[int]) -> Float[Tensor, "batch pos part d_model"]:
        """What some parts at one of its writing hooks, of which this is the activation, add to the stream.

        Parts that are 0 add nothing, and what is added is linear in the activation.
        """
        ...


@runtime_checkable
class HasRows(Protocol):
    """A module that writes many parts, each a number times a vector of its own: features of a dictionary."""

    def rows_at(self, hook: str) -> Float[Tensor, "part d_model"] | None:
        """The vectors at one of its writing hooks; None where parts are no such products."""
        ...


@runtime_checkable
class ReadsEarlier(Protocol):
    """A spliced module that takes something from an earlier hook of the pass, `first_hook`."""

    first_hook: str


def norm_scale(sender: str) -> str:
    """Where a norm after attention shows its scale, for the heads of a block; of other senders the hook itself."""
    return sender.replace("attn.hook_z", "ln1_post.hook_scale")


def summands(sender: str) -> str:
    """The hook of the heads whose sum a sender shows; of other senders the hook itself."""
    return sender.replace("hook_attn_out", "attn.hook_z")


def part_axis(point: HookPoint) -> str | None:
    """The axis along which the parts at a hook lie: "head", say; None where the hook shows a single vector."""
    return None if point.axes[2] == "d_model" else point.axes[2]


def block_stops(
    layer: int,
    n_heads: int,
    n_key_value_heads: int,
    attn_only: bool = False,
    parallel: bool = False,
    attends: bool = True,
    layer_embed: bool = False,
    recurrence: bool = False,
) -> Iterator[Stop]:
    """The stops of a transformer block; where it does not attend, all heads of its mixer read the stream together."""
    block = f"blocks.{layer}"
    heads = tuple(f"a{layer}.h{head}" for head in range(n_heads))
    groups = heads[:n_key_value_heads]
    if not attends:
        yield Stop("read", f"{block}.hook_mixer_in", layer, (f"a{layer}<in>",))
    yield Stop("read", f"{block}.hook_attn_in", layer, ())
    for what, several in (("q", heads), ("k", groups), ("v", groups)):
        yield Stop("read", f"{block}.hook_{what}_input", layer, tuple(f"{head}<{what}>" for head in several))
    if recurrence:
        yield Stop("read", f"{block}.hook_recurrence_in", layer, (f"r{layer}<in>",))
    reads_mlp = Stop("read", f"{block}.hook_mlp_in", layer, (f"m{layer}",))
    if parallel and not attn_only:
        yield reads_mlp
    yield Stop("write", f"{block}.attn.hook_z", layer, heads)
    yield Stop("write", f"{block}.hook_attn_out", layer, ())
    if recurrence:
        yield Stop("write", f"{block}.hook_recurrence_out", layer, (f"r{layer}",))
    if not attn_only:
        if not parallel:
            yield reads_mlp
        yield Stop("write", f"{block}.hook_mlp_out", layer, (f"m{layer}",))
    if layer_embed:
        yield Stop("read", f"{block}.hook_ple_in", layer, (f"e{layer}",))
        yield Stop("write", f"{block}.hook_ple_out", layer, (f"e{layer}",))


def between_ends(n_layers: int, stops: Iterable[Stop]) -> list[Stop]:
    """The stops of all blocks between those of the embeddings and of the logits."""
    last = n_layers - 1
    logits = Stop("read", f"blocks.{last}.hook_resid_post", last, ("logits",))
    return [Stop("write", INPUT, 0, ("input",)), *stops, logits]


class Stream:
    """The residual stream of a model: which hook is where, what writes to it and what reads it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.n_layers: int = model.cfg.n_layers
        self._places: dict[str, Place] = {}

    # ---------------------------------------------------------------------------------------------------- hooks

    def place(self, hook: str) -> Place:
        """Where a hook is, by its full or short name.

        Raises:
            UnknownHook: there is no such hook.
        """
        if hook not in self._places:
            self._places[hook] = self._place(self.model.points(hook)[0])
        return self._places[hook]

    def _place(self, point: HookPoint) -> Place:
        if not point.name.startswith("blocks."):
            after = point.name.startswith(AFTER_BLOCKS)
            layer, stage = (self.n_layers, Stage.FINAL) if after else (-1, Stage.EMBEDDING)
            return Place(point, layer, stage, False, False, False)
        layer, stage = point.layer(), Stage.MIXING
        name = point.name.removeprefix(f"blocks.{layer}.")
        if isinstance(self.model.blocks[layer], TransformerBlock):
            stage = next((stage for stage, starts in STAGES.items() if name.startswith(starts)), stage)
        return Place(
            point=point,
            layer=layer,
            stage=stage,
            stays=stage > Stage.MIXING or name.startswith(OF_QUERIES),
            looks=name.endswith(OF_PAIRS),
            before_mixing=name.startswith("ln1."),
        )

    def entering(self, layer: int) -> str:
        """The hook that shows the stream as it enters a layer, or after the last one."""
        last = self.n_layers - 1
        if layer <= last:
            return f"blocks.{layer}.hook_resid_pre"
        post = self.model.cfg.norm_placement == "post"
        return f"blocks.{last}.hook_normalized_resid_post" if post else f"blocks.{last}.hook_resid_post"

    @property
    def watched_at_the_end(self) -> bool:
        """Whether somebody's functions are attached after the blocks; they want to see every position and token."""
        hooked = (name for name, point in self.model.hook_dict.items() if point.hooked)
        return any(self.place(name).stage == Stage.FINAL for name in hooked)

    def starts(self, layer: int) -> int:
        """The last layer, up to this one, from whose recorded stream a pass can go on; -1: only the embeddings will do.

        Where somebody's function is attached to the stream as it enters a layer, what is recorded has been through it,
        and a pass from there would call it again. What is read beside the stream (`carries`) is not recorded at all.
        """

        if self.carries and layer < self.n_layers:
            return -1

        def changed(hook: str) -> bool:
            return any(not attached.watches for attached in self.model.hook_dict[hook].hooks)

        for hook, splice in self.model.splices.items():  # what is spliced in may take something from earlier layers
            first = splice.module.first_hook if isinstance(splice.module, ReadsEarlier) else hook
            if (begins := self.place(first).layer) < layer <= self.place(hook).layer:
                return self.starts(begins)
        beside = not self.model.cfg.adds_positions and "hook_pos_embed" in self.model.hook_dict
        if beside and changed("hook_pos_embed"):
            return -1
        while 0 <= layer < self.n_layers and changed(self.entering(layer)):
            layer -= 1
        return layer

    @property
    def carries(self) -> bool:
        """Whether later layers read more of what comes before them than the stream that enters them."""
        cfg = self.model.cfg
        return bool(cfg.d_layer_embed) or cfg.n_streams > 1 or cfg.lends

    def resumed(self, layer: int, streams: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What a pass reads that need not compute what comes before a layer: its input, and arguments of `forward`.

        `streams` has the stream that enters the layer that `starts` tells, if it is not -1.
        """
        start = self.starts(layer)
        return (tokens, {}) if start < 0 else (streams[self.entering(start)], {"start_at_layer": start})

    def untouched(self, layer: int, stages: Collection[Stage]) -> frozenset[str]:
        """What of a layer comes before all these stages, so that it need not be computed for a change there.

        The names are those of `forward(known=...)`: "z", and maybe "mlp_out".
        """
        in_blocks = 0 <= layer < self.n_layers
        if not in_blocks or self.other_block(layer) is not None or min(stages) < Stage.MIXED:
            return frozenset()
        apart = {Stage.WRITTEN, Stage.MIXED} if self.model.cfg.parallel_attn_mlp else {Stage.WRITTEN}
        both = apart.issuperset(stages) and not self.model.cfg.attn_only
        return frozenset({"z", "mlp_out"} if both else {"z"})

    def shows(self, known: str, layer: int) -> str:
        """The hook that shows what `forward(known=...)` calls "z" or "mlp_out"."""
        return f"blocks.{layer}.attn.hook_z" if known == "z" else f"blocks.{layer}.hook_{known}"

    def other_block(self, layer: int) -> Declares | None:
        """The block of a layer if it is of another kind than the transformer's.

        Raises:
            BadInput: it does not say what it writes and reads.
        """
        block = self.model.blocks[layer]
        if isinstance(block, TransformerBlock):
            return None
        if not isinstance(block, Declares):
            raise BadInput(
                f"the block of layer {layer} is a {type(block).__name__}, which does not say what it writes and reads: "
                "give it the methods stops() and adds() of model.stream.Declares"
            )
        return block

    @property
    def keeps_keys(self) -> bool:
        """Whether a pass can go on from keys and values of earlier positions: not through blocks of other kinds."""
        return all(isinstance(block, TransformerBlock) for block in self.model.blocks)

    # ------------------------------------------------------------------------------------------- writers and readers

    @cached_property
    def embeddings(self) -> list[str]:
        """The hooks whose values sum to the stream that enters the first layer (before a norm, if there is one)."""
        apart = None if self.model.cfg.adds_positions else "hook_pos_embed"
        return [hook for hook in EMBEDDINGS if hook in self.model.hook_dict and hook != apart]

    @cached_property
    def stops(self) -> list[Stop]:
        """All writers and readers, in the order of a pass."""
        summands = [] if self.model.cfg.maps_embeddings else self.embeddings
        embeddings = [Stop("write", hook, -1, ()) for hook in summands]
        return [*embeddings, *between_ends(self.n_layers, [stop for stop, _ in self._in_blocks])]

    @cached_property
    def _in_blocks(self) -> list[tuple[Stop, Declares | None]]:
        """The stops of all blocks, and who says what is written there, if that is no transformer block."""
        return [stop for layer in range(self.n_layers) for stop in self._in_block(layer)]

    def _in_block(self, layer: int) -> Iterator[tuple[Stop, Declares | None]]:
        block, other = self.model.blocks[layer], self.other_block(layer)
        if other is not None:
            yield from ((stop, other) for stop in other.stops(f"blocks.{layer}", layer))
            return
        sizes = (block.heads, block.groups, block.attn_only, block.parallel, block.attends)
        for stop in block_stops(layer, *sizes, block.ple is not None, block.recurrence is not None):
            if stop.hook not in self.model.hook_dict:  # heads without inputs of their own
                continue
            inside = dict(self.model.hook_dict[stop.hook].named_children()) if stop.does == "write" else {}
            if not inside:
                yield stop, None
            for name, module in inside.items():
                if not isinstance(module, Declares):
                    raise BadInput(
                        f"the module {name!r} that is spliced in at {stop.hook} changes what is written there, and "
                        "does not say what it writes: give it the methods stops() and adds() of model.stream.Declares"
                    )
                yield from ((part, module) for part in module.stops(f"{stop.hook}.{name}", layer))

    def split_at(self, hook: str) -> list[Stop]:
        """The writers within a module that is spliced in at a hook and splits what is written there."""
        return [stop for stop in self.senders.values() if stop.hook.startswith(f"{hook}.")]

    def stops_in(self, layer: int) -> list[Stop]:
        """The writers and readers of one block."""
        return [stop for stop, _ in self._in_block(layer)]

    @cached_property
    def _owners(self) -> dict[str, Declares]:
        """By hook, who says what is written there."""
        return {stop.hook: owner for stop, owner in self._in_blocks if owner is not None}

    @cached_property
    def senders(self) -> dict[str, Stop]:
        """What adds to the stream, by hook."""
        return {stop.hook: stop for stop in self.stops if stop.does == "write"}

    @cached_property
    def receivers(self) -> dict[str, Stop]:
        """What reads the stream, by hook."""
        return {stop.hook: stop for stop in self.stops if stop.does == "read"}

    def sublayers(self, layer: int) -> dict[str, str]:
        """The hooks whose values a layer adds to the stream, by label: "attn_out", "mlp_out", perhaps others."""
        block, other = self.model.blocks[layer], self.other_block(layer)
        if other is not None:
            hooks = [stop.hook for stop in other.stops(f"blocks.{layer}", layer) if stop.does == "write"]
            return {short_name(hook): hook for hook in hooks}
        hooks = {label: f"blocks.{layer}.hook_{label}" for label in ADDED}
        elsewhere = {"ple_out"} if block.mixes_streams else {}  # to the other streams
        return {label: hook for label, hook in hooks.items() if hook in self.model.hook_dict and label not in elsewhere}

    def refuse_other_streams(self) -> None:
        """Raises BadInput if what a part writes reaches others beside the stream that they read."""
        if self.model.cfg.n_streams > 1:
            raise BadInput(
                f"this model carries {self.model.cfg.n_streams} streams that it mixes after each layer, so that what "
                "parts write reaches later ones beside the stream too; patch its parts as nodes instead"
            )

    def check_edge(self, sender: str, receiver: str) -> None:
        """Refuse hooks, by their full names, that cannot be the ends of an edge of this model.

        Raises:
            BadInput: what is not added to the stream, what does not read it, or a stream that is not a sum, or not all
                by which parts reach others.
        """
        self.refuse_other_streams()
        if self.model.cfg.norm_placement == "post":
            raise BadInput(
                "this model normalizes the stream itself (post-norm), so it is no sum of what parts add to it"
            )
        if sender not in self.senders:
            entry = [INPUT, *(hook for hook in self.embeddings if hook in self.senders)]
            raise BadInput(
                f"{sender} cannot send to one reader alone. Senders are what is added to the stream: z, attn_out or "
                f"mlp_out of a layer, {', '.join(entry)} for the embeddings"
            )
        if receiver not in self.receivers:
            raise BadInput(
                f"{receiver} cannot be what an edge leads into. Readers are what reads the stream: q_input, k_input, "
                f"v_input or mlp_in of a layer, or {self.stops[-1].hook} for the final stream"
            )

    # ---------------------------------------------------------------------------------------------- what is written

    def scale_of(self, sender: str) -> str | None:
        """The hook of the scale by which a norm divides what this sender's parts write together, if there is one."""
        hook = norm_scale(sender)
        return hook if hook != sender and hook in self.model.hook_dict else None

    def rows_of(self, sender: str) -> Float[Tensor, "part d_model"] | None:
        """The vectors that a sender's parts are numbers of, where it has many: the decoder rows of a dictionary."""
        owner = self._owners.get(sender)
        return owner.rows_at(sender) if isinstance(owner, HasRows) else None

    def added(
        self, sender: str, value: Tensor, parts: Sequence[int], scale: Tensor | None = None
    ) -> Float[Tensor, "batch pos part d_model"]:
        """What some parts add to the stream, from the activation at their hook.

        Heads whose sum is normalized have their shares of it under the norm's `scale`, with an equal part of the
        biases, so that the shares of all heads sum to what is added. Without one what comes is linear: no biases.
        """
        if sender in self._owners:
            return self._owners[sender].adds(sender, value, parts)
        if not sender.endswith("attn.hook_z"):
            return value[:, :, None]
        block = self.model.blocks[self.place(sender).layer]
        written = torch.einsum("bphk,hkd->bphd", value[:, :, parts], self.model.whole(block.attn.W_O)[parts])
        if scale is not None:
            shares = written + block.attn.b_O / value.shape[2]
            written = FrozenNorm.of(block.ln1_post, scale[:, :, None])(shares)
        return written if block.residual_scale == 1 else written * block.residual_scale
