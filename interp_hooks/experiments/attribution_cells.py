"""The cells of attribution patching at a site, and what patching each of them changes, to first order or beyond.

A change is a linear function of the metric's gradient at one hook. For most sites that hook is the site's own, and the
change the difference of both runs. With `qk_fix`, queries and keys are computed up to the pattern, and the gradient is
that of the pattern (Kramar, Lieberum, Shah and Nanda 2024, arxiv.org/abs/2403.00745).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.experiments.differentiable import Hooks
from interp_hooks.experiments.gradients import difference, summed
from interp_hooks.experiments.patching import Grid, grid_of
from interp_hooks.hooks.names import get_act_name, short_name
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.prompts import select_of
from interp_hooks.interventions.runs import Run
from interp_hooks.interventions.sites import Recording, Site
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

QUERIES, KEYS = ("q", "rot_q", "q_input"), ("k", "rot_k", "k_input")  # sites that act through the pattern alone
PATTERNS = ("attn_scores", "pattern")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A site: its cells, its hook point in every layer of them, and whether the patched pattern is computed."""

    stream: Stream
    grid: Grid
    run: Run
    points: Sequence[HookPoint]
    fixed: bool

    def of_prompts(self, run: Run, rows: slice) -> Plan:
        """The same for some of the prompts, of which there is a run."""
        fixed, named = (select_of(one, rows) for one in (self.grid.fixed, self.grid.named))
        return replace(self, run=run, grid=replace(self.grid, fixed=fixed, named=named))

    @property
    def kept(self) -> list[str]:
        """Of what the activations or gradients are needed in the run that is patched."""
        layers = [point.layer() for point in self.points] if self.fixed else []
        starts = [start for start in map(self.stream.starts, layers) if start >= 0]
        inside = [*map(self.stream.entering, starts), *(get_act_name("pattern", layer) for layer in layers)]
        return [*(point.name for point in self.points), *inside]

    def summed(self, effects: Tensor, axes: Sequence[str], prompts: int) -> Float[Tensor, "*grid prompt"]:
        """Effects [batch, ...] of one layer, summed within cells; over prompts too, if they have one score together."""
        over = [axis for axis in self.grid.labels if axis != "layer"]
        if "position" not in over:
            return summed(effects * self._chosen(self.grid.fixed, effects, axes), axes, over, prompts)
        others = [axis for axis in over if axis != "position"]
        named = [self.grid.selected(position=name) for name in self.grid.labels["position"]]
        found = [summed(effects * self._chosen(selected, effects, axes), axes, others, prompts) for selected in named]
        return torch.stack(found).movedim(0, over.index("position"))

    def _chosen(self, selected: Mapping[str, Any], effects: Tensor, axes: Sequence[str]) -> Tensor | float:
        """1 at the part of the hook that is selected and 0 elsewhere, along the axes of its effects."""
        if not selected:
            return 1.0
        point = self.points[0]
        chosen = effects.new_zeros([effects.shape[axes.index(axis)] if axis in axes else 1 for axis in point.axes])
        site = Site(hook=point.name, select=selected).counted_back(self.run.real)
        chosen[site.index(point, chosen)] = 1
        absent = [dim for dim, axis in enumerate(point.axes) if axis not in axes]
        ordered = chosen.permute(*(point.axes.index(axis) for axis in axes), *absent)
        return ordered.reshape(ordered.shape[: len(axes)])  # what is absent has size 1


def plan_of(
    model: HookedTransformer, site: str, over: Sequence[str], run: Run, qk_fix: bool, where: Mapping[str, Any]
) -> Plan:
    """A site's plan, checked."""
    grid = grid_of(model, run, site, over, **where)
    points = model.points([get_act_name(site, layer) for layer in grid.labels["layer"]])
    axes, known = [*grid.labels, *grid.fixed], ("layer", "pos", "position", "head")
    if absent := [axis for axis in grid.fixed if axis not in points[0].axes]:
        raise BadInput(
            f"{points[0].name} has the axes {', '.join(points[0].axes)}; there is no {absent[0]!r} to select"
        )
    fixed, at_once = qk_fix and short_name(points[0].name) in QUERIES + KEYS, grid.fixed.get("pos", 0)
    if fixed and short_name(points[0].name) in KEYS and not isinstance(at_once, int | Tensor):
        raise BadInput(f"qk_fix takes keys one by one: select a single position of {site!r}, or sweep over them")
    if fixed and (parts := [axis for axis in axes if axis not in known]):
        raise BadInput(f"qk_fix is about whole queries and keys: leave {', '.join(parts)} out of over for {site!r}")
    if fixed and "head" in axes and model.cfg.qk_norm == "all_heads":
        raise BadInput(
            f"this model normalizes queries and keys over all heads together, so that {site!r} of one head changes the "
            "scores of all, and qk_fix takes them one by one: leave 'head' out of over, or use patch"
        )
    return Plan(stream=Stream(model), grid=grid, run=run, points=points, fixed=fixed)


