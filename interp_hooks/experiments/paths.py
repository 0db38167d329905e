"""Path patching: what does a part of the model do to the answer through one path only?

Senders are what is added to the stream, receivers are what reads it. In a first run, on the base prompt, the senders
have the values of the other prompt, and no other attention output changes; the receivers' inputs are noted down. In a
second run, on the base prompt, the receivers read these inputs and everything after them follows (Wang et al. 2022,
arxiv.org/abs/2211.00593; Goldowsky-Dill et al. 2023, arxiv.org/abs/2304.05969).

    sender (z, attn_out, mlp_out, embeddings) --stream, MLPs on the way--> receiver (q, k, v, MLP input, logits) --> ...

The first run is no forward pass but a `FrozenRun`, exact and much cheaper; the second one, a `Run`, is needed only if
the receivers are not the logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, HookConflict, MetricError
from interp_hooks.errors.arguments import about
from interp_hooks.experiments.frozen import FrozenRun, MLPs, Senders, places
from interp_hooks.experiments.patching import Direction, Positions, directed_runs, grid_of, named_positions, resolved
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import POSITIONS
from interp_hooks.interventions.engine import Evaluation, evaluate, free_memory
from interp_hooks.interventions.readout import MetricLike, Readout, checked_score, metric_name, reading
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Run
from interp_hooks.interventions.sites import Site
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import ATTENTION_INPUTS, INPUT, Stream
from interp_hooks.model.transformer import HookedTransformer

Sites = Site | Sequence[Site]


@experiment
def path_patch(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike = OF_TASK,
    metric: MetricLike = OF_TASK,
    senders: str | Sites | Mapping[str, Sites] = "z",
    receivers: Literal["logits"] | Sites = "logits",
    *,
    over: Sequence[str] = ("layer", "head"),
    select: Mapping[str, Any] | None = None,
    positions: Positions | None = OF_TASK,
    mlps: MLPs = "recompute",
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Result:
    """Patch the paths from senders to receivers, one set of senders at a time.

    `senders` is a hook name, swept over the axes `over` as by `patch` (default: every head), with `select` as there; or
    a site or list of sites that send together, which give a result without axes; or a mapping of labels to these.
    Senders are "z", "attn_out", "mlp_out" of a layer, and "hook_embed" and its kin. `receivers` are sites that receive
    together ("q_input", "k_input", "v_input" of a layer, selected by head or group of heads, "mlp_in"), or "logits":
    the final stream at the positions that the metric reads. Sites may select one of the named `positions`,
    `at("q_input", 9, pos="end")`. A sender that is not before any receiver changes nothing.

    MLPs between the two are part of the path ("recompute") or keep what they write in the base run ("freeze").
    "denoise" takes the corrupt prompt as base and sends the clean values, "noise" (as in the IOI paper) the reverse.
    `max_memory` bounds the bytes of activations, to within a third (default: as much as is of use and free): what is
    kept of the two runs, and one set of senders on all prompts, are computed however large they are.

    Raises:
        BadInput: prompts that do not correspond token by token, or what cannot send or receive.
        UnknownHook: a site that this model does not have.
        HookConflict: hooks are attached to the model; parts of the model run alone here and would pass them by.
        MetricError: the metric does not give a number for each prompt.

    >>> direct = path_patch(model, clean, corrupt, metric, progress=False)  # every head to the logits
    """
    _check_options(model, mlps)
    base, other, scale, _ = directed_runs(model, clean, corrupt, direction)
    named = {} if positions is None else named_positions(base, positions)
    with about("senders"):
        axes, cells = _cells(model, base, senders, over, dict(select=select, positions=positions, layers=layers))
        cells = [[resolved(site, named) for site in cell] for cell in cells]
        _check_selection(model, base, [site for cell in cells for site in cell])
    with about("receivers"):
        receiving = _receivers(model, receivers, base, named)
    return patch_paths(
        model,
        [Run(base.tokens, [Intervention(site, other) for site in cell], base.attention_mask) for cell in cells],
        metric,
        axes=axes,
        baselines=dict(zip(scale, (base, other), strict=True)),
        scale=scale,
        receivers=receiving,
        mlps=mlps,
        max_memory=max_memory,
        progress=progress,
    )


@on_data
@no_gradients
def patch_paths(
    model: HookedTransformer,
    runs: Sequence[Run],
    metric: MetricLike,
    *,
    axes: Mapping[str, Sequence[Any]],
    baselines: Mapping[str, Run],
    scale: tuple[str, str],
    receivers: Sequence[Site] | None,
    mlps: MLPs,
    max_memory: int | None = None,
    progress: bool = True,
) -> Result:
    """What the interventions of each run change by the paths to the receivers (None: the logits), and by no others.

    `scale` names the base among the baselines, and what the senders' values are taken from.
    """
    base, other = (baselines[name] for name in scale)
    stream = Stream(model)
    cells = [Senders.of(stream, [made.site.counted_back(base.real) for made in run.interventions]) for run in runs]
    order = sorted(range(len(cells)), key=lambda cell: cells[cell].layer)
    paths = Paths(
        stream=stream,
        runs=(base, other),
        every=[cells[cell] for cell in order],
        metric=metric,
        mlps=mlps,
        max_memory=free_memory(model) if max_memory is None else max_memory,
        progress=progress,
    )
    read = None if receivers is None else [site.counted_back(base.real) for site in receivers]
    scores, changed = paths.to_logits() if read is None else paths.to_inputs(read)
    if scores.ndim > 2:
        raise MetricError(f"the metric must give one number for each prompt, got shape {list(scores.shape[1:])}")
    scores = scores.reshape(len(scores), -1)  # one number for all prompts counts as one prompt
    back = sorted(range(len(cells)), key=order.__getitem__)
    return Result(
        metric=metric_name(metric),
        axes=axes,
        values=scores[2:][back].reshape(*map(len, axes.values()), -1),
        baselines=dict(zip(scale, scores[:2], strict=True)),
        scale=scale,
        changed=[changed[cell] for cell in back],
    )


# -------------------------------------------------------------------------------------------------- what was asked for


def _check_options(model: HookedTransformer, mlps: str) -> None:
    if mlps not in ("recompute", "freeze"):
        raise BadInput(f"mlps must be 'recompute' or 'freeze', got {mlps!r}")
    if elsewhere := [hook for hook in model.splices if not hook.endswith("hook_mlp_out")]:
        raise HookConflict(
            "path_patch runs parts of the model alone, where modules spliced in at anything but mlp_out are passed by; "
            f"one is at {elsewhere[0]}: remove() it first"
        )
    if hooked := [point.name for point in model.hook_points() if point.hooks]:
        raise HookConflict(
            f"path_patch runs parts of the model alone, where hooks are passed by, but {', '.join(hooked[:3])} is "
            "hooked; remove these hooks first (model.reset_hooks())"
        )


def _cells(
    model: HookedTransformer,
    base: Run,
    senders: str | Sites | Mapping[str, Sites],
    over: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[Mapping[str, Sequence[Any]], list[list[Site]]]:
    """The axes of the result, and the sites that send together in every cell of its grid."""
    if isinstance(senders, str):
        grid = grid_of(model, base, senders, over, **options)
        cells = [dict(zip(grid.labels, cell, strict=True)) for cell in itertools.product(*grid.labels.values())]
        sites = [grid.at(**cell) for cell in cells]
        return {axis: list(labels) for axis, labels in grid.labels.items()}, [_senders(model, site) for site in sites]
    if options["select"]:
        raise BadInput("select= belongs to senders given as a hook name; sites select by themselves: at('z', 1, pos=3)")
    if isinstance(senders, Mapping):
        if not senders:
            raise BadInput("there are no senders: the mapping is empty")
        return {"sender": list(senders)}, [_senders(model, sites) for sites in senders.values()]
    return {}, [_senders(model, senders)]


def _senders(model: HookedTransformer, sites: Sites) -> list[Site]:
    """Sites that send together, by their full names."""
    named, stream = [_with_full_name(model, site) for site in _as_sites(sites, "senders")], Stream(model)
    stream.refuse_other_streams()
    for site in named:
        if site.hook not in {*stream.senders, *stream.embeddings} - {INPUT}:
            raise BadInput(
                f"{site.hook} cannot be a sender. Senders are what is added to the stream: z, attn_out or mlp_out of "
                f"a layer, {', '.join(stream.embeddings)}"
            )
    return named


def _check_selection(model: HookedTransformer, base: Run, sites: Sequence[Site]) -> None:
    """Raises BadInput if a site selects what its hook does not have; positions are looked at when they are used."""
    for site in sites:
        (point,) = model.points(site.hook)
        sizes = [*base.tokens.shape, *(point.sizes[axis] for axis in point.axes[2:] if axis in point.sizes)]
        others = {axis: wanted for axis, wanted in site.select.items() if axis not in POSITIONS}
        if len(sizes) == len(point.axes):
            replace(site, select=others).index(point, torch.empty(sizes, device="meta"))


def _receivers(
    model: HookedTransformer, receivers: str | Sites, base: Run, named: Mapping[str, Tensor]
) -> list[Site] | None:
    """The sites that receive together; None for the logits."""
    if receivers == "logits":
        return None
    sites, stream = _as_sites(receivers, "receivers other than 'logits'"), Stream(model)
    for site in sites:
        if model.cfg.kv_latent and site.hook.endswith(ATTENTION_INPUTS):
            raise BadInput(
                "the heads of a layer of this model read a low-rank summary of the stream that they share, so that no "
                "head has an input of its own that could receive; use mlp_in or 'logits'"
            )
        if stream.place(site.hook).point.name not in {*stream.receivers} - {stream.stops[-1].hook}:
            raise BadInput(
                f"{site.hook} cannot be a receiver. Receivers are what reads the stream: q_input, k_input, v_input or "
                "mlp_in of a layer, or 'logits'"
            )
    found = [resolved(_with_full_name(model, site), named) for site in sites]
    _check_selection(model, base, found)
    return found


def _as_sites(sites: object, role: str) -> list[Site]:
    listed = list(sites) if isinstance(sites, Sequence) else [sites]
    found = [site for site in listed if isinstance(site, Site)]
    if not found or len(found) < len(listed):
        raise BadInput(f"{role} must be one or more sites such as at('z', 3, head=1), got {sites!r}")
    return found


def _with_full_name(model: HookedTransformer, site: Site) -> Site:
    return replace(site, hook=model.points(site.hook)[0].name)


# ------------------------------------------------------------------------------------------------------- where it leads


@dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """The base run, the other run, and all senders, ordered by layer; ready to be followed to some receivers."""

    stream: Stream
    runs: tuple[Run, Run]
    every: Sequence[Senders]
    metric: MetricLike
    mlps: MLPs
    max_memory: int
    progress: bool

    @property
    def model(self) -> HookedTransformer:
        return self.stream.model

    def to_logits(self) -> Evaluation:
        """Scores of the base run, the other run and all senders: final streams, unembedded where the metric reads.

        And, of the senders, which sites have another value in the other run.
        """
        base, (readout, score) = self.runs[0], reading(self.model, self.metric)
        rows = None if readout.pos is None else readout.positions(base)
        frozen = FrozenRun.record(self.stream, self.runs, self.every, ["logits"], self.mlps, rows)

        def scored(stream: Float[Tensor, "batch n d_model"]) -> Tensor:
            (logits,) = readout.read(self.model, stream.to(self.model.W_U.device), base, cut=rows is not None)
            return checked_score(score(logits), "a cell", len(base.tokens))

        scores = [scored(stream) for stream in frozen.final_streams]
        for together in self._together(frozen, self.max_memory - frozen.bytes - self._bytes_of_score(readout)):
            scores += [scored(stream) for stream in frozen.inputs(together)["logits"]]
        return Evaluation(torch.stack(scores), [frozen.differ(senders) for senders in self.every])

    def to_inputs(self, receivers: Sequence[Site]) -> Evaluation:
        """The same where the inputs noted down are what the receivers read in a run for each of the senders."""
        model, base = self.model, self.runs[0]
        read = torch.stack([places(model, [site], base.tokens).flatten(2).any(2) for site in receivers]).any(0)
        columns = read.any(0).nonzero()[:, 0]  # the positions that some receiver of some prompt reads
        wanted = {site.hook for site in receivers}
        frozen = FrozenRun.record(self.stream, self.runs, self.every, wanted, self.mlps, columns.expand(len(read), -1))

        def input_at(hook: str, stream: Float[Tensor, "batch n d_model"]) -> Float[Tensor, "batch pos ..."]:
            full = stream.new_zeros(*read.shape, stream.shape[-1])  # no receiver reads the zeros
            full[:, columns] = stream
            sizes = model.hook_dict[hook].sizes
            return full[:, :, None].expand(-1, -1, sizes["head"], -1) if "head" in sizes else full

        def run_of(place: int, noted: Mapping[str, Tensor]) -> Run:
            inputs = {hook: input_at(hook, stream[place]) for hook, stream in noted.items() if place < len(stream)}
            changes = [Intervention(site, inputs) for site in receivers if site.hook in inputs]
            return Run(base.tokens, changes, base.attention_mask)

        left = self.max_memory - frozen.bytes
        scores = [evaluate(model, self.runs, self.metric, max_memory=left)]
        for together in self._together(frozen, left // 2):  # the other half for the runs that receive
            noted = frozen.inputs(together)
            received = [run_of(place, noted) for place in range(len(together))]
            taken = len(received) * len(wanted) * self._bytes_of_input
            noted.clear()
            scores.append(evaluate(model, received, self.metric, max_memory=left - taken))
        return Evaluation(torch.cat(scores), [frozen.differ(senders) for senders in self.every])

    def _together(self, frozen: FrozenRun, left: int) -> Iterator[Sequence[Senders]]:
        """The senders to compute at once: as many as fit into so many bytes, and at least one."""
        cfg, stream = self.model.cfg, frozen.final_streams[0]
        batch, pos, rows = *frozen.tokens.shape, stream.shape[1]
        inside = 10 * cfg.d_model + (5 if cfg.gated_mlp else 3) * cfg.d_mlp
        heads = 2 * cfg.n_heads * cfg.d_head
        each = batch * (rows * (inside + heads) + (pos + rows) * len(frozen.wanted) * cfg.d_model)
        size = max(1, left // (each * stream.element_size()))
        with progress_bar(total=len(self.every), progress=self.progress, unit="path") as bar:
            for first in range(0, len(self.every), size):
                together = self.every[first : first + size]
                yield together
                bar.update(len(together))

    def _bytes_of_score(self, readout: Readout) -> int:
        """What a metric makes of the logits of one sender, if it reads all tokens."""
        batch, length = self.runs[0].tokens.shape
        read = length if readout.pos is None else 1
        size = torch.finfo(self.model.dtype).bits // 8
        return 4 * size * batch * read * self.model.cfg.d_vocab_out * (readout.tokens is None)

    @property
    def _bytes_of_input(self) -> int:
        """What one hook reads in a run of all prompts."""
        return self.runs[0].tokens.numel() * self.model.cfg.d_model * torch.finfo(self.model.dtype).bits // 8
