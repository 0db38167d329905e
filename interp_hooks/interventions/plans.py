"""What each run has to compute for itself, and which runs can be computed together.

layer    the first layer that it touches: what comes before is as in its prompt left alone
known    of that layer, what its interventions come after: the mixing of heads ("z"), what the MLP adds ("mlp_out")
first    the first position that it touches, in a causal model
late     whether it touches the last layer (1) or what comes after it (2), which then cannot be cut to what is read
reaches  whether it can change what is read at all
extra    how many numbers for each token it needs since its hooks are used
changes  whether it may put anything at its sites that is not there anyway
asks     whether that has to be seen from what is there, as it is recorded
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_hooks.hooks.points import POSITIONS
from interp_hooks.interventions.readout import Readout
from interp_hooks.interventions.runs import Intervention, Recorded, Run, masked
from interp_hooks.interventions.sites import Here, Recordings, Site
from interp_hooks.model.stream import Place, Stream
from interp_hooks.model.transformer import HookedTransformer

PREFIXES = 8  # first positions are rounded down to so many different ones, so that more runs can be stacked


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, and what of it has to be computed; see above."""

    run: Run
    layer: int
    first: int = 0
    known: frozenset[str] = frozenset()
    late: int = 0
    norms: frozenset[str] = frozenset()
    reaches: bool = True
    changes: bool = True
    asks: bool = False
    extra: int = 0

    @property
    def joins(self) -> int:
        """The layer at which it can be stacked with runs that have come from earlier ones."""
        return self.layer + bool(self.known)


def attached(model: HookedTransformer) -> bool:
    """Whether functions or modules are attached to a model, beside those that an experiment brings."""
    return any(point.hooked for point in model.hook_points())


