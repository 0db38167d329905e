"""Which heads work together: every head, and every head of a later layer, that the one may feed.

    parts      what comes to the reader through the sender on these prompts         (`composing`)
    shares     the same over all that comes to the reader
    weights    |W_OV W_QK| over the norms of both, on no prompt at all              (`weight_composition`)
    effects    what path patching does to a metric: the cause, at the price of a pass for each reader and sender

The first three are guesses at the fourth, or at the edges of a circuit that is known. How good they are is told by
their correlation with it, and by the area under the curve (AUC): how often a true pair is ranked before another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.frozen import MLPs
from interp_hooks.experiments.patching import Direction
from interp_hooks.experiments.paths import path_patch
from interp_hooks.experiments.ranking import area_under_roc, ranks
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, TaskLike
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.heads.affinity import weight_composition
from interp_hooks.studies.heads.composing import composition_parts
from interp_hooks.studies.heads.scores import Place, at_places

GUESSES = ("part", "share", "weight")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ComposingHeads(Shown):
    """How much every head works with every earlier one; results have the axes via, sender and reader.

    Pairs whose sender is in no earlier layer are nan. Prints as its table.
    """

    parts: Result
    shares: Result
    weights: Result

    @property
    def pairs(self) -> Bool[Tensor, "via sender reader"]:
        """Which cells are pairs that can work together."""
        return ~self.parts.values[..., 0].isnan()

    def guesses(self, via: int) -> dict[str, Float[Tensor, " pair"]]:
        """The sizes of what the three say about all pairs."""
        results = zip(GUESSES, (self.parts, self.shares, self.weights), strict=True)
        return {name: result.mean[via].abs().double()[self.pairs[via]].nan_to_num(0.0) for name, result in results}

    def table(self) -> pd.DataFrame:
        """A row for each pair and input of the reader: the largest shares first.

        `same_sign` is the share of prompts whose part has the sign of the mean.
        """
        axes = self.parts.axes
        rows = [
            (axes["via"][via], axes["sender"][sender], axes["reader"][reader])
            for via, sender, reader in self.pairs.nonzero().tolist()
        ]
        table = pd.DataFrame(rows, columns=["via", "sender", "reader"])
        for name, result in zip(GUESSES, (self.parts, self.shares, self.weights), strict=True):
            table[name] = result.mean[self.pairs].tolist()
        agree = self.parts.values.sign() == self.parts.mean.sign()[..., None]
        table["same_sign"] = agree.double().mean(-1)[self.pairs].tolist()
        order = table["share"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

    def against(self, effects: Result) -> Result:
        """The correlation of sizes with those of `path_effects`, over all pairs: for each input and guess, two numbers.

        The axis "kind" has "pearson", that of values, and "spearman", that of ranks; nan where one side is the
        same everywhere.

        Raises:
            BadInput: effects of other heads or inputs.
        """
        if {**effects.axes} != {**self.parts.axes}:
            raise BadInput("effects must be those of path_effects, on the same model and inputs (via)")

        def both(number: int, said: Tensor) -> list[Tensor]:
            sides = torch.stack((said, effects.mean[number].abs().double()[self.pairs[number]]))
            ranked = torch.stack([ranks(side) for side in sides])
            return [torch.corrcoef(sides)[0, 1], torch.corrcoef(ranked)[0, 1]]

        return self._judged("correlation", both, kind=["pearson", "spearman"])

    def auc(self, true: Collection[Sequence[str]] | Bool[Tensor, "via sender reader"]) -> Result:
        """How often a true pair is ranked before another one, ties counting half: a number for each input and guess.

        `true` are edges, ("a0.h1", "a2.h0<q>"), as in `GroundTruth.circuit`, or a mask of cells. It is nan for inputs
        of which no pair is true, or all are.

        Raises:
            BadInput: a mask of another shape.
        """
        mask = true if isinstance(true, Tensor) else self._mask(true)
        if mask.shape != self.pairs.shape or mask.dtype != torch.bool:
            shape = list(self.pairs.shape)
            raise BadInput(f"a mask must be bool, [via, sender, reader] = {shape}, got {mask.dtype} {list(mask.shape)}")

        def area(number: int, said: Tensor) -> float:
            return area_under_roc(said, mask[number][self.pairs[number]])

        return self._judged("auc", area)

    def _judged(self, name: str, judge: Callable[[int, Tensor], Any], **more: Sequence[str]) -> Result:
        """What `judge` says of each input (its number) and each guess at its pairs; further axes are `more`."""
        vias = self.parts.axes["via"]
        values = [[judge(number, said) for said in self.guesses(number).values()] for number in range(len(vias))]
        axes: dict[str, Sequence[Any]] = {"via": vias, "guess": list(GUESSES), **more}
        return Result(metric=name, axes=axes, values=torch.tensor(values, dtype=torch.float64)[..., None])

    def _mask(self, edges: Collection[Sequence[str]]) -> Bool[Tensor, "via sender reader"]:
        """The cells of edges between heads."""
        axes = self.parts.axes
        known = {tuple(edge) for edge in edges}
        nodes = [label.replace("L", "a").replace("H", ".h") for label in axes["reader"]]  # as circuits call them
        readers = [[f"{node}<{via.lower()}>" for node in nodes] for via in axes["via"]]
        return torch.tensor([[[(sender, one) in known for one in row] for sender in nodes] for row in readers])


@checked
def composing_heads(
    model: HookedTransformer,
    prompts: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    *,
    via: Sequence[Composition] = ("Q", "K", "V"),
    query: Place | None = None,
) -> ComposingHeads:
    """How much every head works with every earlier one on some prompts, by queries, keys and values.

    Parts are those of `composition_parts`, at `query` or as a mean over all queries. With `corrupt` prompts (of a task:
    its own; None for none) parts are what the pair of prompts changes, and find what a circuit does with the
    difference; without, all that the heads do together. Shares are of all that comes to the reader.

    Raises:
        BadInput: as `composition_parts`; a model without a layer after the first.

    >>> found = composing_heads(model, pairs, query="end")
    >>> found.table().columns.tolist()
    ['via', 'sender', 'reader', 'part', 'share', 'weight', 'same_sign']
    """
    if corrupt is OF_TASK:
        corrupt = prompts.corrupt if isinstance(prompts, TaskLike) else None
    return ComposingHeads(**composed(model, prompts, corrupt, via=list(via), query=query))


@at_places
@on_data
@no_gradients
def composed(
    model: HookedTransformer,
    prompts: PromptsLike,
    corrupt: PromptsLike | None,
    *,
    via: Sequence[Composition],
    query: Place | None,
) -> dict[str, Result]:
    """The results of `composing_heads`, by their names."""
    _check(model, [*via])
    labels, heads = model.all_head_labels(), model.cfg.n_heads
    layer = torch.arange(len(labels)) // heads
    never = (layer[:, None] >= layer)[..., None]
    parts, shares, weights = [], [], []
    for one in via:
        whole = composition_parts(model, prompts, one, query=query)
        found = whole if corrupt is None else composition_parts(model, prompts, one, query=query, corrupt=corrupt)
        rows = [found.axes["sender"].index(label) for label in labels[:-heads]]
        values = torch.cat((found.values[rows], found.values.new_zeros(heads, *found.values.shape[1:])))
        total = whole.values.sum(0).mean(-1)
        parts.append(values.masked_fill(never, float("nan")))
        shares.append(parts[-1] / total.where(total != 0, float("nan"))[:, None])
        weights.append(_weight_scores(model, one).masked_fill(never, float("nan")))
    axes = {"via": list(via), "sender": labels, "reader": labels}
    named = zip(("part", "share", "weight"), (parts, shares, weights), strict=True)
    return {f"{name}s": Result(metric=name, axes=axes, values=torch.stack(values)) for name, values in named}


def _check(model: HookedTransformer, via: list[Composition]) -> None:
    if not via or not {*via} <= {*get_args(Composition)} or len({*via}) < len(via):
        raise BadInput(f"via must be one or more of 'Q', 'K' and 'V', each once, got {via!r}")
    if model.cfg.n_layers < 2:
        raise BadInput("heads work with those of earlier layers, and this model has a single layer")


def _weight_scores(model: HookedTransformer, via: Composition) -> Float[Tensor, "sender reader 1"]:
    """The composition scores of all pairs, 0 where a matrix is zero; nan for latent attention, which has none."""
    n = model.cfg.n_layers * model.cfg.n_heads
    if model.cfg.kv_latent:
        return torch.full((n, n, 1), float("nan"))
    return weight_composition(model, via).score.values.nan_to_num(0.0)


@experiment
@on_data
def path_effects(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    via: Sequence[Composition] = ("Q", "K", "V"),
    mlps: MLPs = "freeze",
    direction: Direction = "noise",
    progress: bool = False,
) -> Result:
    """What each head does to a metric through each later head's queries, keys or values, by path patching.

    The result's axes are via, sender and reader, as in `composing_heads`, and its values the change of the metric.
    MLPs on the way keep what they write, unless `mlps="recompute"`. Query heads that share keys and values share their
    effects. One pass for each reader and sender, from the reader's layer on.

    Raises:
        BadInput: as `path_patch`.

    >>> path_effects(model, pairs, via=["Q"]).axes["via"]
    ['Q']
    """
    _check(model, [*via])
    cfg, labels = model.cfg, model.all_head_labels()
    values: Tensor | None = None
    for number, one in enumerate(via):
        for layer in range(1, cfg.n_layers):
            for head in range(cfg.n_heads):
                own = head if one == "Q" else head * cfg.kv_heads_at(layer) // cfg.n_heads
                receiver = at(f"{one.lower()}_input", layer, head=own)
                options: dict[str, Any] = dict(layers=range(layer), mlps=mlps, direction=direction, progress=progress)
                found = path_patch(model, clean, corrupt, metric, "z", receiver, **options)
                change = (found.values - found.baselines[found.reference or ""]).flatten(0, 1)
                if values is None:
                    values = change.new_full((len(via), len(labels), len(labels), change.shape[-1]), float("nan"))
                values[number, : len(change), layer * cfg.n_heads + head] = change
    assert values is not None
    return Result(metric="effect", axes={"via": list(via), "sender": labels, "reader": labels}, values=values)
