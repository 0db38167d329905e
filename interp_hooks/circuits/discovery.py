"""Finding circuits: how much does each edge of the graph matter?

    eap               (written elsewhere - written here) * dm/d(reader's input)     all edges from one backward pass
    eap_ig            the same with the gradient's mean on the way to the corrupt embeddings
    mask_gradient     dm/d(mask of the edge) at 0, which is what eap computes, from masks themselves
    node_attribution  the same for what heads and MLPs write, as a score of the edges between them
    acdc              removes edges one by one, last ones first, as long as the metric stays

A score is how much worse the metric gets, in its own units and as a mean over prompts, when the edge alone takes its
corrupt value: positive for an edge that helps. "Worse" is lower, and higher for a metric with `lower_is_better`.

EAP: Syed, Rager and Conmy 2023, arxiv.org/abs/2310.10348. EAP-IG: Hanna, Pezzelle and Belinkov 2024,
arxiv.org/abs/2403.17806. ACDC: Conmy et al. 2023, arxiv.org/abs/2304.14997.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.layout import Part
from interp_hooks.circuits.masked_edges import Ablation, MaskedEdges, Positions, setting, stacked
from interp_hooks.errors import BadInput, MetricError
from interp_hooks.experiments.gradients import Hooks, differentiable, finite
from interp_hooks.experiments.results.experiment import experiment, on_data
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.edges import scale_hook
from interp_hooks.interventions.readout import MetricLike, better, metric_name
from interp_hooks.interventions.runs import Prompts, Run, Source
from interp_hooks.model.transformer import HookedTransformer

Rule = Literal["midpoint", "left"]
AT_ONCE = 32  # removals that are tried together at most
ROUNDING = 100  # roundings that may add up in a score


# -------------------------------------------------------------------------------------------------------- by gradients


@experiment
def eap(
    model: HookedTransformer,
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Circuit:
    """Edge attribution patching: all edges, scored by a corrupt and a clean forward pass and one backward pass.

    `ablation` says what an edge's corrupt value is: its writer's in the corrupt run, 0 ("zero"), its mean over the
    corrupt prompts and their positions ("mean") or over the prompts alone ("position_mean": all of one length), or any
    source.

    With `positions`, each edge has a score at each of them and one at the "rest": token positions as ints, or by name,
    as an int or a tensor [prompt], a negative one from the last real token. Their sum is the score without positions.

    A metric that is at its best in the clean run, as the divergence from it, has no gradient there: it is refused where
    scores would be rounding errors alone. `eap_ig` can do with it.

    Raises:
        BadInput: prompts that do not correspond, a model without such a graph (`ComputationGraph`), or positions
            outside a prompt.
        MetricError: a metric that cannot be differentiated, or is flat in the clean run.
    """
    return edge_attributions(model, *setting(model, clean, corrupt, metric, ablation, positions))


@experiment
def eap_ig(
    model: HookedTransformer,
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    steps: int = 5,
    rule: Rule = "midpoint",
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Circuit:
    """`eap` with the mean of the gradients at `steps` points between the corrupt embeddings and the clean ones.

    With the midpoint rule the points lie at (k + 1/2) / steps of the way, with "left" at k / steps, which takes in the
    corrupt end alone, as the published code does. The scores of all edges from "input" sum to the difference of the
    metric between both ends, but for the error of the rule.

    Raises:
        BadInput, MetricError: as `eap`, and for fewer steps than 1 or an unknown rule.
    """
    offsets = {"midpoint": 0.5, "left": 0.0}
    if rule not in offsets or steps < 1:
        raise BadInput(f"expected at least 1 step and the rule 'midpoint' or 'left', got {steps} and {rule!r}")
    fractions = [(step + offsets[rule]) / steps for step in range(steps)]
    return edge_attributions(model, *setting(model, clean, corrupt, metric, ablation, positions), fractions)


@on_data
def edge_attributions(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    fractions: Sequence[float] | None = None,
) -> Circuit:
    """All edges, with the mean gradient at these fractions of the way to the clean embeddings, or that at its end."""
    edges = MaskedEdges(model, run, source, metric, positions)
    return edges.graph.scored(_attributions(edges, metric, fractions))


def _attributions(
    edges: MaskedEdges, metric: MetricLike, fractions: Sequence[float] | None = None
) -> Float[Tensor, "writer reader"]:
    """The change of what is written times the mean gradient at these fractions of the way to the clean embeddings.

    Without fractions it is the gradient of the run left alone, and the same pass tells the change.
    """
    changes, points = (None, [1.0]) if fractions is None else (edges.changes, fractions)
    total = torch.zeros(edges.graph.exists.shape, dtype=torch.float64, device=edges.model.device)
    for fraction in points:
        found, changes = _at_fraction(edges, metric, fraction, changes)
        total += found
    return _losses(edges, metric, total / len(points), "the attribution of an edge")


def _losses(
    edges: MaskedEdges, metric: MetricLike, gains: Float[Tensor, "writer reader"], what: str
) -> Float[Tensor, "writer reader"]:
    """How much worse the metric gets, from how much higher.

    Raises:
        MetricError: values that are not finite, or rounding errors beside what all edges together change.
    """
    largest = float(finite(gains, what).abs().max())
    noise = ROUNDING * torch.finfo(torch.promote_types(edges.model.dtype, torch.float32)).eps
    if largest < noise:  # so small scores are rare, and the passes that tell what they mean are not for all
        ends = torch.stack([torch.zeros_like(edges.graph.exists), edges.graph.exists])
        change = float(edges.of_kept(ends).double().mean(1).diff().abs())
        if change > noise and largest < noise * change:  # else there is no effect to find
            raise MetricError(
                f"{metric_name(metric)} is flat in the clean run: all edges together change it by {change:.2g}, but no "
                f"score is above {largest:.1g}. A divergence from that run, least there, is; use eap_ig or acdc"
            )
    return -better(metric) * gains


def _at_fraction(
    edges: MaskedEdges, metric: MetricLike, fraction: float, changes: Tensor | None
) -> tuple[Float[Tensor, "writer reader"], Float[Tensor, "batch pos writer d_model"]]:
    """The sum over positions, and mean over prompts, of change times gradient; the changes are found if not given."""
    graph, written = edges.graph, dict[str, Tensor]()

    def note(value: Tensor, hook: HookPoint) -> None:
        written[hook.name] = value.detach()

    hooks: Hooks = [(name, note) for name in edges.written]
    if changes is not None:
        hooks = [(graph.writer_parts[0].hook, _moved((1 - fraction) * changes[:, :, 0]))]
    done = differentiable(edges.model, edges.run, metric, [part.hook for part in graph.reader_parts], hooks)
    gradients = done.gradients()
    with torch.no_grad():
        changes = edges.changes_from(written) if changes is None else changes
        scores = torch.zeros(graph.exists.shape, dtype=torch.float64, device=changes.device)
        for part in graph.reader_parts:
            gradient = gradients[part.hook].to(changes)
            gradient = gradient if gradient.ndim == 4 else gradient[:, :, None]
            scores[: part.seen, part.places] = edges.summed(changes[:, :, : part.seen] @ gradient.mT)
    return scores / len(done.scores), changes


def _moved(change: Tensor) -> Callable[..., Tensor]:
    return lambda value, hook: value + change.to(value)


@experiment
def mask_gradient(
    model: HookedTransformer,
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Circuit:
    """All edges, scored by the gradient with respect to how much of each edge is corrupted, at none: equal to `eap`.

    (As in Miller, Chughtai and Saunders 2024, arxiv.org/abs/2407.08734.)

    Raises:
        BadInput, MetricError: as `eap`.
    """
    return mask_gradients(model, *setting(model, clean, corrupt, metric, ablation, positions))


@on_data
def mask_gradients(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
) -> Circuit:
    """All edges, with the gradient with respect to their masks."""
    edges = MaskedEdges(model, run, source, metric, positions)
    masks = torch.zeros(1, *edges.graph.exists.shape, dtype=model.dtype, device=model.device, requires_grad=True)
    scores = edges.scores(masks)
    if not scores.requires_grad:
        raise MetricError(
            f"{metric_name(metric)} has no gradient with respect to masks of edges: it counts or ranks, or is computed "
            "outside torch; use acdc instead, or another metric"
        )
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(scores.mean(), masks)
    return edges.graph.scored(_losses(edges, metric, gradient[0], "the gradient of a mask"))


@experiment
def node_attribution(
    model: HookedTransformer,
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    *,
    absolute: bool = True,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
) -> Circuit:
    """All edges, each with the lower score of its two ends, so that the top edges are those between the top nodes.

    A node's score is the attribution of what it writes, the sum of `eap` over all edges that begin there; with
    `absolute` its size. "input" and "logits" are in every circuit and count as the highest. Where heads share keys and
    values, an edge into these has the score of the best of them; of nodes at positions, one into keys or values has
    that of the best position.

    Raises:
        BadInput, MetricError: as `eap`.
    """
    return node_attributions(model, *setting(model, clean, corrupt, metric, ablation, positions), absolute)


@on_data
def node_attributions(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    absolute: bool,
) -> Circuit:
    """All edges, with the lower score of their ends."""
    edges = MaskedEdges(model, run, source, metric, positions)
    graph, n_labels = edges.graph, len(edges.graph.layout.labels)
    of_edges = _attributions(edges, metric).cpu()
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
    clean: Prompts,
    corrupt: Prompts | None,
    metric: MetricLike,
    threshold: float,
    *,
    start: Circuit | None = None,
    ablation: Ablation | Source = "corrupt",
    positions: Positions | None = None,
    progress: bool = False,
) -> Circuit:
    """Automatic circuit discovery: the edges whose removal makes the mean metric worse by `threshold` or more.

    Readers are visited from the logits back, and of each the writers from the last to the first; an edge that may go
    is removed for good. Scores are what the metric lost when the edge was tried. `start`, all edges by default, may be
    what a quicker method found: `eap(...).top(500, absolute=True)`. An edge into a node that no longer leads anywhere
    is removed untried.

    With all edges to start from, a pass begins at the layer of the reader that is visited; edges are tried together as
    if each were removed, and those after one that stays are tried again.

    Raises:
        BadInput: a threshold that is not above 0, an empty start, or one of another graph; else as `eap`.
    """
    if not threshold > 0:
        raise BadInput(f"threshold must be above 0, got {threshold}: at 0 edges that do nothing would stay")
    if start is not None and not len(start):
        raise BadInput("start has no edges, so there is nothing to remove")
    data = setting(model, clean, corrupt, metric, ablation, positions)
    kept = None if start is None else stacked(data.graph(model), [start])[0]
    return edges_that_matter(model, *data, threshold, kept, progress)


@on_data
def edges_that_matter(
    model: HookedTransformer,
    run: Run,
    source: Source,
    metric: MetricLike,
    positions: Mapping[str, int | Tensor] | None,
    threshold: float,
    kept: Bool[Tensor, "writer reader"] | None,
    progress: bool = False,
) -> Circuit:
    """Those that are left of `kept`, or of all edges, when all others have been removed."""
    edges = MaskedEdges(model, run, source, metric, positions)
    kept = (edges.graph.exists if kept is None else kept).clone()
    sign, scores = better(metric), torch.zeros(kept.shape, dtype=torch.float64)
    current = sign * float(edges.of_kept(kept[None]).double().mean())
    readers = [(part, reader) for part in edges.graph.reader_parts for reader in part.rows]
    for part, reader in tqdm(readers[::-1], disable=not progress, unit="reader"):
        if not _is_used(edges, kept, part, reader):
            kept[:, reader] = False
            continue
        current, stayed = _thinned(edges, kept, reader, current, threshold, sign)
        scores[[*stayed], reader] = torch.tensor([*stayed.values()], dtype=torch.float64)
    return Circuit(graph=edges.graph, kept=kept, scores=scores)


def _is_used(edges: MaskedEdges, kept: Bool[Tensor, "writer reader"], part: Part, reader: int) -> bool:
    """Whether an edge begins where what a reader reads may come out, or at a head that is normalized with that one.

    What the logits read is used.
    """
    if part.nodes.start == len(kept):
        return True
    begins = kept[part.nodes].unflatten(1, (-1, len(part.labels))).any(1)  # node label
    (written,) = [one for one in edges.graph.writer_parts if one.start <= part.nodes.start < one.places.stop]
    if scale_hook(edges.model, written.hook) is not None:
        begins[:] = begins.any(0)
    return bool(part.highest(begins).flatten()[reader - part.places.start])


def _thinned(
    edges: MaskedEdges, kept: Bool[Tensor, "writer reader"], reader: int, current: float, threshold: float, sign: int
) -> tuple[float, dict[int, float]]:
    """Remove a reader's edges from `kept` where that costs little; the metric then, and what those that stay are worth.

    The metric is taken times `sign`, so that high is good.
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
