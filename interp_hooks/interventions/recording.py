"""What runs do at the hooks they come by, and the activations of runs that others take values from.

Every run that is a source is read once, after those that it takes values from itself, and only the hooks that somebody
wants are kept; so are, of each prompt left alone, the streams (and keys and values) from which runs on it start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_hooks.errors import HookDidNotFire
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.edges import Edge
from interp_hooks.interventions.plans import Plan, Planner
from interp_hooks.interventions.readout import Readout
from interp_hooks.interventions.runs import Intervention, Recording, Recordings, Run
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.model.transformer import HookedTransformer


class Step(NamedTuple):
    """One thing to do in a run when it comes by a hook: `act` changes the value in place and tells whether it did.

    `made` is the intervention's place among those of its run.
    """

    made: int
    hook: str
    layer: int
    act: Callable[[Tensor, HookPoint], Tensor | None]


def steps_of(planner: Planner, run: Run, recordings: Recordings, first: int = 0) -> list[Step]:
    """What a run's interventions do, in the order in which they are written."""
    steps: list[Step] = []
    for number, made in enumerate(run.interventions):
        places = planner.places(made)
        if made.into is None:
            acts = [_writer(made, recordings, first)]
        else:
            edge = Edge(planner.model, made, recordings, first)
            acts = [edge.send, edge.receive, edge.send_normalized]
        steps += [Step(number, place.point.name, place.layer, act) for place, act in zip(places, acts, strict=False)]
    return steps


def _writer(made: Intervention, recordings: Recordings, first: int) -> Callable[[Tensor, HookPoint], Tensor]:
    return lambda value, point: made.write(value, point, recordings, first)


def hook_functions(
    steps: Sequence[Sequence[Step]], layers: range, changed: Sequence[dict[int, Tensor]]
) -> list[tuple[str, Callable[..., Tensor]]]:
    """One hook function for each place that is touched in these layers, which serves all the stacked runs.

    Of each run it is put down in `changed`, by intervention, whether that made a difference.
    """
    by_hook: dict[str, list[tuple[int, Step]]] = defaultdict(list)
    for row, of_run in enumerate(steps):
        for step in of_run:
            if step.layer in layers:
                by_hook[step.hook].append((row, step))

    def function(todo: list[tuple[int, Step]]) -> Callable[..., Tensor]:
        def act(value: Tensor, hook: HookPoint) -> Tensor:
            rows = value.unflatten(0, (len(steps), -1))
            for row, step in todo:
                did = step.act(rows[row], hook)
                if did is not None:
                    changed[row][step.made] = did
            return value

        return act

    return [(hook, function(todo)) for hook, todo in by_hook.items()]


# ---------------------------------------------------------------------------------------------------------- recording


def left_alone(run: Run) -> Run:
    """The same prompt, left alone."""
    return Run(run.tokens, (), run.attention_mask)


@torch.no_grad()
@checked
def record(model: HookedTransformer, run: Run, hooks: str | Iterable[str]) -> Recording:
    """The activations that a run, with its interventions, has at some hooks, by their full names.

    Raises:
        UnknownHook: a hook that does not exist.
    """
    planner = Planner(model, Readout())
    wanted: Wanted = {}
    for point in model.points(hooks):
        _want(planner, wanted, run, point.name)
    return _recorded(planner, wanted, {}).runs[run.key]


Wanted = dict[Any, tuple[Run, set[str]]]
"""By a run's key: the run, and the hook points at which to record it."""


def _want(planner: Planner, wanted: Wanted, run: Run, hook: str) -> None:
    """Have a run recorded at a hook; before it, whatever it takes values from."""
    _want_sources(planner, wanted, run)
    wanted.setdefault(run.key, (run, set()))[1].add(planner.place(hook).point.name)


def _want_sources(planner: Planner, wanted: Wanted, run: Run) -> None:
    for made in run.interventions:
        if made.source_run is not None:
            for place in planner.places(made):
                if made.into is None or place.point.name != planner.place(made.into.hook).point.name:
                    _want(planner, wanted, made.source_run, place.point.name)


@torch.no_grad()
def record_for(planner: Planner, plans: Sequence[Plan]) -> tuple[Recordings, dict[Any, KeyValueCache]]:
    """For every source run, and every prompt left alone, the activations (and keys and values) that runs need."""
    wanted: Wanted = {}
    prefixes: dict[Any, KeyValueCache] = {}
    for plan in plans:
        _want_sources(planner, wanted, plan.run)
        unchanged = left_alone(plan.run)
        hooks = [stream_hook(planner.model, plan.layer)] if plan.layer >= 0 else []
        hooks += [known_hook(plan.layer, what) for what in plan.known]
        if not plan.reaches:
            hooks.append(plan.run.interventions[0].site.hook)
        if plan.first:
            hooks.append(stream_hook(planner.model, planner.model.cfg.n_layers))
            prefixes[unchanged.key] = KeyValueCache()
        for hook in hooks:
            _want(planner, wanted, unchanged, hook)
    return _recorded(planner, wanted, prefixes), prefixes


def _recorded(planner: Planner, wanted: Wanted, prefixes: Mapping[Any, KeyValueCache]) -> Recordings:
    """What is wanted, in an order in which everything that a run takes values from stands before it."""
    model = planner.model
    recordings = Recordings(model)
    for key, (run, hooks) in wanted.items():
        last = max(planner.place(hook).layer for hook in hooks)
        steps = steps_of(planner, run, recordings)
        changed: list[dict[int, Tensor]] = [{}]
        with model.hooks(hook_functions([steps], range(-1, last + 1), changed)) if steps else nullcontext():
            recordings.runs[key] = model.run_with_cache(
                run.tokens,
                attention_mask=run.attention_mask,
                return_type="logits" if last == model.cfg.n_layers else None,
                stop_at_layer=last + 1 if last < model.cfg.n_layers else None,
                past_kv_cache=prefixes.get(key),
                names_filter=hooks,
                return_cache_object=False,
            )[1]
        later = {step.made for step in steps if step.layer > last}
        if silent := [step.hook for step in steps if step.made not in changed[0].keys() | later]:
            raise HookDidNotFire(f"the pass over a source never came by {silent[0]}, where it has an intervention")
    return recordings


def stream_hook(model: HookedTransformer, layer: int) -> str:
    """The hook that shows the stream as it enters a layer, or after the last one."""
    last = model.cfg.n_layers - 1
    if layer <= last:
        return f"blocks.{layer}.hook_resid_pre"
    post = model.cfg.norm_placement == "post"
    return f"blocks.{last}.hook_normalized_resid_post" if post else f"blocks.{last}.hook_resid_post"


def known_hook(layer: int, what: str) -> str:
    return f"blocks.{layer}.attn.hook_z" if what == "z" else f"blocks.{layer}.hook_{what}"
