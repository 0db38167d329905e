"""Evaluates Runs: the one engine under every causal experiment.

Runs are written one at a time; what they have in common is computed once:

    1. every source run is recorded once, keeping only the places that somebody takes values from;
    2. a run starts at the first layer it touches, from the residual stream of its prompt without interventions;
    3. in a causal model nothing before the first touched position changes: only later positions are computed, and
       they see the keys and values of the earlier ones as they are in the prompt without interventions;
    4. runs on one prompt are stacked along the batch axis, within a memory budget, each from its first layer on;
    5. of the last layer only the positions that the metric reads are computed, and of these only the tokens that it
       reads are unembedded.

Each of these is exact: the result is that of one full forward pass for each run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp_hooks.components.block import at_positions
from interp_hooks.components.kv_cache import KeyValueCache
from interp_hooks.errors import BadInput, MetricError
from interp_hooks.hooks import HookPoint
from interp_hooks.interventions import Intervention, Recording, Run
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import MetricLike, Readout, checked_score, reading

MEMORY = 256 * 2**20  # bytes of activations that stacked runs may take at once
AFTER_BLOCKS = ("ln_final.", "mlm_head.", "unembed.")
PREFIXES = 8  # first positions are rounded down to so many different ones, so that more runs can be stacked


@torch.no_grad()
def evaluate(
    model: HookedTransformer,
    runs: Sequence[Run],
    metric: MetricLike,
    *,
    max_memory: int = MEMORY,
    progress: bool = False,
) -> Float[Tensor, "run ..."]:
    """The metric of every run: [run, batch] for a `Metric`; any function of full logits will do in its place.

    `max_memory` bounds, roughly, the bytes of activations of the runs that are computed together; a single run is
    computed however large it is. Nothing is left attached to the model. Hooks that are attached already see several
    runs at once, stacked along the batch axis.

    Raises:
        UnknownHook, BadInput: a site that does not exist or does not fit its run.
        MetricError: the metric gives nan, or not the same kind of tensor for every run.
    """
    runs = list(runs)
    if not runs:
        raise BadInput("expected at least one run, got none")
    readout, score = reading(model, metric)
    starts = _starts(model, runs, readout)
    recordings, prefixes = _record(model, runs, starts)
    scores: dict[int, Tensor] = {}
    with tqdm(total=len(runs), disable=not progress, unit="run") as bar:
        for places in _batches(model, runs, starts, readout, max_memory):
            together = [runs[place] for place in places]
            earlier = prefixes.get(_unchanged(together[0]).key)
            logits = _execute(model, together, [starts[place] for place in places], recordings, earlier, readout)
            for place, one in zip(places, logits.chunk(len(places)), strict=True):
                scores[place] = checked_score(score(one), f"run {place}")
            bar.update(len(places))
    shapes = {tuple(one.shape) for one in scores.values()}
    if len(shapes) > 1:
        raise MetricError(f"the metric gives tensors of different shapes for different runs: {sorted(shapes)}")
    return torch.stack([scores[place] for place in range(len(runs))])


# ------------------------------------------------------------------------------------------------ where runs start


class Start(NamedTuple):
    """What a run has to compute for itself: layers from `layer` on (-1: the embeddings too), positions from `first`."""

    layer: int
    first: int


def _starts(model: HookedTransformer, runs: Sequence[Run], readout: Readout) -> list[Start]:
    """Where each run starts.

    Positions are shared only where nothing else is attached to the model, since other hooks count positions from 0.
    """
    causal = model.cfg.attention_dir == "causal" and not any(point.hooked for point in model.hook_points())
    read_from: dict[Any, int] = {}
    starts = []
    for run in runs:
        layers = [_layer(model, one.site.hook) for one in run.interventions]
        first = 0
        if causal and readout.pos is not None and layers and max(layers) < model.cfg.n_layers:
            if run.prompt_key not in read_from:
                read_from[run.prompt_key] = int(readout.positions(run).min())
            first = _first_position(model, run, read_from[run.prompt_key])
        starts.append(Start(min(layers, default=model.cfg.n_layers), first))
    return starts


def _first_position(model: HookedTransformer, run: Run, read_from: int) -> int:
    """A position before which a run neither changes anything nor is read."""
    length = run.tokens.shape[1]
    touched = [one.site.first_position(model.points(one.site.hook)[0], length) for one in run.interventions]
    step = -(-length // PREFIXES)
    return max(0, min(*touched, read_from)) // step * step


def _layer(model: HookedTransformer, hook: str) -> int:
    """The layer of a hook point; -1 before the blocks, n_layers after them."""
    point = model.points(hook)[0]
    if point.name.startswith("blocks."):
        return point.layer()
    return model.cfg.n_layers if point.name.startswith(AFTER_BLOCKS) else -1


def _stream_name(model: HookedTransformer, layer: int) -> str:
    """The hook that shows the stream as it enters a layer."""
    last = model.cfg.n_layers - 1
    if layer <= last:
        return f"blocks.{layer}.hook_resid_pre"
    post = model.cfg.norm_placement == "post"
    return f"blocks.{last}.hook_normalized_resid_post" if post else f"blocks.{last}.hook_resid_post"


def _unchanged(run: Run) -> Run:
    """The same prompt, left alone."""
    return Run(run.tokens, (), run.attention_mask)


def _batches(
    model: HookedTransformer, runs: Sequence[Run], starts: Sequence[Start], readout: Readout, max_memory: int
) -> Iterator[list[int]]:
    """Which runs to compute together, by start layer: the same prompt and first position, as many as fit."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, (run, start) in enumerate(zip(runs, starts, strict=True)):
        groups[run.prompt_key, start.first].append(place)
    for places in groups.values():
        places.sort(key=lambda place: starts[place].layer)
        together = max(1, int(max_memory // _bytes(model, [runs[place] for place in places], readout)))
        for first in range(0, len(places), together):
            yield places[first : first + together]


def _bytes(model: HookedTransformer, runs: Sequence[Run], readout: Readout) -> int:
    """Roughly what one of these runs needs at its widest: an MLP, a looked-at pattern, or logits."""
    cfg, (batch, length) = model.cfg, runs[0].tokens.shape
    square = ("hook_pattern", "hook_attn_scores")
    looked_at = any(one.site.hook.endswith(square) for run in runs for one in run.interventions)
    per_token = 10 * cfg.d_model + 3 * cfg.d_mlp + (4 * cfg.n_heads * length if looked_at else 0)
    logits = (1 if readout.pos is not None else length) * (cfg.d_vocab_out if readout.tokens is None else 1)
    return batch * (length * per_token + 2 * logits) * torch.finfo(model.dtype).bits // 8


# ------------------------------------------------------------------------------------------------ recording, running


Wanted = dict[Any, tuple[Run, set[str]]]
"""By a run's key: the run, and the hook points at which to record it."""


def _want(model: HookedTransformer, wanted: Wanted, run: Run, hook: str) -> None:
    """Have a run recorded at a hook; before it, whatever it takes values from."""
    _want_sources(model, wanted, run)
    wanted.setdefault(run.key, (run, set()))[1].add(model.points(hook)[0].name)


def _want_sources(model: HookedTransformer, wanted: Wanted, run: Run) -> None:
    for intervention in run.interventions:
        if intervention.source_run is not None:
            _want(model, wanted, intervention.source_run, intervention.site.hook)


def _record(
    model: HookedTransformer, runs: Sequence[Run], starts: Sequence[Start]
) -> tuple[dict[Any, Recording], dict[Any, KeyValueCache]]:
    """For every source run, and every prompt left alone, the activations (and keys and values) that `runs` need."""
    wanted: Wanted = {}
    prefixes: dict[Any, KeyValueCache] = {}
    for run, start in zip(runs, starts, strict=True):
        _want_sources(model, wanted, run)
        if start.layer >= 0:
            _want(model, wanted, _unchanged(run), _stream_name(model, start.layer))
        if start.first:
            _want(model, wanted, _unchanged(run), _stream_name(model, model.cfg.n_layers))
            prefixes[_unchanged(run).key] = KeyValueCache()
    recordings: dict[Any, Recording] = {}
    for key, (run, hooks) in wanted.items():  # what a run needs was wanted, and so stands, before it
        last = max(_layer(model, hook) for hook in hooks)
        with model.hooks(_hooks([(0, one) for one in run.interventions], 1, recordings)):
            recordings[key] = model.run_with_cache(
                run.tokens,
                attention_mask=run.attention_mask,
                return_type="logits" if last == model.cfg.n_layers else None,
                stop_at_layer=last + 1 if last < model.cfg.n_layers else None,
                past_kv_cache=prefixes.get(key),
                names_filter=hooks,
                return_cache_object=False,
            )[1]
    return recordings, prefixes


def _execute(
    model: HookedTransformer,
    runs: Sequence[Run],
    starts: Sequence[Start],
    recordings: Mapping[Any, Recording],
    earlier: KeyValueCache | None,
    readout: Readout,
) -> Tensor:
    """What `readout` reads of runs on one prompt, which join the batch layer by layer, each where it starts."""
    run, first, n_layers = runs[0], starts[0].first, model.cfg.n_layers
    unchanged = recordings.get(_unchanged(run).key, {})
    mask = model.text.real_tokens(run.tokens) if run.attention_mask is None else run.attention_mask
    touched = _by_layer(model, runs)
    reads = None if readout.pos is None or n_layers in touched else readout.positions(run) - first
    stream: Tensor | None = None
    for layer in range(starts[0].layer, n_layers + 1):
        present = sum(start.layer <= layer for start in starts)
        joining = sum(start.layer == layer for start in starts)
        if joining and layer >= 0:
            entering = unchanged[_stream_name(model, layer)][:, first:]
            if layer == n_layers and reads is not None:
                entering = at_positions(entering, reads)
            entering = _stacked(entering, joining)
            stream = entering if stream is None else torch.cat((stream, entering))
        arguments: dict[str, Any] = {
            "attention_mask": None if mask is None else _stacked(mask, present),
            "fwd_hooks": _hooks(touched.get(layer, []), present, recordings, first),
        }
        if first:
            assert earlier is not None
            arguments["past_kv_cache"] = earlier.prefix(first, present, layer)
        if layer == n_layers - 1 and reads is not None:
            arguments["logits_pos"] = _stacked(reads, present)
        if layer < 0:
            tokens = _stacked(run.tokens[:, first:], present)
            stream = model.run_with_hooks(tokens, stop_at_layer=0, **arguments)
        elif layer < n_layers:
            stream = model.run_with_hooks(stream, start_at_layer=layer, stop_at_layer=layer + 1, **arguments)
        elif arguments["fwd_hooks"]:
            logits = model.run_with_hooks(stream, start_at_layer=n_layers, **arguments)
            return torch.cat([readout.select(one, run) for one in logits.chunk(len(runs))])
    assert stream is not None
    return (readout.read if reads is None else readout.read_there)(model, stream, run)


def _by_layer(model: HookedTransformer, runs: Sequence[Run]) -> dict[int, list[tuple[int, Intervention]]]:
    """The interventions at each layer, with the place of their run."""
    touched: dict[int, list[tuple[int, Intervention]]] = defaultdict(list)
    for place, run in enumerate(runs):
        for intervention in run.interventions:
            touched[_layer(model, intervention.site.hook)].append((place, intervention))
    return touched


def _stacked(value: Tensor, copies: int) -> Tensor:
    """Copies of all prompts, one below the other."""
    return value.repeat(copies, *[1] * (value.ndim - 1))


def _hooks(
    touched: Sequence[tuple[int, Intervention]], stacked: int, recordings: Mapping[Any, Recording], first: int = 0
) -> list[tuple[str, Callable[..., Tensor]]]:
    """One hook function for each place that is touched, which serves all the stacked runs."""
    by_hook: dict[str, list[tuple[int, Intervention]]] = defaultdict(list)
    for place, intervention in touched:
        by_hook[intervention.site.hook].append((place, intervention))

    def writer(here: list[tuple[int, Intervention]]) -> Callable[..., Tensor]:
        def write(value: Tensor, hook: HookPoint) -> Tensor:
            rows = value.chunk(stacked)
            for place, intervention in here:
                intervention.write(rows[place], hook, recordings, first)
            return value

        return write

    return [(hook, writer(here)) for hook, here in by_hook.items()]
