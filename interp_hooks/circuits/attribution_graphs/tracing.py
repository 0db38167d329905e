"""How an attribution graph is made: rows by backward passes through the local replacement model, some at a time."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.local import Asker, LocalModel, Transcoders
from interp_hooks.circuits.attribution_graphs.nodes import ERROR, LOGIT, TOKEN
from interp_hooks.circuits.attribution_graphs.rows import Rows
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive
from interp_hooks.hooks.modes import study
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer

ROUNDING = 1e-3  # by which a sum may be off, for its summands' sizes


@study
def attribution_graph(
    model: HookedTransformer,
    prompt: str | Int[Tensor, " pos"],
    transcoders: Transcoders,
    *,
    max_logits: Positive = 10,
    mass: float = 0.95,
    max_features: Count | None = None,
    first_as_error: bool = False,
    at_once: Positive = 32,
    max_memory: int | None = None,
    progress: bool = True,
) -> AttributionGraph:
    """The attribution graph of a prompt's next token, through the features of per-layer or cross-layer transcoders.

    Logits are those of the fewest tokens whose probabilities together reach `mass`, at most `max_logits`. With
    `max_features` only so many features are traced, chosen by their influence on the logits as far as it is known; what
    the others contribute is `untraced`. `first_as_error` counts what MLPs write at the first position as errors, for a
    BOS token that transcoders were not trained on. `at_once` targets are traced in one backward pass.

    A long prompt has too many edges: they grow with the square of its features. `max_memory` bounds the bytes of edges,
    half of it, and of gradients, the other half: fewer targets are traced at once, and only the largest edges into each
    are kept, which is then told as `untraced` too. Beside it there are the attention patterns, a pass of one prompt
    with its graph, and some numbers for every active feature. Give `max_features` as well.

    Raises:
        BadInput: several prompts, transcoders of another model or of other hooks, or a model without MLPs.

    >>> from interp_hooks.circuits import attribution_graph
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False)
    >>> graph.pruned(0.8).table().columns[:4].tolist()
    ['node', 'name', 'kind', 'layer']
    """
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt
    if tokens.ndim != 1 or len(tokens) < 1:
        raise BadInput(f"an attribution graph is of one prompt: token ids [pos], got shape {list(tokens.shape)}")
    if not 0 < mass <= 1:
        raise BadInput(f"mass must be above 0 and at most 1, got {mass}")
    for name, value, least in (("max_features", max_features, 0), ("max_memory", max_memory, 1)):
        if value is not None and value < least:
            raise BadInput(f"{name} must be at least {least}, or None for all, got {value}")
    local = LocalModel(model, tokens, transcoders, first_as_error=first_as_error)
    return _Tracer(local, max_logits, mass).graph(max_features, at_once, max_memory, progress)


class _Tracer:
    """Rows of the graph: what each source contributes to a target, for one target after the other.

    Sources have the numbers of `local.places`, features first; logits follow them.
    """

    def __init__(self, local: LocalModel, max_logits: int, mass: float) -> None:
        self.local, self.model, self.inputs = local, local.model, local.transcoders.layers_in
        probabilities, ids = local.logits.double().softmax(-1).sort(descending=True, stable=True)
        count = min(max_logits, int((probabilities.cumsum(0) < mass).sum()) + 1)
        self.ids, self.probabilities = ids[:count], probabilities[:count]
        self.onto, self.constant = local.onto_logits(self.ids)
        counts = [len(found) for found in local.features]
        self.starts = [0, *itertools.accumulate(counts)]
        self.n_features, self.n_sources = self.starts[-1], len(local.places.kind)

    def graph(self, max_features: int | None, at_once: int, max_memory: int | None, progress: bool) -> AttributionGraph:
        """The graph of all features, or of the most influential ones."""
        most = self.n_features if max_features is None else min(max_features, self.n_features)
        asker, rows = self.local.asker({*self.inputs, self.local.final}), Rows(None)
        if max_memory is not None:
            rows = Rows(Rows.most_in(max_memory // 2, most + len(self.ids), self.onto.dtype))
            each = asker.bytes + 2 * self.n_sources * self.onto.itemsize
            at_once = min(at_once, max(1, max_memory // 2 // each))
        for start in range(0, len(self.ids), at_once):
            part = self.onto[start : start + at_once]
            found = self._asked(asker, self.local.final, part, [self.local.n_pos - 1] * len(part))
            rows.add(range(self.n_sources + start, self.n_sources + start + len(part)), found)
        with progress_bar(total=most, progress=progress, unit="feature") as bar:
            while (left := most - (len(rows.rows) - len(self.ids))) > 0:
                for layer, listed in self._by_layer(self._next(rows, most, left)).items():
                    for start in range(0, len(listed), at_once):
                        numbers = listed[start : start + at_once]
                        rows.add(numbers, self._features(asker, layer, numbers))
                        bar.update(len(numbers))
        graph = self._graph(rows)
        _refuse_unexplained(graph)
        return graph

    def _asked(self, asker: Asker, hook: str, rows: Tensor, positions: Sequence[int]) -> Tensor:
        cotangents = rows.new_zeros(len(rows), max(positions) + 1, rows.shape[1])
        cotangents[torch.arange(len(rows)), torch.as_tensor(positions)] = rows
        return self.local.contributions(asker.gradients(hook, cotangents)).flat()

    def _features(self, asker: Asker, layer: int, numbers: Sequence[int]) -> Tensor:
        found, places = self.local.features[layer], torch.as_tensor(numbers) - self.starts[layer]
        rows = self.local.transcoders.encoder_rows(layer, found.index[places].cpu())
        return self._asked(asker, self.inputs[layer], rows, found.pos[places].tolist())

    def _by_layer(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        listed: dict[int, list[int]] = {}
        for number in numbers:
            listed.setdefault(bisect.bisect(self.starts, number) - 1, []).append(number)
        return listed

    def _next(self, rows: Rows, most: int, left: int) -> list[int]:
        """The features to trace next, in ascending order: all, or those of most influence by the rows so far."""
        if most == self.n_features:
            return list(range(self.n_features))
        outputs = torch.zeros(self.n_sources + len(self.ids), dtype=torch.float64)
        outputs[self.n_sources :] = self.probabilities.cpu()
        layer = torch.cat((self.local.places.layer, torch.full((len(self.ids),), self.model.cfg.n_layers)))
        order = sorted(rows.rows, key=lambda number: -int(layer[number]))
        found = rows.influence(order, outputs)[: self.n_features]
        found[[number for number in rows.rows if number < self.n_features]] = -1.0
        return found.topk(min(left, max(1, most // 8))).indices.sort().values.tolist()

    def _of_logits(self, stream: Float[Tensor, "pos d_model"]) -> Float[Tensor, " logit"]:
        return stream[-1] @ self.onto.T.to(stream) + self.constant

    def _biases(self) -> Float[Tensor, " target"]:
        """What features and logits are where there is no source."""
        still = self.local.without_sources({*self.inputs, self.local.final})
        found = [
            self.local.transcoders.pre_of(layer, still[hook][0])[one.pos, one.index]
            for layer, (one, hook) in enumerate(zip(self.local.features, self.inputs, strict=True))
        ]
        return torch.cat((*found, self._of_logits(still[self.local.final][0])))

    def _graph(self, rows: Rows) -> AttributionGraph:
        local, model, places, n_logits = self.local, self.model, self.local.places, len(self.ids)
        real, text_of = torch.promote_types(model.dtype, torch.float32), names_of(model)
        targets = torch.cat((torch.arange(self.n_features), torch.arange(n_logits) + self.n_sources))
        traced = torch.zeros(self.n_sources + n_logits, dtype=torch.bool)
        traced[[*rows.rows]] = True
        nothing = torch.full(traced.shape, float("nan"), dtype=real)

        def of_targets(*parts: Tensor) -> Tensor:
            return nothing.index_copy(0, targets, torch.cat(parts).cpu().to(real))

        def with_logits(of_sources: Tensor, of_logits: Tensor | int) -> Tensor:
            return torch.cat((of_sources, torch.as_tensor(of_logits).cpu().expand(n_logits)))

        kind = with_logits(places.kind, LOGIT)
        kept = traced | (kind == ERROR) | (kind == TOKEN)
        source, target, weight, others = rows.edges(kept)
        graph = AttributionGraph(
            kind=kind,
            layer=with_logits(places.layer, model.cfg.n_layers),
            pos=with_logits(places.pos, local.n_pos - 1),
            index=with_logits(places.index, self.ids),
            value=of_targets(
                *(one.pre_activation for one in local.features), self._of_logits(local.recording[local.final][0])
            ),
            activation=of_targets(*(one.activation for one in local.features), self.probabilities),
            bias=of_targets(self._biases()).masked_fill(~traced, float("nan")),
            untraced=nothing.masked_scatter(traced, others.to(real)),
            source=source,
            target=target,
            weight=weight.to(real),
            tokens=local.tokens[0].cpu(),
            texts=[text_of(id) for id in local.tokens[0].tolist()],
            logit_texts=[text_of(id) for id in self.ids.tolist()],
            model_name=model.cfg.model_name,
            first_as_error=local.first_as_error,
        )
        return graph.induced(kept)


def _refuse_unexplained(graph: AttributionGraph) -> None:
    """Raises BadInput unless edges, untraced rest and bias sum up to the values: then something is not linear."""
    total = (graph.bias + graph.untraced).index_add(0, graph.target, graph.weight)
    off = (total - graph.value).abs().nan_to_num(0.0)
    size = (graph.bias + graph.untraced).abs().index_add(0, graph.target, graph.weight.abs())
    off = off / size.nan_to_num(1.0).clamp(min=torch.finfo(size.dtype).tiny)
    if bool((off > ROUNDING).any()):
        node = int(off.argmax())
        raise BadInput(
            f"what leads to {graph.name(node)} sums up to {float(total[node]):.5g}, and not to its value "
            f"{float(graph.value[node]):.5g}: this model is not linear where attention patterns and scales of norms "
            "are held, or too imprecise (try float32)"
        )
