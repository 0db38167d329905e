"""The same experiment at every cell of a grid, and activation patching, which is most often what is done in a cell.

    sweep(model, lambda layer, pos: Run(tokens, [...]), metric, over={"layer": range(12), "pos": range(16)})
    patch(model, clean, corrupt, metric, "z", over=("layer", "head"))

Patching asks what one activation of another run restores, or destroys:

    denoise   the run reads the corrupt prompt, one activation comes from the clean run    0 = corrupt, 1 = clean
    noise     the run reads the clean prompt, one activation comes from the corrupt run    0 = clean, 1 = corrupt

Denoising finds what is sufficient, noising what is necessary; the two differ wherever parts work as AND or OR
(Heimersheim and Nanda 2024, arxiv.org/abs/2404.15255).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.experiments.results.folders import Parts
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.points import POSITIONS
from interp_hooks.interventions.engine import evaluation
from interp_hooks.interventions.readout import MetricLike, Readout, metric_name
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run, SourceLike, as_run
from interp_hooks.interventions.sites import Site, at
from interp_hooks.model.transformer import HookedTransformer


@experiment
def sweep(
    model: HookedTransformer,
    run_at: Callable[..., Run],
    metric: MetricLike,
    *,
    over: Mapping[str, Sequence[Any]],
    baselines: Mapping[str, Run] | None = None,
    scale: tuple[str, str] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """Evaluate `run_at(**cell)` for every cell of the grid `over`, and the baselines, sharing what they have in common.

    `scale` names the baselines that count as 0 and 1 in the result's `recovered_fraction`. With `save_to`, a folder,
    every batch of runs is kept there as it is finished, and in the end the result: the same call made again goes on
    where a killed one was, and gives the result if it is there.

    Raises:
        BadInput: an empty axis, a run that does not fit the model, a folder that holds something else.
        MetricError: the metric does not give a number for each prompt.

    >>> tokens = model.to_tokens(clean)
    >>> run_at = lambda layer: Run(tokens, [Intervention(at("mlp_out", layer), 0.0)])
    >>> result = sweep(model, run_at, metric, over={"layer": range(2)}, progress=False)
    """
    empty = [axis for axis, labels in over.items() if len(labels) == 0]
    if empty or not over:
        raise BadInput(f"nothing to sweep over: {', '.join(empty) or 'no axis'} has no values")
    if missing := [name for name in scale or () if name not in (baselines or {})]:
        raise BadInput(f"scale names {missing[0]!r}, which is none of the baselines: {', '.join(baselines or {})}")
    cells = [dict(zip(over, labels, strict=True)) for labels in itertools.product(*over.values())]
    return sweep_runs(
        model,
        [run_at(**cell) for cell in cells],
        metric,
        axes={axis: list(labels) for axis, labels in over.items()},
        baselines=dict(baselines or {}),
        scale=scale,
        max_memory=max_memory,
        progress=progress,
        save_to=save_to,
    )


@on_data
def sweep_runs(
    model: HookedTransformer,
    runs: Sequence[Run],
    metric: MetricLike,
    *,
    axes: Mapping[str, Sequence[Any]],
    baselines: Mapping[str, Run | Sequence[Run]],
    scale: tuple[str, str] | None,
    measured: Mapping[str, Tensor] | None = None,
    samples: int = 1,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """Evaluate the runs of all cells of a grid: those of the first of `samples`, then those of the second, ...

    Values are means over samples, and so is a baseline that is given as several runs. Baselines that are `measured`
    are values [prompt] that are known already, of another model, say.
    """
    several = {name: [one] if isinstance(one, Run) else list(one) for name, one in baselines.items()}
    every = [*itertools.chain.from_iterable(several.values()), *runs]
    keeps = None if save_to is None else Parts(save_to, model.device)
    scores, changed = evaluation(model, every, metric, max_memory=max_memory, progress=progress, keeps=keeps)
    if scores.ndim > 2:
        raise MetricError(f"the metric must give one number for each prompt, got shape {list(scores.shape[1:])}")
    scores = scores.reshape(len(scores), -1)  # one number for all prompts counts as one prompt
    *parts, cells = scores.split([*map(len, several.values()), len(runs)])
    grid = [len(labels) for labels in axes.values()]
    made, n_cells = changed[-len(runs) :], len(runs) // samples
    return Result(
        metric=metric_name(metric),
        axes=axes,
        values=cells.reshape(samples, *grid, -1).mean(0),
        baselines={name: part.mean(0) for name, part in zip(several, parts, strict=True)}
        | {name: scores.to(cells) for name, scores in (measured or {}).items()},
        scale=scale,
        changed=[[any(did) for did in zip(*made[cell::n_cells], strict=True)] for cell in range(n_cells)],
    )


@experiment
def patch(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike = OF_TASK,
    metric: MetricLike = OF_TASK,
    site: str | Sequence[str] = "resid_pre",
    *,
    over: Sequence[str] = ("layer", "pos"),
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    window: int = 1,
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
    attention_mask: Tensor | None = None,
) -> Result:
    """Patch `site` (a short hook name: "resid_pre", "attn_out", "z", "post", ...) at every cell of the axes `over`.

    Prompts, counterfactual prompts and metric may be given together, as a `Task` in place of `clean`. Axes are "layer"
    and those of the hook ("pos", "head", "query", "key", "neuron"); what is not swept over is patched as a whole, so
    `over=("layer", "head")` patches a head at all positions. The axis "position" has the named `positions` instead of
    all ("S2": an int, or a tensor of one for each prompt; negative ones count from the last real token). `select` fixes
    an axis instead: an index, a list, a tensor of one index for each prompt, or a position's name, as in
    `select={"pos": "S2"}`. Several sites are patched together, and so are the `window` layers around each one.
    `layers` restricts the sweep; `save_to` as in `sweep`. `attention_mask` [batch, pos] is 1 for the real tokens of
    clean and corrupt prompts that are ids; a `Run` has a mask of its own.

    Raises:
        BadInput: prompts that do not correspond token by token, an axis, layer or position that does not exist.
        MetricError: the metric gives nan.

    >>> result = patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False)
    >>> best = result.top(1)
    """
    base, source, scale, baselines = directed_runs(model, clean, corrupt, direction, attention_mask)
    where: dict[str, Any] = dict(select=select, positions=positions, layers=layers)
    grids = [grid_of(model, base, one, over, **where) for one in ([site] if isinstance(site, str) else site)]
    compute: dict[str, Any] = dict(max_memory=max_memory, progress=progress, save_to=save_to)
    ends: dict[str, Any] = dict(baselines=baselines, scale=scale)
    return sweep_grids(model, base, grids, source, metric, window=window, **ends, **compute)


def sweep_grids(
    model: HookedTransformer,
    base: Run,
    grids: Sequence[Grid],
    source: SourceLike,
    metric: MetricLike,
    *,
    window: int = 1,
    **options: Any,
) -> Result:
    """Put `source` into the base run at one cell after the other: at that of each of the grids, in `window` layers.

    Other keyword arguments go to `sweep`.

    Raises:
        BadInput: no grid, grids whose axes have other labels, a window below 1.
    """
    hooks = [grid.hook for grid in grids]
    if not grids or window < 1:
        raise BadInput(f"expected at least one site and a window of at least 1 layer, got {hooks} and {window}")
    first = grids[0]
    if different := [grid.hook for grid in grids if grid.labels != first.labels]:
        raise BadInput(
            f"{first.hook} and {different[0]} have axes of different sizes, so they cannot be swept together"
        )

    def run_at(layer: int, **cell: Any) -> Run:
        near = layers_around(layer, window, model.cfg.n_layers)
        made = [Intervention(grid.at(each, **cell), source) for each in near for grid in grids]
        return Run(base.tokens, made, base.attention_mask)

    return sweep(model, run_at, metric, over=first.labels, **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The cells of a sweep over one hook: what each axis runs over, and which part of the hook a cell is.

    `named` are positions by name; `fixed` is what is selected of the axes that are not swept over.
    """

    hook: str
    labels: dict[str, Sequence[Any]]
    named: Mapping[str, Int[Tensor, " prompt"]]
    fixed: Mapping[str, Any]

    def selected(self, **cell: Any) -> dict[str, Any]:
        """The part of the hook that a cell, without its layer, is: what `at` selects."""
        own = {"pos" if axis == "position" else axis: named_index(self.named, index) for axis, index in cell.items()}
        return {**own, **self.fixed}

    def at(self, layer: int, **cell: Any) -> Site:
        """The site that a cell is."""
        return at(self.hook, layer, **self.selected(**cell))


