"""A run in which all attention is frozen: what changes in the stream if only some parts write something else.

With attention frozen no position depends on another one, so that the run is computed only where it is read, and of the
blocks only the MLPs after a sender, for many senders at once; none at all where MLPs are frozen too. That is why this
is a pass of its own and not the engine's, which would run all of every block for every sender.
Everything else is what it was in the base run, whose recorded stream tells all that is needed. Norms are recomputed,
blocks of other kinds than the transformer's are frozen whole.

    base   resid_pre ----------------(+) attn_out ------------(+) mlp_out ------> resid_post
    shift      0 ------(+) senders' change of attn_out ---(+) change of mlp_out ---> the stream's difference to it
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.runs import Run
from interp_hooks.interventions.sites import Recording, Site
from interp_hooks.model.stream import ATTENTION_INPUTS, EMBEDDINGS, Stream, summands
from interp_hooks.model.transformer import HookedTransformer

MLPs = Literal["recompute", "freeze"]


class Senders(NamedTuple):
    """Sites that send together, and the first layer in which they do (-1: the embeddings)."""

    sites: list[Site]
    layer: int

    @classmethod
    def of(cls, stream: Stream, sites: Sequence[Site]) -> Senders:
        return cls(list(sites), min(stream.place(site.hook).layer for site in sites))

    def at(self, hook: str) -> list[Site]:
        """Those at this hook."""
        return [site for site in self.sites if site.hook == hook]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenRun:
    """The base run, with attention frozen, in which senders add to the stream what they add in the other run.

    `base` and `other` are recordings of the two runs at the positions `rows` [batch, n] (None: all). `wanted` names the
    inputs to note down: hooks, or "logits" for the final stream.
    """

    stream: Stream
    tokens: Int[Tensor, "batch pos"]
    base: Recording
    other: Recording
    wanted: Collection[str]
    mlps: MLPs
    rows: Int[Tensor, "batch n"] | None

    @classmethod
    def record(
        cls,
        stream: Stream,
        runs: tuple[Run, Run],
        every: Sequence[Senders],
        wanted: Collection[str],
        mlps: MLPs,
        rows: Tensor | None = None,
    ) -> FrozenRun:
        """Run the base and the other prompt, and keep what `inputs` of these senders will need."""
        model, first, sent = stream.model, every[0].layer, {site.hook for senders in every for site in senders.sites}
        kept: set[str] = set(EMBEDDINGS) if first < 0 else set()
        for layer in range(max(0, first), stream.n_layers):
            kept |= {stream.entering(layer), *stream.sublayers(layer).values()}
        kept |= {summands(hook) for hook in sent} | {"hook_layer_embed"}
        final, recordings = stream.entering(stream.n_layers), []
        for run, names in zip(runs, (kept, sent), strict=True):
            _, stored = model.run_with_cache(
                run.tokens,
                attention_mask=run.attention_mask,
                return_type=None,
                names_filter=[hook for hook in model.hook_dict if hook in names or hook == final],
                return_cache_object=False,
            )
            recordings.append({hook: _at_rows(value, rows) for hook, value in stored.items()})
        base, other = recordings
        return cls(stream=stream, tokens=runs[0].tokens, base=base, other=other, wanted=wanted, mlps=mlps, rows=rows)

    @property
    def model(self) -> HookedTransformer:
        return self.stream.model

    @property
    def bytes(self) -> int:
        """How many bytes are kept of the two runs."""
        return sum(value.nbytes for run in (self.base, self.other) for value in run.values())

    def differ(self, senders: Senders) -> list[bool]:
        """For each of the sites, whether it has another value in the other run, at the positions that are read."""
        found = []
        for site in senders.sites:
            chosen = _at_rows(places(self.model, [site], self.tokens), self.rows)
            differs = self.base[site.hook] != self.other[site.hook]
            found.append(bool((differs & chosen.to(differs.device)).any()))
        return found

    @property
    def final_streams(self) -> tuple[Tensor, Tensor]:
        """The stream [batch, n, d_model] after the last block in the base and in the other run."""
        final = self.stream.entering(self.stream.n_layers)
        return self.base[final], self.other[final]

    def inputs(self, every: Sequence[Senders]) -> dict[str, Float[Tensor, "senders batch n d_model"]]:
        """The wanted inputs as the senders, ordered by layer, change them; of those only that come before an input."""
        noted: dict[str, Tensor] = {}
        last = max(self._noted_by(hook) for hook in self.wanted)
        embedding = [senders for senders in every if senders.layer < 0]
        shift = self._embedding_change(embedding) if embedding else None
        for layer in range(max(0, every[0].layer), last + 1):
            entering = self.base[self.stream.entering(layer)]
            if shift is not None:
                shift = shift.to(entering.device)
                noted |= dict.fromkeys(self._readers(layer), entering + shift)
            if layer == last:
                break
            joining = sum(senders.layer == layer for senders in every)
            unchanged = entering.new_zeros(joining, *entering.shape)
            shift = unchanged if shift is None else torch.cat((shift, unchanged))
            shift = self._after_block(layer, shift, every[: len(shift)], noted)
        return noted

    def _noted_by(self, hook: str) -> int:
        """The layer that the stream enters when a wanted input has been noted down."""
        if hook == "logits":
            return self.stream.n_layers
        return self.stream.place(hook).layer + (not hook.endswith(ATTENTION_INPUTS))

    def _readers(self, layer: int) -> list[str]:
        """The wanted inputs that read the stream as it enters a layer."""
        entering = [hook for hook in self.wanted if hook == "logits" or hook.endswith(ATTENTION_INPUTS)]
        return [hook for hook in entering if self._noted_by(hook) == layer]

    def _after_block(self, layer: int, shift: Tensor, every: Sequence[Senders], noted: dict[str, Tensor]) -> Tensor:
        """The stream's difference to the base run after a block, from that before it."""
        block, name = self.model.blocks[layer], f"blocks.{layer}.hook_"
        if self.stream.other_block(layer) is not None:
            return self._after_other_block(layer, shift, every, noted)
        mid_shift = shift + self._attention_change(layer, every)
        if block.recurrence is not None:
            recurrence, copies = name + "recurrence_out", len(every)
            mid_shift = (
                mid_shift + self._sent(recurrence, self._copies(recurrence, copies), every) - self.base[recurrence]
            )
        if block.attn_only:
            return mid_shift
        writers = [name + "mlp_out", *(stop.hook for stop in self.stream.split_at(name + "mlp_out"))]
        sent = any(senders.at(hook) for senders in every for hook in (*writers, name + "ple_out"))
        wanted = any(hook in self.wanted for hook in (name + "mlp_in", name + "ple_in"))
        if self.mlps == "freeze" and not (sent or block.is_post or wanted):
            return mid_shift  # nothing else changes
        resid_pre, attn_out, mlp_out = (self.base[name + what] for what in ("resid_pre", "attn_out", "mlp_out"))
        if block.recurrence is not None:
            attn_out = attn_out + self.base[name + "recurrence_out"]
        mlp_in = resid_pre + shift if block.parallel else resid_pre + attn_out + mid_shift
        if block.is_post:
            mlp_in = block.ln1(mlp_in)
        if name + "mlp_in" in self.wanted:
            noted[name + "mlp_in"] = mlp_in
        frozen = mlp_out.expand_as(mlp_in)
        written = self._sent(name + "mlp_out", frozen if self.mlps == "freeze" else self._mlp(layer, mlp_in), every)
        if len(writers) > 1:  # a module stands there
            written = self._split(name + "mlp_out", written, every)
            mlp_out = self._split(name + "mlp_out", mlp_out[None], every[:0])[0]
        if block.ple is not None:
            return self._after_ple(layer, mid_shift + (written - mlp_out), mlp_in - mid_shift + mlp_out, every, noted)
        if not block.is_post:
            return mid_shift + (written - mlp_out)
        following = self.base[self.stream.entering(layer + 1)]
        return block.ln2(mlp_in + written).to(following.device) - following

    def _after_ple(
        self, layer: int, shift: Tensor, base: Tensor, every: Sequence[Senders], noted: dict[str, Tensor]
    ) -> Tensor:
        """The same after the part of a block that reads embeddings of its own; `base` is the stream before it."""
        block, name = self.model.blocks[layer], f"blocks.{layer}.hook_ple_"
        if name + "in" in self.wanted:
            noted[name + "in"] = base + shift
        frozen = self.base[name + "out"].expand_as(shift)
        if self.mlps == "recompute":
            embedded = self._layer_embeds(every)[..., layer, :].to(shift.device)
            assert block.ple is not None
            frozen = block.ple(base + shift, embedded) * block.residual_scale
        return shift + (self._sent(name + "out", frozen, every) - self.base[name + "out"])

    def _layer_embeds(self, every: Sequence[Senders]) -> Float[Tensor, "#senders batch n of_layer width"]:
        """What layers read of the tokens; of senders that change the embedding, which come first, as it changes."""
        base = self.base["hook_layer_embed"][None]
        changed = [senders for senders in every if senders.layer < 0]
        if not changed:
            return base
        tokens, entering = _at_rows(self.tokens, self.rows), self.base[self.stream.entering(0)]
        made = [self.model.layer_embed(tokens, entering + shift) for shift in self._embedding_change(changed)]
        return torch.cat((torch.stack(made), base.expand(len(every) - len(changed), *base.shape[1:])))

    def _after_other_block(
        self, layer: int, shift: Tensor, every: Sequence[Senders], noted: dict[str, Tensor]
    ) -> Tensor:
        """The same for a block of another kind, which writes what it wrote, but for what senders change."""
        stream = self.base[self.stream.entering(layer)]
        for stop in self.stream.stops_in(layer):
            if stop.does == "read":
                noted |= {stop.hook: stream + shift} if stop.hook in self.wanted else {}
                continue
            value, parts = self.base[stop.hook], list(range(len(stop.names)))
            change = self._sent(stop.hook, self._copies(stop.hook, len(every)), every) - value
            added = self.stream.added(stop.hook, change.flatten(0, 1), parts).sum(2)
            shift = shift + added.unflatten(0, change.shape[:2])
            stream = stream + self.stream.added(stop.hook, value, parts).sum(2)
        return shift

    def _attention_change(self, layer: int, every: Sequence[Senders]) -> Tensor | float:
        """What attention adds to the stream, less what it adds in the base run."""
        block, name = self.model.blocks[layer], f"blocks.{layer}."
        z, attn_out = name + "attn.hook_z", name + "hook_attn_out"
        places = [place for place, senders in enumerate(every) if senders.at(z) or senders.at(attn_out)]
        if not places:
            return 0.0
        sending = [every[place] for place in places]
        heads = self._sent(z, self._copies(z, len(sending)), sending)
        written = block.attn.written(block.attn.given(heads.flatten(0, 1)))
        added = (block.ln1_post(written) * block.residual_scale).unflatten(0, heads.shape[:2])
        change = self._sent(attn_out, added, sending) - self.base[attn_out]
        every_change = change.new_zeros(len(every), *change.shape[1:])
        every_change[places] = change
        return every_change

    def _split(self, hook: str, value: Tensor, every: Sequence[Senders]) -> Tensor:
        """What a module spliced in at a hook makes of a value [senders batch n d_model], its own parts sent too."""

        def put(parts: Tensor, point: HookPoint) -> Tensor:
            return self._sent(point.name, parts.unflatten(0, value.shape[:2]), every).flatten(0, 1)

        scope, _ = self.model.scope_of([(stop.hook, put) for stop in self.stream.split_at(hook)])
        return scope.run(self.model.hook_dict[hook], value.flatten(0, 1)).unflatten(0, value.shape[:2])

    def _mlp(self, layer: int, mlp_in: Tensor) -> Tensor:
        """What an MLP that reads this adds to the stream, both [senders batch n d_model]."""
        block = self.model.blocks[layer]
        normed = self.model.norm_reading(layer, mlp=True)(mlp_in.flatten(0, 1))
        return (block.ln2_post(block.mlp(normed)) * block.residual_scale).unflatten(0, mlp_in.shape[:2])

    def _embedding_change(self, every: Sequence[Senders]) -> Tensor:
        hooks = self.stream.embeddings
        parts = [self._sent(hook, self._copies(hook, len(every)), every) for hook in hooks]
        return self.model.entering(torch.stack(parts).sum(0)) - self.base[self.stream.entering(0)]

    def _copies(self, hook: str, copies: int) -> Tensor:
        value = self.base[hook]
        return value.expand(copies, *value.shape)

    def _sent(self, hook: str, value: Tensor, every: Sequence[Senders]) -> Tensor:
        """`value` [senders batch n ...] with the other run's in the places that each of the senders names."""
        sent = value
        for place, senders in enumerate(every):
            if not (sites := senders.at(hook)):
                continue
            sent = value.clone() if sent is value else sent
            chosen = _at_rows(places(self.model, sites, self.tokens), self.rows).to(value.device)
            sent[place] = torch.where(chosen, self.other[hook], value[place])
        return sent


def places(model: HookedTransformer, sites: Sequence[Site], tokens: Tensor) -> Bool[Tensor, "batch pos ..."]:
    """Where in the activation of their hook the sites are, all of one hook.

    Raises:
        BadInput: an axis that the hook does not have, or an index outside it.
    """
    point = model.hook_dict[sites[0].hook]
    chosen = torch.zeros(*tokens.shape, *(point.sizes[axis] for axis in point.axes[2:]), dtype=torch.bool)
    for site in sites:
        chosen[site.index(point, chosen)] = True
    return chosen


def _at_rows(value: Tensor, rows: Tensor | None) -> Tensor:
    """[batch, pos, ...] at some positions [batch, n] of each prompt."""
    if rows is None:
        return value
    rows = rows.to(value.device)
    return value[torch.arange(len(rows), device=value.device)[:, None], rows]
