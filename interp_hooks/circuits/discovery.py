"""Finding circuits: how much does each edge of the graph matter?

    eap               (written elsewhere - written here) * dm/d(reader's input), for all edges from one backward pass
    eap_ig            the same, with the mean of the gradients on the way from the corrupt embeddings to the clean ones
    mask_gradient     dm/d(mask of the edge) where no edge is masked: the same numbers as eap, from masks themselves
    node_attribution  eap for what heads and MLPs write, as scores of the edges between them
    acdc              removes edges one by one, the last ones first, as long as the metric stays

A score says how much worse the metric gets, in its own units and as a mean over prompts, when this edge alone takes its
corrupt value. It is positive for an edge that helps. "Worse" is lower, or higher for a metric with `lower_is_better`.

EAP: Syed, Rager and Conmy 2023, arxiv.org/abs/2310.10348. EAP-IG: Hanna, Pezzelle and Belinkov 2024,
arxiv.org/abs/2403.17806. ACDC: Conmy et al. 2023, arxiv.org/abs/2304.14997.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.circuits.changes import BLOCK, Changes
from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.graph import EdgeMask, EdgeMatrix
from interp_hooks.circuits.layout import Part
from interp_hooks.circuits.masked_edges import MaskedEdges, MaskedPass, SomePrompts, writers_of
from interp_hooks.circuits.setting import Ablation, Positions, setting, stacked
from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import Positive
from interp_hooks.experiments.backward_rules import BackwardRule, rules_named
from interp_hooks.experiments.differentiable import (
    Differentiable,
    Hooks,
    Pass,
    differentiated,
    finite,
    moved_by,
    parts_within,
    rough_bytes,
)
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.readout import MetricLike, better, metric_name
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, Run, SourceLike
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer

Rule = Literal["midpoint", "left"]
AT_ONCE = 32  # at most so many removals are tried together
FLAT = "masks of edges: it counts or ranks, or is computed outside torch; use acdc instead, or another metric"
ROUNDING = 100  # so many rounding errors may add up in a score


# -------------------------------------------------------------------------------------------------------- by gradients


@experiment
@on_data
def eap(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    rules: BackwardRule | None = None,
    max_memory: int | None = None,
) -> Circuit:
    """Edge attribution patching: all edges, scored by one corrupt and one clean forward pass and one backward pass.

        >>> scored = eap(model, clean, corrupt, metric)
        >>> circuit = scored.top(50, absolute=True).pruned()

    `ablation` says what an edge carries when it is corrupted: what its writer writes in the corrupt run, 0 ("zero"),
    the mean over the corrupt prompts and their positions ("mean"), the mean over the prompts position by position
    ("position_mean", for prompts of one length), or what is written in any other source.

    With `positions`, an edge has a score at each of them and one at the "rest". They are a list of ints, or a mapping
    from names to an int or a tensor [prompt]; a negative int counts from the last real token. The sum over positions is
    the score without them.

    `rules` holds some parts of the model constant in the backward pass (`backward_rules`), as in `attribution_patch`.

    `max_memory` bounds the bytes of activations, to within a third (default: as much as is of use and free): prompts
    that do not fit together are passed some at a time, with the same result. What a metric makes of all prompts
    together, and the passes of a single prompt, are computed however large they are. Prompts stay together where a
    source of ablated values is a function or a class of your own, and by default where hooks are attached.

    A metric that is at its best in the clean run, such as the divergence from it, has no gradient there: it is refused
    if all scores are rounding errors. `eap_ig` can deal with such a metric.

    Raises:
        BadInput: prompts that do not correspond, a model without such a graph (`ComputationGraph`), or positions
            outside a prompt.
        MetricError: a metric that cannot be differentiated, or is flat in the clean run.
    """
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions), max_memory)
    edges.objective = replace(edges.objective, rules=rules_named(rules))
    return edges.graph.scored(_attributions(edges))


@experiment
@on_data
def eap_ig(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    steps: Positive = 5,
    rule: Rule = "midpoint",
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Circuit:
    """Edge attribution patching with integrated gradients: `eap` with the mean of the gradients at several points.

        >>> scored = eap_ig(model, clean, corrupt, metric, steps=4)

    The points lie between the corrupt embeddings and the clean ones: at (k + 1/2) / steps of the way with the rule
    "midpoint", at k / steps with "left", which includes the corrupt end only, as the published code does. The scores of
    all edges from "input" sum to the difference of the metric between both ends, up to the error of the rule.

    Raises:
        BadInput, MetricError: as `eap`; also for less than 1 step, or an unknown rule.
    """
    fractions = fractions_of(steps, rule)
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions), max_memory)
    return edges.graph.scored(_attributions(edges, fractions, progress))


def fractions_of(steps: int, rule: Rule) -> list[float]:
    """How far on the way to the clean embeddings gradients are taken.

    Raises:
        BadInput: less than 1 step, or an unknown rule.
    """
    offsets = {"midpoint": 0.5, "left": 0.0}
    return [(step + offsets[rule]) / steps for step in range(steps)]


def _attributions(edges: MaskedEdges, fractions: Sequence[float] | None = None, progress: bool = False) -> EdgeMatrix:
    """The mean over prompts of what each edge adds to the metric, as `gains` gives it.

    Raises:
        MetricError: it is not finite, or mere rounding.
    """
    return _losses(edges, gains(edges, fractions, progress), "the attribution of an edge")


def gains(
    edges: MaskedEdges, fractions: Sequence[float] | None = None, progress: bool = False, *, by_prompt: bool = False
) -> Float[Tensor, "*prompt writer reader"]:
    """The change of what each writer writes times the mean gradient at these fractions of the way to the clean run.

    Without fractions it is the gradient of the clean run itself, and the same pass gives the change. It is the mean
    over prompts, or that of each.
    """
    graph, points = edges.graph, [1.0] if fractions is None else fractions
    of_prompts = [len(edges.run.tokens)] if by_prompt else []
    total = torch.zeros(*of_prompts, *graph.exists.shape, dtype=torch.float64, device=edges.model.device)
    names = [part.hook for part in graph.reader_parts]

    def attribute(rows: slice, done: Callable[[], object] = lambda: None) -> Iterator[Pass]:
        some = edges.some(rows)
        for fraction in points:

            def add(here: Differentiable, changes: Callable[[], Changes]) -> None:
                part = total[rows] if by_prompt else total
                part.add_(_attribution(some, here, changes, by_prompt))
                done()

            yield _pass_at(some, None if fractions is None else fraction, add)

    parts = parts_within(
        edges.objective,
        lambda: next(attribute(slice(0, 1))),
        names,
        edges.most,
        rough=rough_bytes(edges.model, edges.run.tokens.shape[1], per_head=True) + _bytes_beside(edges),
        takes=lambda kept, inputs: max(kept, 2 * inputs) + _bytes_beside(edges),
        passes=len(points),
    )
    with progress_bar(total=len(points) * len(parts), progress=progress, unit="step") as bar:
        differentiated(edges.objective, parts, lambda rows: attribute(rows, bar.update), names)
    return total / len(points)


def _bytes_beside(edges: MaskedEdges) -> int:
    """What the scores of edges take for each prompt, beside activations and their gradients."""
    graph, length = edges.graph, edges.run.tokens.shape[1]
    writers, features = writers_of(edges.stream, graph)
    readers = max(len(part.names) for part in graph.reader_parts)
    products = 3 * 8 * length * (writers + min(features, BLOCK)) * readers
    return edges.numbers.of_state * edges.model.W_E.element_size() + products


def _losses(edges: MaskedEdges, gains: EdgeMatrix, what: str) -> EdgeMatrix:
    """How much worse the metric gets, for each edge, from how much higher it gets.

    Raises:
        MetricError: the values are not finite, or mere rounding errors beside what all edges together change.
    """
    largest = float(finite(gains, what).abs().max())
    noise = ROUNDING * torch.finfo(torch.promote_types(edges.model.dtype, torch.float32)).eps
    metric = edges.objective.metric
    if largest < noise:  # only then are the passes needed that tell what such small scores mean
        ends = torch.stack([torch.zeros_like(edges.graph.exists), edges.graph.exists])
        change = float(edges.of_kept(ends).double().mean(1).diff().abs())
        if change > noise and largest < noise * change:  # otherwise there is no effect to find
            raise MetricError(
                f"{metric_name(metric)} is flat in the clean run: all edges together change it by {change:.2g}, but no "
                f"score is above {largest:.1g}. A divergence from that run, least there, is; use eap_ig or acdc"
            )
    return -better(metric) * gains


def _pass_at(
    some: SomePrompts, fraction: float | None, use: Callable[[Differentiable, Callable[[], Changes]], None]
) -> Pass:
    """A pass at this fraction of the way to the clean run (None: that run), used with what tells the changes."""
    graph, written = some.graph, dict[str, Tensor]()

    def note(value: Tensor, hook: HookPoint) -> None:
        written[hook.name] = value.detach()

    if fraction is None:
        hooks: Hooks = [(name, note) for name in some.written]
        return Pass(some.run, some.rows, hooks, lambda done: use(done, lambda: some.changes_from(written)))
    hooks = [(graph.writer_parts[0].hook, moved_by((1 - fraction) * some.changes.all_vectors[:, :, 0]))]
    return Pass(some.run, some.rows, hooks, lambda done: use(done, lambda: some.changes))


def _attribution(
    some: SomePrompts, done: Differentiable, changes_of: Callable[[], Changes], by_prompt: bool
) -> Float[Tensor, "*prompt writer reader"]:
    """Change times gradient, summed over positions, of each of some prompts or as their part of a mean over all."""
    gradients, graph = done.gradients(), some.graph
    with torch.no_grad():
        changes = changes_of()
        vectors = changes.all_vectors
        of_prompts = vectors.shape[:1] if by_prompt else ()
        scores = torch.zeros(*of_prompts, *graph.exists.shape, dtype=torch.float64, device=vectors.device)
        for part in graph.reader_parts:
            gradient = gradients.pop(part.hook).to(vectors)
            gradient = gradient if gradient.ndim == 4 else gradient[:, :, None]
            for writers, products in changes.along(gradient, part.seen):
                scores[..., writers, part.places] = some.summed(products, by_prompt)
    return scores if by_prompt else scores / len(done.scores)


@experiment
@on_data
def mask_gradient(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Circuit:
    """All edges, scored by the gradient of the metric with respect to how much of each edge is corrupted.

    The gradient is taken where nothing is corrupted, so that scores are equal to those of `eap`, which is faster; this
    is the definition by masks of Miller, Chughtai and Saunders 2024, arxiv.org/abs/2407.08734.

    Raises:
        BadInput, MetricError: as `eap`.
    """
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions), max_memory)
    objective = replace(edges.objective, flat=FLAT)
    masks = torch.zeros(1, *edges.graph.exists.shape, dtype=model.dtype, device=model.device, requires_grad=True)
    total = torch.zeros_like(masks)

    def add(done: Differentiable) -> None:
        total.add_(torch.autograd.grad(done.of, masks, done.cotangent)[0] / len(done.scores))

    def masked(rows: slice) -> list[Pass]:
        some = edges.some(rows)
        return [Pass(some.run, rows, MaskedPass(some, masks).hooks, add)]

    parts = parts_within(
        objective,
        lambda: masked(slice(0, 1))[0],
        [],
        edges.most,
        rough=torch.inf,
        takes=lambda kept, inputs: kept + _bytes_beside(edges),
    )
    differentiated(objective, parts, masked, [])
    return edges.graph.scored(_losses(edges, total[0], "the gradient of a mask"))


@experiment
@on_data
def node_attribution(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    absolute: bool = True,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
) -> Circuit:
    """All edges, each with the lower score of its two ends, so that the top edges are those between the top nodes.

    A node's score is the attribution of what it writes: the sum of `eap` over all edges that begin there, or with
    `absolute` the size of this sum. "input" and "logits", which are in every circuit, count as the highest. Where heads
    share keys and values, an edge into these counts as leading to the highest of the heads; with positions, an edge
    into keys or values counts as leading to the position where the head's score is highest.

    Raises:
        BadInput, MetricError: as `eap`.
    """
    edges = MaskedEdges(model, *setting(model, clean, corrupt, metric, ablation, positions), max_memory)
    graph, n_labels = edges.graph, len(edges.graph.layout.labels)
    of_edges = _attributions(edges).cpu()
    nodes = of_edges.unflatten(1, (-1, n_labels)).sum(1)  # writer label
    nodes = nodes.abs() if absolute else nodes
    nodes[0] = best = nodes.max()
    with_logits = torch.cat([nodes, best.expand(1, n_labels)])
    readers = torch.cat([part.highest(with_logits[part.nodes]) for part in graph.reader_parts])  # name label
    return graph.scored(torch.minimum(nodes[:, None], readers).flatten(1))


# ---------------------------------------------------------------------------------------------------------- by removal


@experiment
def acdc(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: MetricLike,
    threshold: float,
    *,
    start: Circuit | None = None,
    ablation: Ablation | SourceLike = "corrupt",
    positions: Positions | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Circuit:
    """Automatic circuit discovery: the edges whose removal makes the mean metric worse by `threshold` or more.

        >>> start = eap(model, clean, corrupt, metric).top(20, absolute=True)
        >>> circuit = acdc(model, clean, corrupt, metric, threshold=0.5, start=start)

    Readers are visited from the logits back, and the writers that each reads from the last to the first. An edge whose
    removal costs less than the threshold is removed for good; the score of one that stays is what its removal cost.
    Edges into a node from which no edge is left are removed without a trial. `start` are the edges to begin with, all
    by default; with the best edges of a quicker method, as above, the search takes less time.

    Several edges are removed together in the hope that all may go; those after one that has to stay are tried again.
    If all edges are there at the start, a pass begins only at the layer of the reader that is visited. `max_memory` is
    as in `eap`.

    Raises:
        BadInput: a threshold that is not above 0, an empty start, or one of another graph; else as `eap`.
    """
    if not threshold > 0:
        raise BadInput(f"threshold must be above 0, got {threshold}: at 0 edges that do nothing would stay")
    if start is not None and not len(start):
        raise BadInput("start has no edges, so there is nothing to remove")
    data = setting(model, clean, corrupt, metric, ablation, positions)
    kept = None if start is None else stacked(data.graph(model), [start])[0]
    return edges_that_matter(model, *data, threshold, kept, max_memory=max_memory, progress=progress)


@on_data
def edges_that_matter(
    model: HookedTransformer,
    run: Run,
    source: SourceLike,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    threshold: float,
    kept: EdgeMask | None,
    *,
    max_memory: int | None = None,
    progress: bool = True,
) -> Circuit:
    """The edges that are left of `kept`, or of all edges, when the others have been removed one after the other."""
    edges = MaskedEdges(model, run, source, metric, positions, max_memory)
    kept = (edges.graph.exists if kept is None else kept).clone()
    sign, scores = better(metric), torch.zeros(kept.shape, dtype=torch.float64)
    current = sign * float(edges.of_kept(kept[None]).double().mean())
    readers = [(part, reader) for part in edges.graph.reader_parts for reader in part.rows]
    for part, reader in progress_bar(readers[::-1], progress=progress, unit="reader"):
        if not _is_used(edges, kept, part, reader):
            kept[:, reader] = False
            continue
        current, stayed = _thinned(edges, kept, reader, current, threshold, sign)
        scores[[*stayed], reader] = torch.tensor([*stayed.values()], dtype=torch.float64)
    return Circuit(graph=edges.graph, kept=kept, scores=scores)


def _is_used(edges: MaskedEdges, kept: EdgeMask, part: Part, reader: int) -> bool:
    """Whether what a reader reads gets anywhere: some kept edge begins at a node, and position, where it comes out.

    Heads that are normalized together change each other's shares, so for these an edge from any of them counts. What
    the logits read is always used.
    """
    if part.nodes.start == len(kept):
        return True
    begins = kept[part.nodes].unflatten(1, (-1, len(part.labels))).any(1)  # node label
    (written,) = [one for one in edges.graph.writer_parts if one.start <= part.nodes.start < one.places.stop]
    if edges.stream.scale_of(written.hook) is not None:
        begins[:] = begins.any(0)
    return bool(part.highest(begins).flatten()[reader - part.places.start])


def _thinned(
    edges: MaskedEdges, kept: EdgeMask, reader: int, current: float, threshold: float, sign: int
) -> tuple[float, dict[int, float]]:
    """Remove those of a reader's edges from `kept` whose removal costs less than the threshold.

    Returns the metric after that and, by writer, what the removal of each edge that stays would cost. The metric is
    multiplied by `sign`, so that high is good.
    """
    waiting, together = kept[:, reader].nonzero()[:, 0].tolist()[::-1], 1
    stayed: dict[int, float] = {}
    while waiting:
        tried = waiting[:together]
        without = kept.repeat(len(tried), 1, 1)
        for place, writer in enumerate(tried):
            without[place:, writer, reader] = False
        values = [current, *(sign * edges.of_kept(without).double().mean(1)).tolist()]
        losses = [before - after for before, after in itertools.pairwise(values)]
        removed = next((place for place, loss in enumerate(losses) if loss >= threshold), len(tried))
        kept[tried[:removed], reader] = False
        current = values[removed]
        waiting = waiting[removed:]
        together = min(2 * together, AT_ONCE)
        if removed < len(tried):
            stayed[waiting.pop(0)] = losses[removed]
            together = 1
    return current, stayed
