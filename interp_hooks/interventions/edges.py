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
from interp_hooks.interventions.runs import Intervention
from interp_hooks.interventions.sites import Here, Recordings, Site
from interp_hooks.model.stream import Stream, part_axis


class Edge:
    """An intervention with `into` while one run is computed: takes note at the sender, changes the reader.

    `parts` are the heads of the sender, or the features of a dictionary. `change` is what reaches readers, for each of
    those in the places `sent`: unless `every` one is asked for, those that change. Of many thousands of features few
    do, and only what these write is computed.
    """

    def __init__(
        self, stream: Stream, made: Intervention, recordings: Recordings, first: int, *, every: bool = False
    ) -> None:
        self.stream, self.made, self.recordings, self.first = stream, made, recordings, first
        self.every = every
        self.change: Float[Tensor, "batch pos sent d_model"] | None = None
        self.parts: list[int] = []
        self.sent: list[int] = []
        self._before: tuple[Tensor, Tensor] | None = None

    def send(self, value: Tensor, point: HookPoint) -> None:
        """At the sender: what it writes here, and what it writes in the source."""
        new = value.clone()
        Intervention(self.made.site, self.made.source).write(new, point, self.recordings, self.first)
        self.parts = _parts(self.made.site, point)
        self.sent = list(range(len(self.parts)))
        if self.stream.scale_of(point.name) is None:
            difference = new - value
            if not (self.every or part_axis(point) is None or difference.requires_grad):
                moved = difference[:, :, self.parts].movedim(2, 0).flatten(1).any(1)
                self.sent = moved.nonzero()[:, 0].tolist()
            self.change = self.stream.added(point.name, difference, [self.parts[place] for place in self.sent])
        else:
            self._before = (new, value.clone())

    def send_normalized(self, scale: Tensor, point: HookPoint) -> None:
        """At the norm after the heads: the shares of the heads that have been noted down."""
        assert self._before is not None
        new, old = self._before
        sender, parts = self.stream.place(self.made.site.hook).point, self.parts
        new_scale = self._scale_elsewhere(scale, point)
        chosen = torch.zeros_like(new, dtype=torch.bool)
        chosen[self.made.site.index(sender, chosen, self.first)] = True
        after = self.stream.added(sender.name, new, parts, new_scale)
        shares = after - self.stream.added(sender.name, old, parts, scale)
        self.change = torch.where(chosen.any(-1, keepdim=True)[:, :, parts], shares, 0.0)

    def _scale_elsewhere(self, scale: Tensor, point: HookPoint) -> Tensor:
        """The norm's scale in the run that the source takes values from; a constant is normalized as this run is."""
        source = self.made.puts
        if not source.has_scales:
            return scale
        site = Site(hook=point.name)
        return source.put(Here(point=point, site=site, whole=scale, first=self.first, recordings=self.recordings))

    def receive(self, value: Tensor, point: HookPoint) -> Bool[Tensor, ""]:
        """At the reader: change its input; whether that made a difference.

        Raises:
            BadInput: the pass came by the reader before the sender, or a mask does not fit.
        """
        assert self.made.into is not None
        if self.change is None:
            raise BadInput(f"{point.name} reads the stream before {self.made.site.hook} writes to it")
        heads = _parts(self.made.into, point)
        weight = self._weight(len(heads), value)
        received = torch.einsum("bpsd,sr->bprd", self.change.to(value), weight)
        chosen = torch.zeros(value.shape[:2], dtype=torch.bool, device=value.device)
        positions = Site(hook=point.name, select={k: v for k, v in self.made.into.select.items() if k == "pos"})
        chosen[positions.index(point, value, self.first)[:2]] = True
        received = torch.where(chosen[..., None, None], received, 0.0)
        if part_axis(point) is None:
            heads, received = slice(None), received[:, :, 0]
        before = value[:, :, heads]
        after = before + received
        changed = (after != before).any()
        value[:, :, heads] = after
        return changed

    def _weight(self, readers: int, like: Tensor) -> Float[Tensor, "sent reader"]:
        mask = torch.as_tensor(1.0 if self.made.mask is None else self.made.mask, dtype=like.dtype, device=like.device)
        shape = (len(self.parts), readers)
        try:
            return mask.expand(shape)[self.sent]
        except RuntimeError as error:
            raise BadInput(
                f"mask of the edge from {self.made.site.hook} has shape {list(mask.shape)}; expected a number or "
                f"[sender's heads, reader's heads] = {list(shape)}"
            ) from error


def _parts(site: Site, point: HookPoint) -> list[int]:
    """The heads that a site selects (or features, of a dictionary); [0] where the hook has none.

    Raises:
        BadInput: another axis than heads and positions is selected, heads of each prompt's own, or one twice.
    """
    axis = part_axis(point)
    n_parts = 1 if axis is None else point.sizes[axis]
    wanted: Any = tuple(range(n_parts)) if axis is None else site.select.get(axis, tuple(range(n_parts)))
    if isinstance(wanted, Tensor) or set(site.select) - {axis, "pos"}:
        raise BadInput(
            f"an edge's ends are selected by {axis or 'head'}= (an int or a list) and pos=, got {dict(site.select)} "
            f"for {site.hook}"
        )
    listed = [wanted] if isinstance(wanted, int) else list(wanted)
    if outside := [part for part in listed if not -n_parts <= part < n_parts]:
        raise BadInput(f"{axis}={outside[0]} is out of range: {point.name} has {n_parts} along {axis}")
    parts = [part % n_parts for part in listed]
    if len(set(parts)) < len(parts):
        raise BadInput(f"{axis}={listed} names a {axis} of {point.name} twice")
    return parts
