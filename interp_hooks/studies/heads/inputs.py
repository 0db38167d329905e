"""How a head makes its queries, keys and values of the stream: a linear map, once norms have the scales of a run.

    stream --norm of the layer--> times W, plus b --norm of queries or keys--> turned by its position --> q or k
    stream --norm of the layer--> times W, plus b                                                     --> v

So every part of the stream has a query (key, value) of its own, and together with what biases add, a part "bias" of its
own, they sum to the head's. Latent attention reads through its low-rank summary, whose norm has the scale of the run
too. What clips queries and keys is not linear, and is refused where it does clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.slices import Slice
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.cache.decomposition import Decomposition
from interp_hooks.model.cache.frozen_norm import CENTRED, FrozenNorm, Reading
from interp_hooks.model.cache.parts import norm_reading
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.stream import ADDED, Stream
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.heads.attending import attention_of, makes_keys

Unit = Literal["whole", "component", "head", "neuron"]
"""Into what a stream is split: nothing, whole sublayers, heads and MLPs, or heads and neurons."""
BEFORE = (
    *("attn.hook_z", *(f"hook_{label}" for label in ADDED), "ln1_post.hook_scale", "ln2_post.hook_scale"),
    *("hook_resid_pre", "ln1.hook_scale", "q_norm.hook_scale", "k_norm.hook_scale", "attn.hook_index_choice"),
    *("v_norm.hook_scale", "q_latent_norm.hook_scale", "kv_latent_norm.hook_scale"),
)


def precise(tensor: Tensor) -> Tensor:
    """A weight or an activation as a constant, in float32 or better."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadInput:
    """The map from the stream to a head's queries, keys or values at some positions of a run.

    `reading` is the norm of the layer and the columns of W; then `bias` is added, all divided by the `scale` of a
    latent, and `offset` added. Then comes the head's own norm, `before` or `after` its `rotation`, which turns the
    dimensions from `plain` on. `beside` is what is read beside the stream, after the norm of the layer.
    """

    reading: Reading
    bias: Float[Tensor, " d_head"]
    scale: Float[Tensor, "batch n _"] | None = None
    offset: Float[Tensor, " d_head"] | None = None
    before: FrozenNorm | None = None
    rotation: Rotation | None = None
    after: FrozenNorm | None = None
    plain: int = 0
    clip: float | None = None
    beside: Float[Tensor, "batch n d_model"] | None = None

    def unturned(
        self, read: Float[Tensor, "*part batch n d_head"], whole: bool = False
    ) -> Float[Tensor, "*part batch n d_head"]:
        """What is made of parts of the stream that were read, before it is turned; of the `whole`, with biases."""
        made = read + self.bias if whole else read
        made = made if self.scale is None else made / self.scale
        made = made + self.offset if whole and self.offset is not None else made
        if self.before is not None:
            made = self.before(made)
            made = made + self.before.bias if whole and self.before.bias is not None else made
        return made if self.after is None else made / self.after.scale

    def turned(
        self, made: Float[Tensor, "*part batch n d_head"], whole: bool = False
    ) -> Float[Tensor, "*part batch n d_head"]:
        """The same turned by the rotation, and what comes after it."""
        if self.rotation is not None:
            made = torch.cat((made[..., : self.plain], self._rotated(made[..., self.plain :])), dim=-1)
            made = made if self.rotation.query_scale is None else made * self.rotation.query_scale
        if self.after is not None:
            made = self.after.unscaled(made)
            made = made + self.after.bias if whole and self.after.bias is not None else made
        return made

    def _rotated(self, made: Float[Tensor, "*part batch n d_turned"]) -> Float[Tensor, "*part batch n d_turned"]:
        assert self.rotation is not None
        flat = made.reshape(-1, *made.shape[-3:]).to(torch.promote_types(made.dtype, self.rotation.cos.dtype))
        return rotate(flat, self.rotation).reshape(made.shape)

    def of(
        self, read: Float[Tensor, "*part batch n d_head"], whole: bool = False
    ) -> Float[Tensor, "*part batch n d_head"]:
        """The queries (keys, values) of parts of the stream that were read."""
        return self.turned(self.unturned(read, whole), whole)

    def of_stream(self, stream: Float[Tensor, "batch n d_model"]) -> Float[Tensor, "batch n d_head"]:
        """The linear part: what a part of the stream adds to the queries (keys, values)."""
        return self.of(self.reading.of(stream))

    def constant(self, like: Float[Tensor, "batch n d_model"]) -> Float[Tensor, "batch n d_head"]:
        """What biases add, at positions of a stream."""
        return self.of(self._read(torch.zeros_like(like)), whole=True)

    def whole(
        self, stream: Float[Tensor, "batch n d_model"], counts: Bool[Tensor, "batch n"], turned: bool = True
    ) -> Float[Tensor, "batch n d_head"]:
        """The queries (keys, values) of a whole stream, or what they are before they are turned.

        Raises:
            BadInput: they are clipped where they count.
        """
        read, aside = self._read(stream), self.read_aside
        made = self.unturned(read if aside is None else read + aside, whole=True)
        self.refuse_clipped(made, counts)
        return self.turned(made, whole=True) if turned else made

    def _read(self, stream: Float[Tensor, "batch n d_model"]) -> Float[Tensor, "batch n d_head"]:
        """A whole stream after the norm of the layer, times W."""
        read, bias = self.reading.of(stream), self.reading.bias
        return read if bias is None else read + bias.to(read)

    def pulled_back(
        self, stream: Float[Tensor, "batch n d_model"], onto: Float[Tensor, "batch n d_head"]
    ) -> Float[Tensor, "batch n d_model"]:
        """Directions whose products with parts of a stream are the products of `onto` with what is made of them."""
        return torch.func.vjp(self.of_stream, stream)[1](onto)[0]

    @property
    def read_aside(self) -> Float[Tensor, "batch n d_head"] | None:
        """What is read beside the stream, times W."""
        return None if self.beside is None else replace(self.reading, norms=()).of(self.beside)

    def refuse_clipped(self, made: Float[Tensor, "batch n d_head"], counts: Bool[Tensor, "batch n"]) -> None:
        """Raises BadInput if whole queries (keys, values), not yet turned, are clipped where they count."""
        if self.clip and self.after is None and bool((made[counts].abs() > self.clip * (1 + 1e-6)).any()):
            raise BadInput(
                f"this model clips queries, keys and values at {self.clip:g}, and does so here, so that they are no "
                "sum over parts of the stream"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadRun:
    """A run whose heads are to be read: its activations, who sees whom, and how positions turn queries and keys."""

    model: HookedTransformer
    run: Run
    cache: Decomposition

    @classmethod
    def of(cls, model: HookedTransformer, run: Run, last: int, *others: str) -> ReadRun:
        """What is needed up to a layer; `others` are the ends of the names of further hooks.

        Raises:
            BadInput: a model whose stream is not a sum of parts, or in which something is spliced.
        """
        ends, stream = (*BEFORE, *others), Stream(model)
        names = [name for name in model.hook_dict if name.endswith(ends) and stream.place(name).layer <= last]
        entry = [name for name in (*stream.embeddings, "hook_pos_embed") if name in model.hook_dict]
        recorded = record(model, run, dict.fromkeys([*entry, *names]))
        cache = Decomposition({name: precise(value) for name, value in recorded.items()}, model)
        return cls(model=model, run=run, cache=cache)

    @cached_property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """The position of every token, counted without padding."""
        return (self.run.real.long().cumsum(1) - 1).clamp(min=0).to(self.model.device)

    @cached_property
    def visibility(self) -> Visibility:
        """Which keys each query sees in a layer without a window."""
        length, real = self.run.tokens.shape[1], self.run.real.to(self.model.device)
        causal = self.model.cfg.attention_dir == "causal"
        return Visibility(length, length, causal, None if bool(real.all()) else real, self.positions)

    def visible(self, layer: int) -> Bool[Tensor, "batch query key"]:
        """Which keys each query of a layer sees."""
        seen = self.visibility.mask(self.model.cfg.window_at(layer))[:, 0]
        if self.model.cfg.indexer is not None:
            seen = seen & (self.cache[f"blocks.{layer}.attn.hook_index_choice"] > 0.5)
        return seen.expand(len(self.run.tokens), -1, -1)

    @cached_property
    def _rotations(self) -> list[Rotation | None]:
        if self.model.rotary is None:
            return [None] * self.model.cfg.n_layers
        return self.model.rotary(self.positions, torch.promote_types(self.model.dtype, torch.float32))

    def rotation(self, layer: int, pos: Slice, queries: bool) -> Rotation | None:
        """How a layer turns queries or keys at some positions, without the axis of heads."""
        rotation = self._rotations[layer]
        if rotation is None:
            return None
        rotation = rotation if queries else rotation._replace(query_scale=None)
        batch = len(self.positions)
        return rotation.each(lambda x: pos.apply(x.expand(batch, *x.shape[1:]), 1)).of_one_head()

    def input(self, layer: int, head: int, which: Composition, pos: Slice | None = None) -> HeadInput:
        """How a head makes its queries, keys or values at positions (default: at all).

        Raises:
            BadInput: there is no such head, its norm centres over all heads after the rotation, or its keys and values
                are those of an earlier layer.
        """
        pos = Slice() if pos is None else pos
        attn = (attention_of if which == "Q" else makes_keys)(self.model, layer)
        norms = norm_reading(self.cache, layer, False, pos)
        turns = None if which == "V" else self.rotation(layer, pos, which == "Q")
        if self.model.cfg.kv_latent:
            return self._latent(layer, head, which, pos, norms, turns)
        weight, bias = (precise(getattr(attn, f"{name}_{which}")) for name in ("W", "b"))
        if which == "V" and attn.value_scale != 1:
            weight, bias = weight * attn.value_scale, bias * attn.value_scale
        own = head * len(weight) // self.model.cfg.n_heads
        norm = self._head_norm(layer, which, own, pos)
        onto, added = weight[own], bias[own]
        of_all = which != "V" and self.model.cfg.qk_norm == "all_heads"
        if norm is not None and of_all and attn.q_norm.kind in CENTRED:
            if attn.norm_after_rotary:
                raise BadInput(
                    "the norm of queries and keys centres over all heads after the rotation in this model, so that no "
                    "head makes its queries alone"
                )
            onto, added = onto - weight.mean((0, 2))[:, None], added - bias.mean()
            norm = replace(norm, centres=False)
        after = norm is not None and which != "V" and attn.norm_after_rotary
        beside = self.model.cfg.positional_embedding_type == "shortformer" and which != "V"
        return HeadInput(
            reading=Reading(norms=norms, onto=onto),
            bias=added,
            before=None if after else norm,
            rotation=turns,
            after=norm if after else None,
            clip=attn.clip,
            beside=self.cache.at("hook_pos_embed", pos) if beside else None,
        )

    def _head_norm(self, layer: int, which: Composition, own: int, pos: Slice) -> FrozenNorm | None:
        """The norm of a head's queries, keys or values, if there is one."""
        name = f"{which.lower()}_norm"
        norm: Any = getattr(self.model.blocks[layer].attn, name)
        if norm.kind is None:
            return None
        scale = self.cache.at(f"blocks.{layer}.attn.{name}.hook_scale", pos)
        gain, bias = (x if x is None else x.detach() if x.ndim == 1 else x[own].detach() for x in (norm.gain, norm.b))
        scale = scale[..., min(own, scale.shape[-2] - 1), :]  # heads that are normalized together have one
        return FrozenNorm(scale=scale, centres=norm.kind in CENTRED, gain=gain, bias=bias)

    def _latent(
        self,
        layer: int,
        head: int,
        which: Composition,
        pos: Slice,
        norms: tuple[FrozenNorm, ...],
        turns: Rotation | None,
    ) -> HeadInput:
        """How a head with latent attention makes its queries, keys or values."""
        attn = attention_of(self.model, layer)
        turns = None if turns is None else turns._replace(query_scale=None)
        turned: dict[str, Any] = dict(rotation=turns, plain=attn.plain)
        if which == "Q" and not attn.q_latent:
            onto, bias = precise(self.model.whole(attn.W_Q)[head]), precise(self.model.whole(attn.b_Q)[head])
            return HeadInput(reading=Reading(norms=norms, onto=onto), bias=bias, **turned)
        latent, down, up = {"Q": ("q", "Q", "UQ"), "K": ("kv", "KV", "UK"), "V": ("kv", "KV", "UV")}[which]
        gain = precise(getattr(attn, f"{latent}_latent_norm").gain)
        through = gain[:, None] * precise(getattr(attn, f"W_{up}")[head])
        onto, bias = (precise(getattr(attn, f"{one}_D{down}")) @ through for one in ("W", "b"))
        scale = self.cache.at(f"blocks.{layer}.attn.{latent}_latent_norm.hook_scale", pos)
        if which == "K":  # the dimensions that turn are read from the stream itself
            onto, bias = torch.cat((onto, precise(attn.W_KR)), dim=1), torch.cat((bias, precise(attn.b_KR)))
            ones = torch.ones_like(scale).expand(-1, -1, len(attn.b_KR))
            scale = torch.cat((scale.expand(-1, -1, attn.plain), ones), dim=-1)
        return HeadInput(
            reading=Reading(norms=norms, onto=onto),
            bias=bias,
            scale=scale,
            offset=precise(attn.b_Q[head]) if which == "Q" else None,
            **({} if which == "V" else turned),
        )

    def split(
        self, layer: int, head: int, which: Composition, unit: Unit, pos: Slice, counts: Bool[Tensor, "batch n"]
    ) -> tuple[list[str], Float[Tensor, "part batch n d_head"]]:
        """The queries (keys, values) of the parts of the stream, and what the parts are called.

        Raises:
            BadInput: they are clipped where they count, or the stream is no sum of parts.
        """
        made = self.input(layer, head, which, pos)
        assert made.reading.onto is not None
        options: dict[str, Any] = dict(apply_ln=True, pos_slice=pos, return_labels=True)
        if unit == "component":
            parts, labels = self.cache.decompose_resid(layer, **options)
            read = parts @ made.reading.onto.to(parts)
        else:
            options |= dict(expand_neurons=unit == "neuron", project_output_onto=made.reading.onto)
            read, labels = self.cache.get_full_resid_decomposition(layer, **options)
        if labels[-1] == "bias":  # which holds the bias of the layer's norm
            labels, read, bias = labels[:-1], read[:-1], read[-1]
        else:
            bias = torch.zeros_like(read[0])
        if (aside := made.read_aside) is not None:
            labels, read = ["pos_embed", *labels], torch.cat((aside[None], read))
        rows, constant = made.unturned(read), made.unturned(bias, whole=True)
        made.refuse_clipped(rows.sum(0) + constant, counts)
        rows = torch.cat((made.turned(rows), made.turned(constant, whole=True)[None]))
        return (["whole"], rows.sum(0, keepdim=True)) if unit == "whole" else ([*labels, "bias"], rows)
