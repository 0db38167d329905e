"""What each run has to compute for itself, and which runs can be computed together.

layer    the first layer that it touches: what comes before is as in its prompt left alone
known    of that layer, what its interventions come after: the mixing of heads ("z"), what the MLP adds ("mlp_out")
first    the first position that it touches, in a causal model
late     whether it touches the last layer (1) or what comes after it (2), which then cannot be cut to what is read
reaches  whether it can change what is read at all
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.edges import check_edge, scale_hook
from interp_hooks.interventions.readout import Readout
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.model.transformer import HookedTransformer

AFTER_BLOCKS = ("ln_final.", "mlm_head.", "unembed.")
PREFIXES = 8  # first positions are rounded down to so many different ones, so that more runs can be stacked

# Hooks of a block by what comes before them, as the starts of their names within the block.
AFTER_Z = ("attn.hook_z", "attn.hook_result", "ln1_post.", "hook_attn_out", "hook_resid_mid")
MLP = ("hook_mlp_in", "ln2.", "mlp.", "ln2_post.")
AFTER_MLP = ("hook_mlp_out", "hook_resid_post", "hook_normalized_resid_post")
OF_QUERIES = ("hook_q_input", "attn.hook_q", "attn.hook_rot_q", "attn.hook_attn_scores", "attn.hook_pattern")
AT_ITS_POSITION = (*AFTER_Z, *MLP, *AFTER_MLP, *OF_QUERIES)  # what reaches other positions through later layers alone


def is_after_blocks(hook: str) -> bool:
    """Whether a hook, by its full name, comes after the last block."""
    return hook.startswith(AFTER_BLOCKS)


class Place(NamedTuple):
    """A hook that a run touches: its point, its layer (-1 before the blocks, n_layers after), its name in the block."""

    point: HookPoint
    layer: int
    name: str


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
    looked_at: bool = False

    @property
    def joins(self) -> int:
        """The layer at which it can be stacked with runs that have come from earlier ones."""
        return self.layer + bool(self.known)


class Planner:
    """Makes plans of runs for a model and a readout.

    Where something else is attached to the model, whole layers are computed, at all positions: other hooks count
    positions from 0 and want to see every value.
    """

    def __init__(self, model: HookedTransformer, readout: Readout) -> None:
        self.model, self.readout = model, readout
        self.alone = not any(point.hooked for point in model.hook_points())
        self.causal = self.alone and model.cfg.attention_dir == "causal"
        self.watched_at_the_end = any(point.hooked for point in model.hook_points() if is_after_blocks(point.name))
        self._places: dict[str, Place] = {}
        self._reads: dict[Any, list[int]] = {}

    def plan(self, run: Run) -> Plan:
        """What a run has to compute.

        Raises:
            UnknownHook, BadInput: a site that does not exist or cannot be one.
        """
        n_layers = self.model.cfg.n_layers
        places = [place for made in run.interventions for place in self.places(made)]
        layer = min((place.layer for place in places), default=n_layers)
        last = max((place.layer for place in places), default=-1)
        reads = self._positions_read(run)
        cut = reads is not None and bool(places) and last < n_layers
        if cut and self.causal and reads is not None and self._cannot_reach(run, reads):
            return Plan(run=run, layer=n_layers, reaches=False)
        return Plan(
            run=run,
            layer=layer,
            first=self._first_position(run, min(reads or [0])) if cut and self.causal else 0,
            known=self._known([place.name for place in places if place.layer == layer], layer),
            late=2 if self.watched_at_the_end else max(0, last - n_layers + 2),
            norms=frozenset(place.point.name for place in places if place.name.startswith("ln1.")),
            looked_at=any(place.name.endswith(("hook_pattern", "hook_attn_scores")) for place in places),
        )

    def places(self, made: Intervention) -> list[Place]:
        """The hooks that an intervention touches."""
        site = self.place(made.site.hook)
        if made.into is None:
            return [site]
        into = self.place(made.into.hook)
        check_edge(self.model, site.point.name, into.point.name)
        scale = scale_hook(self.model, site.point.name)
        return [site, into] if scale is None else [site, into, self.place(scale)]

    def place(self, hook: str) -> Place:
        """Where a hook is, by its full or short name."""
        if hook not in self._places:
            point = self.model.points(hook)[0]
            if point.name.startswith("blocks."):
                layer = point.layer()
                self._places[hook] = Place(point, layer, point.name.removeprefix(f"blocks.{layer}."))
            else:
                layer = self.model.cfg.n_layers if is_after_blocks(point.name) else -1
                self._places[hook] = Place(point, layer, point.name)
        return self._places[hook]

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
        touched = [site.first_position(self.place(site.hook).point, length) for site in sites]
        step = -(-length // PREFIXES)
        return max(0, min(*touched, read_from)) // step * step

    def _known(self, names: Sequence[str], layer: int) -> frozenset[str]:
        """What of a layer comes before everything that is touched in it."""
        if not self.alone or not 0 <= layer < self.model.cfg.n_layers:
            return frozenset()
        parallel, known = self.model.cfg.parallel_attn_mlp, set[str]()
        if all(name.startswith((*AFTER_Z, *MLP, *AFTER_MLP)) for name in names):
            known.add("z")
        if all(name.startswith((*AFTER_MLP, *(AFTER_Z if parallel else ()))) for name in names):
            known.add("mlp_out")
        return frozenset(known if "z" in known and not self.model.cfg.attn_only else known - {"mlp_out"})

    def _cannot_reach(self, run: Run, reads: list[int]) -> bool:
        """Whether a run with a single intervention leaves the positions that are read as they are."""
        if len(run.interventions) != 1 or run.interventions[0].into is not None:
            return False
        (made,) = run.interventions
        place, length = self.place(made.site.hook), run.tokens.shape[1]
        if made.site.first_position(place.point, length) > max(reads):
            return True
        if place.layer != self.model.cfg.n_layers - 1 or not place.name.startswith(AT_ITS_POSITION):
            return False
        wanted = next((made.site.select[axis] for axis in ("pos", "query") if axis in made.site.select), None)
        if wanted is None:
            return False
        touched = torch.as_tensor(wanted)
        touched = torch.where(touched < 0, touched + length, touched)
        read = torch.tensor(reads)
        here = touched == read if isinstance(wanted, Tensor) and len(wanted) == len(read) else torch.isin(read, touched)
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
        together = max(1, int(max_memory // _bytes(model, [plans[place] for place in places], readout)))
        for start in range(0, len(places), together):
            yield places[start : start + together]


def _bytes(model: HookedTransformer, plans: Sequence[Plan], readout: Readout) -> int:
    """Roughly what one of these runs needs at its widest: an MLP, a looked-at pattern, or logits."""
    cfg, (batch, length) = model.cfg, plans[0].run.tokens.shape
    looked_at = any(plan.looked_at for plan in plans)
    per_token = 10 * cfg.d_model + 3 * cfg.d_mlp + (4 * cfg.n_heads * length if looked_at else 0)
    logits = (1 if readout.pos is not None else length) * (cfg.d_vocab_out if readout.tokens is None else 1)
    return batch * (length * per_token + 2 * logits) * torch.finfo(model.dtype).bits // 8