# --------------------------------------------------------------------------------------------------- what changes


@dataclass(frozen=True, kw_only=True)
class Change:
    """What patching one layer does: to first order, `effect` of the gradient at `hook`, a tensor with these axes."""

    hook: str
    axes: tuple[str, ...]
    effect: Callable[[Tensor], Tensor]


def changes_of(model: HookedTransformer, plan: Plan, run: Run, old: Recording, new: Recording) -> list[Change]:
    """The change at each layer of a plan, from the activations of the run that is patched and of the source."""
    if not plan.fixed:
        return [_plain(point, difference(new[point.name], old[point.name].detach())) for point in plan.points]
    one_by_one = {"pos", "position"} & {*plan.grid.labels, *plan.grid.fixed}
    change = _one_key if short_name(plan.points[0].name) in KEYS and one_by_one else _pattern_change
    changes = []
    for point in plan.points:
        before = _scores(plan.stream, run, point.layer(), old)
        after = _scores(plan.stream, run, point.layer(), old, [(point.name, _putting(new[point.name]))])
        changes.append(change(point, before, after))
    return changes


def _plain(point: HookPoint, change: Tensor) -> Change:
    return Change(hook=point.name, axes=point.axes, effect=lambda gradient: change * gradient)


def _putting(new: Tensor) -> Callable[..., Tensor]:
    return lambda value, hook: new


def _scores(
    stream: Stream, run: Run, layer: int, old: Recording, hooks: Hooks = ()
) -> Float[Tensor, "batch head query keys"]:
    """In float64, the scores of a layer in a run of which `old` has the streams, whatever it does to queries and keys.

    A sink is one key more, the last one: it takes a share of every softmax. This is a pass of its own, since nothing
    but the attention of one layer is needed.
    """
    model = stream.model
    names = [get_act_name("attn_scores", layer), *[f"blocks.{layer}.attn.hook_sink"] * model.cfg.sinks_at(layer)]
    scope, _ = model.scope_of(hooks)
    entering, resumed = stream.resumed(layer, old, run.tokens)
    with torch.no_grad():
        _, found = scope.run(
            model.run_with_cache,
            entering.detach(),
            **resumed,
            stop_at_layer=layer + 1,
            attention_mask=run.attention_mask,
            names_filter=names,
            return_cache_object=False,
        )
    scores, *sinks = (found[name].double() for name in names)
    return torch.cat((scores, *(sink[..., None] for sink in sinks)), dim=-1)


def _pattern_change(point: HookPoint, before: Tensor, after: Tensor) -> Change:
    """All positions at once, or each query alone: rows of a pattern have nothing to do with each other."""
    change = after.softmax(-1) - before.softmax(-1)
    return _on_pattern(point, before, lambda gradient: (change * gradient).sum(-1))


def _one_key(point: HookPoint, before: Tensor, after: Tensor) -> Change:
    """Each key alone. Its share in a row goes from a to p, and those of all others are scaled by (1 - p) / (1 - a).

    With the pattern's gradient g that makes (p - a) (g of the key - g of the others, weighted by their shares). For the
    key with the largest share 1 - a may be no number above 0, so there the others are summed.
    """
    log_share = before.log_softmax(-1)
    share, top = log_share.exp(), log_share.argmax(-1, keepdim=True)
    below_top = log_share.scatter(-1, top, -torch.inf)
    log_rest_of_top = below_top.logsumexp(-1, keepdim=True)
    log_rest = (-share).log1p().scatter(-1, top, log_rest_of_top)
    moved = (log_share - log_rest + difference(after, before)).sigmoid() - share
    below_top = (below_top - log_rest_of_top.clamp_min(torch.finfo(log_share.dtype).min)).exp()

    def effect(gradient: Tensor) -> Tensor:
        weighted = share * gradient
        others = (weighted.sum(-1, keepdim=True) - weighted) / (1 - share)
        others = others.scatter(-1, top, (below_top * gradient).sum(-1, keepdim=True))
        return (moved * (gradient - others)).sum(-2)  # over the queries that see it

    return _on_pattern(point, before, effect)


def _on_pattern(point: HookPoint, scores: Tensor, effect: Callable[[Tensor], Tensor]) -> Change:
    """`effect` [batch, head, pos] of the pattern's gradient (0 for a sink), summed over heads that share a key."""
    heads, sinks = point.sizes["head"], scores.shape[-1] - scores.shape[-2]

    def cells(gradient: Tensor) -> Tensor:
        found = effect(F.pad(gradient.double(), (0, sinks)))[..., : gradient.shape[-1]]
        return found.unflatten(1, (heads, -1)).sum(2)

    return Change(hook=get_act_name("pattern", point.layer()), axes=("batch", "head", "pos"), effect=cells)