def grid_of(
    model: HookedTransformer,
    run: Run,
    hook: str,
    over: Sequence[str],
    *,
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = None,
    layers: Sequence[int] | None = None,
) -> Grid:
    """The cells of a sweep over a hook in every layer, along the axes `over`; arguments are as in `patch`.

    Raises:
        BadInput: an axis, layer or position that does not exist; an axis that is both swept over and fixed.
    """
    named = {} if positions is None else named_positions(run, positions)
    fixed = {axis: named_index(named, index) for axis, index in (select or {}).items()}
    if twice := [axis for axis in over if axis in fixed or (axis == "position" and "pos" in [*over, *fixed])]:
        raise BadInput(f"{twice[0]} is swept over and cannot be selected too")
    axes = list(over) if "layer" in over else ["layer", *over]
    warn_of_lengths(run, over)
    labels = labels_of(model, hook, axes, run.tokens.shape[1], layers, named)
    return Grid(hook=hook, labels=labels, named=named, fixed=fixed)


def warn_of_lengths(run: Run, over: Sequence[str]) -> None:
    """Warn where positions are told apart by their numbers, and prompts of other lengths have other tokens there."""
    lengths, axes = run.real.sum(1), [axis for axis in over if axis in POSITIONS]
    if axes and bool((lengths != lengths[0]).any()):
        warnings.warn(
            f"prompts have {int(lengths.min())} to {int(lengths.max())} tokens, so that a number along {axes[0]!r} is "
            "not the same place in all of them, and means over prompts mix roles. Take prompts of one length, or name "
            "places: positions={'subject': ..., 'end': -1} with over=('layer', 'position'), where there is positions=",
            stacklevel=2,
        )


