"""What runs do at the hooks they come by, and the activations of runs that others take values from.

Every run that is a source is read once, after those that it takes values from itself, and only the hooks that somebody
wants are kept. So are, of each prompt left alone, the streams (and keys and values) from which runs on it start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from interp_hooks.errors import HookDidNotFire
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.edges import Edge
from interp_hooks.interventions.plans import Plan, Planner
from interp_hooks.interventions.readout import Readout
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import Recording, Recordings
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
            edge = Edge(planner.stream, made, recordings, first)
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


@no_gradients
@checked
def record(model: HookedTransformer, run: Run, hooks: str | Iterable[str]) -> Recording:
    """The activations that a run, with its interventions, has at some hooks, by their full names.

    Raises:
        UnknownHook: a hook that does not exist.

    >>> record(model, Run(model.to_tokens(clean)), ["z1", "resid_post1"])["blocks.1.attn.hook_z"].shape
    torch.Size([4, ..., 4, 32])
    """
    recorder = Recorder(Planner(model, Readout()))
    for point in model.points(hooks):
        recorder.want(run, point.name)
    return recorder.record().runs[run.key]


class Recorder:
    """Reads runs once each, and keeps of each what somebody wants.

    `prefixes` are the keys and values of prompts left alone, by the run's key, of those that runs start within.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner, self.stream = planner, planner.stream
        self.prefixes: dict[Any, KeyValueCache] = {}
        self._wanted: dict[Any, tuple[Run, set[str]]] = {}  # by a run's key, in the order in which they are to be read

    def want(self, run: Run, hook: str) -> None:
        """Ask for a run's activation at a hook; the runs that it takes values from are read before it."""
        self.want_sources(run)
        self._wanted.setdefault(run.key, (run, set()))[1].add(self.stream.place(hook).point.name)

    def want_sources(self, run: Run) -> None:
        """Ask for what a run's interventions take from other runs."""
        for made in run.interventions:
            reader = None if made.into is None else self.stream.place(made.into.hook).point.name
            for source in made.runs:
                for place in self.planner.places(made):
                    if place.point.name != reader:
                        self.want(source, place.point.name)

    def want_start(self, plan: Plan) -> None:
        """Ask for what a run starts from: its prompt left alone, as far as its plan says."""
        self.want_sources(plan.run)
        unchanged = plan.run.left_alone()
        hooks = [self.stream.entering(plan.layer)] if plan.layer >= 0 else []
        hooks += [self.stream.shows(known, plan.layer) for known in plan.known]
        if plan.asks or not plan.reaches:
            hooks += [made.site.hook for made in plan.run.interventions]
        if plan.asks or plan.first:
            hooks.append(self.stream.entering(self.stream.n_layers))
        if plan.first:
            self.prefixes[unchanged.key] = KeyValueCache()
        for hook in hooks:
            self.want(unchanged, hook)

    @no_gradients
    def record(self) -> Recordings:
        """What was asked for."""
        recordings = Recordings(self.planner.model)
        for key, (run, hooks) in self._wanted.items():
            recordings.runs[key] = self._read(run, hooks, recordings)
        return recordings

    def _read(self, run: Run, hooks: set[str], recordings: Recordings) -> Recording:
        """One pass over a run, as far as the last of these hooks."""
        run, key = self.planner.settled(run), run.key
        model, last = self.planner.model, max(self.stream.place(hook).layer for hook in hooks)
        steps = steps_of(self.planner, run, recordings)
        changed: list[dict[int, Tensor]] = [{}]
        scope, _ = model.scope_of(hook_functions([steps], range(-1, last + 1), changed))
        _, found = scope.run(
            model.run_with_cache,
            run.tokens,
            attention_mask=run.attention_mask,
            return_type="logits" if last == model.cfg.n_layers else None,
            stop_at_layer=last + 1 if last < model.cfg.n_layers else None,
            past_kv_cache=self.prefixes.get(key),
            names_filter=hooks,
            return_cache_object=False,
        )
        later = {step.made for step in steps if step.layer > last}
        if silent := [step.hook for step in steps if step.made not in changed[0].keys() | later]:
            raise HookDidNotFire(f"the pass over a source never came by {silent[0]}, where it has an intervention")
        return found
