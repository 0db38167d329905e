"""Edges: what one part of the model adds to the stream, changed for one of its readers alone.

    reader's input += mask * (what the sender adds to the stream in the source - what it adds in this run)

A sender is the embeddings, a head, an attention layer or an MLP; a reader is the input of queries, keys, values or an
MLP, or the final stream. Both of a layer's heads may be many: `mask` is [sender's heads, reader's heads]. Where the sum
of the heads is normalized before it is added (`ln1_post`), a head's share is that under the norm's scale in the same
run, with an equal part of the biases, so that the shares of all heads sum to what is added.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.runs import Intervention, Mean, Recordings
from interp_hooks.interventions.sites import Site
from interp_hooks.model.cache.decomposition import embeddings
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.transformer import HookedTransformer

SENDERS = ("attn.hook_z", "hook_attn_out", "hook_mlp_out")
ATTENTION_INPUTS = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in")
READERS = (*ATTENTION_INPUTS, "hook_mlp_in")


def check_edge(model: HookedTransformer, sender: str, reader: str) -> None:
    """Refuse hooks, by their full names, that cannot be the ends of an edge of this model.

    Raises:
        BadInput: what is not added to the stream, what does not read it, or a stream that is not a sum.
    """
    if model.cfg.norm_placement == "post":
        raise BadInput("this model normalizes the stream itself (post-norm), so it is no sum of what parts add to it")
    entry = "blocks.0.hook_resid_pre"
    summands = embeddings(model) if model.cfg.embed_norm_type is None else []
    if sender not in (entry, *summands) and not sender.endswith(SENDERS):
        raise BadInput(
            f"{sender} cannot send to one reader alone. Senders are what is added to the stream: z, attn_out or "
            f"mlp_out of a layer, {', '.join((entry, *summands))} for the embeddings"
        )
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    if reader != last and not reader.endswith(READERS):
        raise BadInput(
            f"{reader} cannot be what an edge leads into. Readers are what reads the stream: q_input, k_input, v_input "
            f"or mlp_in of a layer, or {last} for the final stream"
        )


def scale_hook(model: HookedTransformer, sender: str) -> str | None:
    """The hook of the norm's scale that a head's share depends on, if there is one."""
    hook = sender.replace("attn.hook_z", "ln1_post.hook_scale")
    return hook if hook != sender and hook in model.hook_dict else None


class Edge:
    """An intervention with `into` while one run is computed: takes note at the sender, changes the reader.

    `change` is what reaches readers, for each head of the sender.
    """

    def __init__(self, model: HookedTransformer, made: Intervention, recordings: Recordings, first: int) -> None:
        self.model, self.made, self.recordings, self.first = model, made, recordings, first
        self.change: Float[Tensor, "batch pos sender d_model"] | None = None
        self._before: tuple[Tensor, Tensor] | None = None

    def send(self, value: Tensor, point: HookPoint) -> None:
        """At the sender: what it writes here, and what it writes in the source."""
        new = value.clone()
        Intervention(self.made.site, self.made.source).write(new, point, self.recordings, self.first)
        if "head" not in point.axes:
            self.change = (new - value)[:, :, None]
        elif scale_hook(self.model, point.name) is None:
            block = self.model.blocks[point.layer()]
            heads = _heads(self.made.site, point)
            written = torch.einsum("bphk,hkd->bphd", (new - value)[:, :, heads], block.attn.W_O[heads])
            self.change = written if block.residual_scale == 1 else written * block.residual_scale
        else:
            self._before = (new, value.clone())

    def send_normalized(self, scale: Tensor, point: HookPoint) -> None:
        """At the norm after the heads: the shares of the heads that have been noted down."""
        assert self._before is not None
        new, old = self._before
        layer, source = point.layer(), self.made.source
        own_scale = not isinstance(source, int | float | Tensor | Mean)  # a constant is normalized as the run is
        new_scale = self.made.elsewhere(point, self.recordings, scale, self.first) if own_scale else scale
        heads = _heads(self.made.site, self.model.blocks[layer].attn.hook_z)
        chosen = torch.zeros_like(new, dtype=torch.bool)
        chosen[self.made.site.index(self.model.blocks[layer].attn.hook_z, chosen, self.first)] = True
        shares = self._shares(layer, new, new_scale) - self._shares(layer, old, scale)
        self.change = torch.where(chosen.any(-1, keepdim=True), shares, 0.0)[:, :, heads]

    def _shares(self, layer: int, z: Tensor, scale: Tensor) -> Float[Tensor, "batch pos head d_model"]:
        """What each head adds to the stream when the norm divides by `scale`."""
        block = self.model.blocks[layer]
        written = torch.einsum("bphk,hkd->bphd", z, block.attn.W_O) + block.attn.b_O / z.shape[2]
        return FrozenNorm.of(block.ln1_post, scale[:, :, None])(written) * block.residual_scale

    def receive(self, value: Tensor, point: HookPoint) -> Bool[Tensor, ""]:
        """At the reader: change its input; whether that made a difference.

        Raises:
            BadInput: the pass came by the reader before the sender, or a mask does not fit.
        """
        assert self.made.into is not None
        if self.change is None:
            raise BadInput(f"{point.name} reads the stream before {self.made.site.hook} writes to it")
        heads = _heads(self.made.into, point)
        weight = self._weight(len(heads), value)
        received = torch.einsum("bpsd,sr->bprd", self.change.to(value), weight)
        chosen = torch.zeros(value.shape[:2], dtype=torch.bool, device=value.device)
        positions = Site(hook=point.name, select={k: v for k, v in self.made.into.select.items() if k == "pos"})
        chosen[positions.index(point, value, self.first)[:2]] = True
        received = torch.where(chosen[..., None, None], received, 0.0)
        if "head" not in point.axes:
            heads, received = slice(None), received[:, :, 0]
        before = value[:, :, heads]
        after = before + received
        changed = (after != before).any()
        value[:, :, heads] = after
        return changed

    def _weight(self, readers: int, like: Tensor) -> Float[Tensor, "sender reader"]:
        assert self.change is not None
        mask = torch.as_tensor(1.0 if self.made.mask is None else self.made.mask, dtype=like.dtype, device=like.device)
        shape = (self.change.shape[2], readers)
        try:
            return mask.expand(shape)
        except RuntimeError as error:
            raise BadInput(
                f"mask of the edge from {self.made.site.hook} has shape {list(mask.shape)}; expected a number or "
                f"[sender's heads, reader's heads] = {list(shape)}"
            ) from error


def _heads(site: Site, point: HookPoint) -> list[int]:
    """The heads that a site selects; 0 where the hook has none.

    Raises:
        BadInput: another axis than heads and positions is selected, heads of each prompt's own, or one twice.
    """
    n_heads = point.sizes["head"] if "head" in point.axes else 1
    wanted: Any = site.select.get("head", tuple(range(n_heads)))
    if isinstance(wanted, Tensor) or set(site.select) - ({"head", "pos"} & set(point.axes)):
        raise BadInput(
            f"an edge's ends are selected by head= (an int or a list) and pos=, got {dict(site.select)} for {site.hook}"
        )
    listed = [wanted] if isinstance(wanted, int) else list(wanted)
    if outside := [head for head in listed if not -n_heads <= head < n_heads]:
        raise BadInput(f"head={outside[0]} is out of range: {point.name} has {n_heads} along head")
    heads = [head % n_heads for head in listed]
    if len(set(heads)) < len(heads):
        raise BadInput(f"head={listed} names a head of {point.name} twice")
    return heads