def layers_around(layer: int, window: int, n_layers: int) -> range:
    """The layers of a window: as many before `layer` as from it on, one less if odd, and none that doesn't exist.

    (As in Meng et al. 2022, arxiv.org/abs/2202.05262.)
    """
    return range(max(0, layer - window // 2), min(n_layers, layer - (-window // 2)))


Direction = Literal["denoise", "noise"]
SCALES: dict[str, tuple[str, str]] = {"denoise": ("corrupt", "clean"), "noise": ("clean", "corrupt")}


class Directed(NamedTuple):
    """A pair of runs of which one is changed: `base`, which takes values from `source`; `scale` names 0 and 1."""

    base: Run
    source: Run
    scale: tuple[str, str]
    baselines: dict[str, Run]


def directed_runs(
    model: HookedTransformer, clean: Any, corrupt: Any, direction: Direction, attention_mask: Tensor | None = None
) -> Directed:
    """The clean and the corrupt run, in the part that each plays in a patching experiment.

    Raises:
        BadInput: an unknown direction, or prompts that do not correspond (`paired_runs`).
    """
    if direction not in SCALES:
        raise BadInput(f"direction must be 'denoise' or 'noise', got {direction!r}")
    names, scale = ("clean", "corrupt"), SCALES[direction]
    baselines = dict(zip(names, paired_runs(model, clean, corrupt, names, attention_mask), strict=True))
    return Directed(baselines[scale[0]], baselines[scale[1]], scale, baselines)


def paired_runs(
    model: HookedTransformer, first: Any, second: Any, names: tuple[str, str], attention_mask: Tensor | None = None
) -> tuple[Run, Run]:
    """Two runs whose tokens correspond position by position.

    Raises:
        BadInput: other numbers of prompts, or a pair of prompts of unequal length; the message shows the first such.
    """
    runs = as_run(model, first, attention_mask), as_run(model, second, attention_mask)
    if len(runs[0].tokens) != len(runs[1].tokens):
        raise BadInput(f"got {len(runs[0].tokens)} {names[0]} prompts but {len(runs[1].tokens)} {names[1]} prompts")
    lengths = [run.real.sum(1) for run in runs]
    if not torch.equal(*lengths):
        row = int((lengths[0] != lengths[1]).nonzero()[0])
        raise BadInput(
            f"prompt {row} has {int(lengths[0][row])} tokens in {names[0]} but {int(lengths[1][row])} in {names[1]}. "
            "Patching puts an activation in place of the one at the same position, so both prompts of a pair need the "
            "same number of tokens; model.to_str_tokens(prompt) shows them"
        )
    return runs


Positions = Mapping[str, int | Tensor] | Sequence[int]
"""Token positions by name, each one for all prompts or one for each [prompt]; a list names them by their numbers."""


def named_positions(run: Run, positions: Positions) -> dict[str, Int[Tensor, " prompt"]]:
    """Where each of the named positions is in each prompt of a run.

    Raises:
        BadInput: a position outside a prompt or in its padding, or one listed twice.
    """
    listed = positions if isinstance(positions, Mapping) else {str(pos): pos for pos in positions}
    if len(listed) < len(positions):
        raise BadInput(f"expected positions that are all different, got {positions}")
    found: dict[str, Tensor] = {}
    for name, pos in listed.items():
        found[name] = Readout(pos=pos).positions(run)[:, 0]
        padding = (~run.real.gather(1, found[name][:, None])[:, 0]).nonzero()
        if len(padding):
            raise BadInput(
                f"the position {name!r} is padding in prompt {int(padding[0])}; count from the end, as in -1"
            )
    return found


def named_index(named: Mapping[str, Tensor], index: Any) -> Any:
    """An index as it is, or that of a named position.

    Raises:
        BadInput: no position has that name.
    """
    if not isinstance(index, str):
        return index
    if index not in named:
        raise BadInput(f"there is no position {index!r}; positions= names {', '.join(named) or 'none'}")
    return named[index]


def resolved(site: Site, named: Mapping[str, Tensor]) -> Site:
    """A site in which positions that have names are the positions themselves."""
    return replace(site, select={axis: named_index(named, index) for axis, index in site.select.items()})


def labels_of(
    model: HookedTransformer,
    hook: str,
    axes: Sequence[str],
    length: int,
    layers: Sequence[int] | None = None,
    named: Mapping[str, Any] | None = None,
) -> dict[str, Sequence[Any]]:
    """What each axis of a hook runs over: layers, indices of an axis, positions, or (axis "position") named ones.

    Raises:
        UnknownHook: no such hook.
        BadInput: an axis that the hook does not have, or a layer that the model does not have.
    """
    n_layers = model.cfg.n_layers
    layers = range(n_layers) if layers is None else layers
    if len(layers) == 0:
        raise BadInput("nothing to sweep over: layers is empty")
    if outside := [layer for layer in layers if not 0 <= layer < n_layers]:
        raise BadInput(f"layer {outside[0]} is out of range: the model has layers 0..{n_layers - 1}")
    point = model.points(get_act_name(hook, layers[0]))[0]
    known = [axis for axis in point.axes if axis != "batch"]
    labels: dict[str, Sequence[Any]] = {}
    for axis in axes:
        if axis == "layer":
            labels[axis] = list(layers)
        elif axis == "position" and "pos" in known:
            if not named:
                raise BadInput("over names 'position', so positions= has to say which: {'S2': places, 'end': -1}")
            labels[axis] = list(named)
        elif axis in known:
            labels[axis] = range(_size_everywhere(model, hook, axis, layers) or length)
        else:
            raise BadInput(f"{point.name} cannot be swept over {axis!r}; it has layer, {', '.join(known)}")
    return labels


def _size_everywhere(model: HookedTransformer, hook: str, axis: str, layers: Sequence[int]) -> int | None:
    """The size of a hook's axis in all these layers; None where the input decides.

    Raises:
        BadInput: it differs from layer to layer.
    """
    sizes = {layer: model.points(get_act_name(hook, layer))[0].sizes.get(axis) for layer in layers}
    first, *others = dict.fromkeys(sizes.values())
    if others:
        alike = [layer for layer, size in sizes.items() if size == first]
        raise BadInput(
            f"layers differ in their number of {axis}s at {hook} ({', '.join(map(str, (first, *others)))}): sweep over "
            f"layers that are alike, as layers={alike}"
        )
    return first