class Planner:
    """Makes plans of runs for a model and a readout.

    Where something else is attached to the model, whole layers are computed, at all positions: other hooks count
    positions from 0 and want to see every value.
    """

    def __init__(self, model: HookedTransformer, readout: Readout) -> None:
        self.model, self.readout, self.stream = model, readout, Stream(model)
        self.alone = not attached(model)
        self.spliced = not self.alone and bool(model.splices)
        self.causal = self.alone and model.cfg.attention_dir == "causal" and self.stream.keeps_keys
        self.watched_at_the_end = self.stream.watched_at_the_end
        self._reads: dict[Any, list[int]] = {}
        self._masks: dict[Any, Tensor | None] = {}
        self._shared: dict[Any, int] = {}

    def settled(self, run: Run) -> Run:
        """A run with the mask of its real tokens, if some are not, and positions that count from the first column."""
        if run.prompt_key not in self._masks:
            mask = masked(self.model, run).attention_mask
            self._masks[run.prompt_key] = None if mask is None or bool(mask.all()) else mask
        mask = self._masks[run.prompt_key]
        if mask is None:
            return run  # whoever counts back in such a run counts from its last column
        real = mask.to(run.tokens.device).bool()
        return Run(run.tokens, [made.counted_back(real) for made in run.interventions], mask)

    def plan(self, run: Run) -> Plan:
        """What a run has to compute.

        Raises:
            UnknownHook, BadInput: a site that does not exist or cannot be one.
        """
        run, n_layers = self.settled(run), self.model.cfg.n_layers
        places = [place for made in run.interventions for place in self.places(made)]
        layer = min((place.layer for place in places), default=n_layers)
        last = max((place.layer for place in places), default=-1)
        if self.spliced:  # what enters the final norm may come from a module, and is shown by no hook
            layer = min(layer, n_layers - 1)
        layer = layer if self.alone and not self.stream.carries else self.stream.starts(layer)
        reads = self._positions_read(run)
        cut = reads is not None and bool(places) and last < n_layers
        if cut and self.causal and reads is not None and self._cannot_reach(run, reads):
            return Plan(run=run, layer=n_layers, reaches=False)
        if self.causal and run.interventions and all(self._has_it_anyway(run, made) for made in run.interventions):
            return Plan(run=run, layer=n_layers, reaches=False, changes=False)
        return Plan(
            run=run,
            layer=layer,
            first=self._first_position(run, min(reads or [0])) if cut and self.causal else 0,
            known=self._untouched(layer, places),
            late=2 if self.watched_at_the_end else max(0, last - n_layers + 2),
            norms=frozenset(place.point.name for place in places if place.before_mixing),
            asks=self.alone and bool(run.interventions) and all(self._asks(run, made) for made in run.interventions),
            extra=sum(self._numbers_at(place, run.tokens.shape[1]) for place in dict.fromkeys(places)),
        )

    def _numbers_at(self, place: Place, length: int) -> int:
        """How many numbers for each token are there only because a hook is used: patterns, scores, values per head."""
        if place.looks:
            return 4 * self.model.cfg.n_heads * length
        sizes = place.point.sizes
        return 2 * sizes["head"] * sizes["d_model"] if {"head", "d_model"} <= sizes.keys() else 0

    def places(self, made: Intervention) -> list[Place]:
        """The hooks that an intervention touches."""
        site = self.stream.place(made.site.hook)
        if made.into is None:
            return [site]
        into = self.stream.place(made.into.hook)
        self.stream.check_edge(site.point.name, into.point.name)
        scale = self.stream.scale_of(site.point.name)
        return [site, into] if scale is None else [site, into, self.stream.place(scale)]

    def _has_it_anyway(self, run: Run, made: Intervention) -> bool:
        """Whether an intervention puts, from another run, the values that this run has there itself.

        In a causal model that is so at the tokens with which the prompts of both runs begin.
        """
        other, place = made.puts, self.stream.place(made.site.hook)
        elsewhere = made.into is not None or place.layer == self.model.cfg.n_layers
        if not isinstance(other, Run) or elsewhere or made.learns:
            return False
        touched = made.site.positions(place.point, run.tokens.shape[1])
        return touched is not None and int(touched.max()) < self._shared_beginning(run, other)

    def _shared_beginning(self, run: Run, other: Run) -> int:
        """Of how many first positions all activations of another run are those of this one's prompts left alone."""
        key = (run.prompt_key, other.key)
        if key not in self._shared:
            length, other = run.tokens.shape[1], self.settled(other)
            sites = [made.site for made in other.interventions]
            touched = [site.first_position(self.stream.place(site.hook).point, length) for site in sites]
            same = 0
            if run.tokens.shape == other.tokens.shape:
                equal = ((run.tokens == other.tokens) & (run.real == other.real)).all(0)
                same = int(equal.long().cumprod(0).sum())
            self._shared[key] = min(same, *touched, length)
        return self._shared[key]

    def _asks(self, run: Run, made: Intervention) -> bool:
        """Whether an intervention puts recorded activations at some positions, which may be those that are there."""
        place = self.stream.place(made.site.hook)
        inside = made.into is None and place.layer < self.model.cfg.n_layers
        some = made.site.positions(place.point, run.tokens.shape[1]) is not None
        return isinstance(made.puts, Recorded) and inside and some and not made.learns

    def answered(self, plan: Plan, recordings: Recordings) -> Plan:
        """The same plan, or that of a run that does nothing: it puts, of recorded activations, what is there anyway.

        Raises:
            BadInput, UnknownHook: the activations are none of such prompts, or lack the hook.
        """
        if not plan.asks or not all(self._puts_the_same(plan.run, made, recordings) for made in plan.run.interventions):
            return plan
        return Plan(run=plan.run, layer=self.model.cfg.n_layers, reaches=False, changes=False)

    def _puts_the_same(self, run: Run, made: Intervention, recordings: Recordings) -> bool:
        """Whether an intervention puts, at positions with which all prompts begin, the very values of this run."""
        point = self.stream.place(made.site.hook).point
        key = (run.prompt_key, made.puts.key, point.name)
        if key not in self._shared:
            own = recordings.runs[run.left_alone().key][point.name]
            here = Here(point=point, site=Site(hook=point.name), whole=own, first=0, recordings=recordings)
            along = next(dim for dim, axis in enumerate(point.axes) if axis in POSITIONS)
            equal = (made.puts.put(here) == own).movedim(along, 0).flatten(1).all(1)
            self._shared[key] = int(equal.long().cumprod(0).sum())
        touched = made.site.positions(point, run.tokens.shape[1])
        return touched is not None and int(touched.max()) < self._shared[key]

    def _untouched(self, layer: int, places: Sequence[Place]) -> frozenset[str]:
        """What of its first layer a run takes over from its prompt left alone."""
        stages = [place.stage for place in places if place.layer == layer]
        return self.stream.untouched(layer, stages) if self.alone else frozenset()

    def _positions_read(self, run: Run) -> list[int] | None:
        """The position that the metric reads of each prompt; None: all of them."""
        if self.readout.pos is None:
            return None
        if run.prompt_key not in self._reads:
            self._reads[run.prompt_key] = self.readout.positions(run)[:, 0].tolist()
        return self._reads[run.prompt_key]

    def _first_position(self, run: Run, read_from: int) -> int:
        """A position before which a run neither changes anything nor is read."""
        length = run.tokens.shape[1]
        sites = [made.site for made in run.interventions]
        sites += [made.into for made in run.interventions if made.into is not None and "pos" in made.into.select]
        touched = [site.first_position(self.stream.place(site.hook).point, length) for site in sites]
        step = -(-length // PREFIXES)
        return max(0, min(*touched, read_from)) // step * step

    def _cannot_reach(self, run: Run, reads: list[int]) -> bool:
        """Whether a run with a single intervention leaves the positions that are read as they are."""
        if len(run.interventions) != 1 or run.interventions[0].into is not None:
            return False
        (made,) = run.interventions
        place, length = self.stream.place(made.site.hook), run.tokens.shape[1]
        if made.site.first_position(place.point, length) > max(reads):
            return True
        if place.layer != self.model.cfg.n_layers - 1 or not place.stays:
            return False
        wanted = next((made.site.select[axis] for axis in ("pos", "query") if axis in made.site.select), None)
        if wanted is None:
            return False
        touched = torch.as_tensor(wanted)
        touched = torch.where(touched < 0, touched + length, touched)
        read = torch.tensor(reads)
        own = isinstance(wanted, Tensor) and len(wanted) == len(read)
        here = touched.reshape(len(read), -1) == read[:, None] if own else torch.isin(read, touched)
        return not bool(here.any())


def batches(model: HookedTransformer, plans: Sequence[Plan], readout: Readout, max_memory: int) -> Iterator[list[int]]:
    """Which runs to compute together, in the order in which they join: as many on one prompt as fit."""
    groups: dict[Any, list[int]] = defaultdict(list)
    carries_positions = model.cfg.positional_embedding_type == "shortformer"  # from the embeddings to every layer
    for place, plan in enumerate(plans):
        whole = carries_positions and plan.layer < 0
        groups[plan.run.prompt_key, plan.first, plan.late, plan.norms, whole].append(place)
    for places in groups.values():
        places.sort(key=lambda place: (plans[place].joins, sorted(plans[place].known)))
        together = _that_fit(model, [plans[place] for place in places], readout, max_memory)
        for start in range(0, len(places), together):
            yield places[start : start + together]


def _that_fit(model: HookedTransformer, plans: Sequence[Plan], readout: Readout, max_memory: int) -> int:
    """How many of some runs on one prompt can be computed at once; at least one.

    Counted are, at its widest, the layer of a run (the stream and its norm beside queries, keys, values and outputs of
    heads, or beside an MLP with its activation function), its logits, and what a metric makes of those of one run.
    """
    cfg, (batch, length), first = model.cfg, plans[0].run.tokens.shape, min(plan.first for plan in plans)
    heads, keys = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
    looks = 4 * cfg.n_heads * length if cfg.attn_scores_soft_cap > 0 else 0
    if cfg.indexer is not None and length > cfg.indexer.top_k:
        looks += 4 * cfg.indexer.n_heads * length
    attention = 3 * cfg.d_model + 3 * heads + 4 * keys + max(looks, *(plan.extra for plan in plans))
    mlp = 4 * cfg.d_model + (5 if cfg.gated_mlp else 4) * cfg.d_mlp
    run = (length - first) * max(attention, mlp) + 3 * first * keys
    read, one = (1 if readout.pos is not None else length), 0
    if readout.tokens is not None:
        run += read * readout.tokens.shape[1] * cfg.d_model
    elif readout.on_demand or readout.next_tokens:
        one = 4 * read * cfg.d_vocab_out
    else:
        run, one = run + read * cfg.d_vocab_out, 4 * read * cfg.d_vocab_out
    size = torch.finfo(model.dtype).bits // 8
    return max(1, (max_memory // (batch * size) - one) // run)
