"""Attribution graphs: which features of a prompt, through which others, lead to the next token.

    graph = attribution_graph(model, "The capital of France is", transcoders)
    graph.scores()                     how much of it goes through features, and how much through errors
    small = graph.pruned()             the nodes and edges that matter
    small.into(small.logits[0])        what feeds a node, the most important first

Nodes are active features, errors, tokens and logits. An edge's weight is what its source contributes to its target's
pre-activation or logit in the local replacement model (see `local`), exactly: into each traced node edges, the
`untraced` rest and the `bias` sum up to its `value` (Ameisen et al. 2025, transformer-circuits.pub/2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.influence import influence, largest_until, shares
from interp_hooks.circuits.attribution_graphs.local import Asker, LocalModel, Transcoders
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("feature", "error", "token", "logit")
FEATURE, ERROR, TOKEN, LOGIT = range(4)
ROUNDING = 1e-3  # by which a sum may be off, for its summands' sizes


class Scores(NamedTuple):
    """How much of what leads to the logits is explained (1 if there were no errors).

    `replacement` is the share of influence that ends at tokens and not at errors, `completeness` the share of all
    nodes' inputs, weighted by the nodes' influence, that is not an error.
    """

    replacement: float
    completeness: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionGraph:
    """The nodes and edges of one prompt's attribution graph.

    By node: its `kind` (0 feature, 1 error, 2 token, 3 logit), its `layer` (-1 of tokens, the number of layers of
    logits), its `pos`, its `index` (number of the feature, id of the token), its `value` (what edges into it sum up to:
    a pre-activation, or a logit less the mean), its `activation` (a feature's; a logit's probability), its `bias`, and
    `untraced`, what comes from features that are not in the graph. The last three are nan where they mean nothing.
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    value: Float[Tensor, " node"]
    activation: Float[Tensor, " node"]
    bias: Float[Tensor, " node"]
    untraced: Float[Tensor, " node"]
    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    tokens: Int[Tensor, " pos"]
    texts: Sequence[str]
    logit_texts: Sequence[str]
    model_name: str
    first_as_error: bool = False

    def __len__(self) -> int:
        return len(self.kind)

    def of_kind(self, kind: int) -> Int[Tensor, " n"]:
        """The nodes of a kind."""
        return (self.kind == kind).nonzero()[:, 0]

    @property
    def features(self) -> list[int]:
        """The nodes that are features."""
        return self.of_kind(FEATURE).tolist()

    @property
    def logits(self) -> list[int]:
        """The nodes that are logits, the most probable first."""
        return self.of_kind(LOGIT).tolist()

    def name(self, node: int) -> str:
        """What a node is called: "L3 pos 5 f1027", "L3 pos 5 error", "pos 5 ' Paris'", "logit ' Paris' (0.82)"."""
        kind, layer, pos, index = (int(one[node]) for one in (self.kind, self.layer, self.pos, self.index))
        if kind == LOGIT:
            return f"logit {self.logit_texts[self.logits.index(node)]!r} ({float(self.activation[node]):.2f})"
        if kind == TOKEN:
            return f"pos {pos} {self.texts[pos]!r}"
        return f"L{layer} pos {pos} " + (f"f{index}" if kind == FEATURE else "error")

    # ------------------------------------------------------------------------------------------------------ influence

    @cached_property
    def _shares(self) -> Float[Tensor, " edge"]:
        return shares(self.target, self.weight, len(self))

    @cached_property
    def _outputs(self) -> Float[Tensor, " node"]:
        return torch.where(self.kind == LOGIT, self.activation, 0.0)

    @cached_property
    def influence(self) -> Float[Tensor, " node"]:
        """How much each node matters for the logits, by all paths; those of logits' own weights are not counted."""
        return influence(self.source, self.target, self._shares, self._outputs)

    def scores(self) -> Scores:
        """How much of the graph leads back to tokens, and not to errors."""
        found, errors = self.influence, self.kind == ERROR
        of_tokens, of_errors = float(found[self.kind == TOKEN].sum()), float(found[errors].sum())
        into = found.new_zeros(len(self)).index_add(0, self.target, self._shares * errors[self.source])
        counted = found + self._outputs
        complete = float(((1 - into) * counted).sum() / counted.sum())
        return Scores(of_tokens / (of_tokens + of_errors) if of_tokens + of_errors else 1.0, complete)

    @checked
    def pruned(self, nodes: float = 0.8, edges: float = 0.98) -> AttributionGraph:
        """The graph of the features and errors that have most influence, and of the edges that carry it.

        Kept are as many of the largest as make up these shares of all influence; tokens and logits stay, and a feature
        or an error without a way to the logits goes. What the other nodes contribute is `untraced`, or left out.

        Raises:
            BadInput: a share that is not above 0 and at most 1.
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 < share <= 1:
                raise BadInput(f"{name} must be a share above 0 and at most 1, got {share}")
        kept = largest_until(self.influence, nodes) | (self.kind == TOKEN) | (self.kind == LOGIT)
        smaller = self.induced(kept)
        carries = smaller._shares * (smaller.influence + smaller._outputs)[smaller.target]
        smaller = smaller.with_edges(largest_until(carries, edges))
        while True:
            stays = (smaller.kind == TOKEN) | (smaller.kind == LOGIT)
            stays[smaller.source] = True
            fed = torch.zeros_like(stays)
            fed[smaller.target] = True
            stays &= fed | (smaller.kind != FEATURE)
            if bool(stays.all()):
                return smaller
            smaller = smaller.induced(stays)

    def induced(self, nodes: Bool[Tensor, " node"]) -> AttributionGraph:
        """The graph of some nodes; what the others contribute becomes `untraced`."""
        number = torch.cumsum(nodes, 0) - 1
        gone = nodes[self.target] & ~nodes[self.source]
        untraced = self.untraced.index_add(0, self.target[gone], self.weight[gone])
        edges = nodes[self.target] & nodes[self.source]
        listed = {
            one: getattr(self, one)[nodes] for one in ("kind", "layer", "pos", "index", "value", "activation", "bias")
        }
        texts = [text for text, node in zip(self.logit_texts, self.logits, strict=True) if bool(nodes[node])]
        return dataclasses.replace(
            self,
            **listed,
            untraced=untraced[nodes],
            source=number[self.source[edges]],
            target=number[self.target[edges]],
            weight=self.weight[edges],
            logit_texts=texts,
        )

    def with_edges(self, kept: Bool[Tensor, " edge"]) -> AttributionGraph:
        """The graph of some edges; what the others carry becomes `untraced`."""
        untraced = self.untraced.index_add(0, self.target[~kept], self.weight[~kept])
        listed = {one: getattr(self, one)[kept] for one in ("source", "target", "weight")}
        return dataclasses.replace(self, **listed, untraced=untraced)

    # --------------------------------------------------------------------------------------------------------- tables

    def table(self) -> pd.DataFrame:
        """A row for each node, the most influential first within each kind."""
        import pandas as pd

        columns = {name: getattr(self, name).tolist() for name in ("layer", "pos", "index", "value", "activation")}
        columns |= {
            "bias": self.bias.tolist(),
            "untraced": self.untraced.tolist(),
            "influence": self.influence.tolist(),
        }
        names = {"node": range(len(self)), "name": [self.name(node) for node in range(len(self))]}
        kinds = {"kind": [KINDS[kind] for kind in self.kind.tolist()]}
        return pd.DataFrame(names | kinds | columns).sort_values(["kind", "influence"], ascending=[True, False])

    @checked
    def into(self, node: int, k: Count = 10) -> pd.DataFrame:
        """The `k` edges of largest weight into a node, with what feeds it."""
        return self._edges(self.target == self._real(node), k)

    @checked
    def out_of(self, node: int, k: Count = 10) -> pd.DataFrame:
        """The `k` edges of largest weight out of a node."""
        return self._edges(self.source == self._real(node), k)

    def _edges(self, which: Bool[Tensor, " edge"], k: int) -> pd.DataFrame:
        import pandas as pd

        edges = which.nonzero()[:, 0]
        edges = edges[self.weight[edges].abs().argsort(descending=True, stable=True)[:k]]
        ends = {name: getattr(self, name)[edges].tolist() for name in ("source", "target")}
        names = {f"{name}_name": [self.name(node) for node in nodes] for name, nodes in ends.items()}
        return pd.DataFrame(ends | names | {"weight": self.weight[edges].tolist()})

    def _real(self, node: int) -> int:
        if not 0 <= node < len(self):
            raise BadInput(f"node must be 0..{len(self) - 1}, got {node}")
        return node

    def __repr__(self) -> str:
        counts = [f"{int((self.kind == place).sum())} {kind}s" for place, kind in enumerate(KINDS)]
        return f"AttributionGraph({', '.join(counts)}; {len(self.weight)} edges; of {''.join(self.texts)!r:.60})"


@no_gradients
@checked
def attribution_graph(
    model: HookedTransformer,
    prompt: str | Int[Tensor, " pos"],
    transcoders: Transcoders,
    *,
    max_logits: Count = 10,
    mass: float = 0.95,
    max_features: Count | None = None,
    first_as_error: bool = False,
    at_once: Count = 32,
    progress: bool = True,
) -> AttributionGraph:
    """The attribution graph of a prompt's next token, through the features of per-layer or cross-layer transcoders.

    Logits are those of the fewest tokens whose probabilities together reach `mass`, at most `max_logits`. With
    `max_features` only so many features are traced, chosen by their influence on the logits as far as it is known; what
    the others contribute is `untraced`. `first_as_error` counts what MLPs write at the first position as errors, for a
    BOS token that transcoders were not trained on. `at_once` targets are traced in one backward pass, which is what
    memory goes by: a pass with its graph over so many copies of the prompt.

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
    if not 0 < mass <= 1 or max_logits < 1 or at_once < 1:
        raise BadInput("mass must be above 0 and at most 1, and max_logits and at_once at least 1")
    if max_features is not None and max_features < 0:
        raise BadInput(f"max_features must be at least 0, or None for all, got {max_features}")
    local = LocalModel(model, tokens, transcoders, first_as_error=first_as_error)
    return _Tracer(local, max_logits, mass).graph(max_features, at_once, progress)


class _Tracer:
    """Rows of the graph: what each source contributes to a target, for one target after the other."""

    def __init__(self, local: LocalModel, max_logits: int, mass: float) -> None:
        self.local, self.model = local, local.model
        probabilities, ids = local.logits.double().softmax(-1).sort(descending=True, stable=True)
        count = min(max_logits, int((probabilities.cumsum(0) < mass).sum()) + 1)
        self.ids, self.probabilities = ids[:count], probabilities[:count]
        self.n_features = sum(map(len, local.features))
        self.n_sources = self.n_features + local.errors.shape[0] * local.n_pos + local.n_pos
        self.starts = [0]
        for found in local.features:
            self.starts.append(self.starts[-1] + len(found))

    def graph(self, max_features: int | None, at_once: int, progress: bool) -> AttributionGraph:
        watch = {*self.local.transcoders.layers_in, self.local.final}
        still, asker = self.local.without_sources(watch), self.local.asker(at_once, watch)
        rows: dict[int, Tensor] = {}
        onto, constant = self.local.onto_logits(self.ids)
        for start in range(0, len(onto), at_once):
            part = onto[start : start + at_once]
            for place, row in enumerate(self._asked(asker, self.local.final, part, [self.local.n_pos - 1] * len(part))):
                rows[self.n_sources + start + place] = row
        most = self.n_features if max_features is None else min(max_features, self.n_features)
        with progress_bar(total=most, progress=progress, unit="feature") as bar:
            while len(rows) - len(onto) < most:
                chosen = self._next(rows, most, most - (len(rows) - len(onto)))
                for layer, listed in self._by_layer(chosen).items():
                    for start in range(0, len(listed), at_once):
                        numbers = listed[start : start + at_once]
                        for number, row in zip(numbers, self._features(asker, layer, numbers), strict=True):
                            rows[number] = row
                        bar.update(len(numbers))
        biases = [still[self.local.final][0, -1] @ onto.T.to(still[self.local.final]) + constant]
        for layer, (found, hook) in enumerate(zip(self.local.features, self.local.transcoders.layers_in, strict=True)):
            pre = self.local.transcoders.pre_of(layer, still[hook][0])
            biases.insert(layer, pre[found.pos, found.index])
        values = self.local.recording[self.local.final][0, -1] @ onto.T.to(still[self.local.final]) + constant
        graph = self._graph(rows, torch.cat(biases[:-1]), biases[-1], values)
        _refuse_unexplained(graph)
        return graph

    def _asked(self, asker: Asker, hook: str, rows: Tensor, positions: Sequence[int]) -> Tensor:
        cotangents = rows.new_zeros(len(rows), self.local.n_pos, rows.shape[1])
        cotangents[torch.arange(len(rows)), torch.as_tensor(positions)] = rows
        return self.local.contributions(asker.gradients(hook, cotangents)).flat()

    def _features(self, asker: Asker, layer: int, numbers: Sequence[int]) -> Tensor:
        found, places = self.local.features[layer], torch.as_tensor(numbers) - self.starts[layer]
        rows = self.local.transcoders.encoder_rows(layer, found.index[places].cpu())
        return self._asked(asker, self.local.transcoders.layers_in[layer], rows, found.pos[places].tolist())

    def _by_layer(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        listed: dict[int, list[int]] = {}
        for number in numbers:
            layer = sum(start <= number for start in self.starts[1:-1])
            while number >= self.starts[layer + 1]:
                layer += 1
            listed.setdefault(layer, []).append(number)
        return listed

    def _next(self, rows: dict[int, Tensor], most: int, left: int) -> list[int]:
        """The features to trace next: all of them, or those of most influence by the rows so far."""
        if most == self.n_features:
            return [number for number in range(self.n_features) if number not in rows]
        outputs = torch.zeros(self.n_sources + len(self.ids), dtype=torch.float64)
        outputs[self.n_sources :] = self.probabilities.cpu()
        source, target, weight = _edges(rows)
        found = influence(source, target, shares(target, weight, len(outputs)), outputs)[: self.n_features]
        found[[number for number in rows if number < self.n_features]] = -1.0
        return found.topk(min(left, max(1, most // 8))).indices.tolist()

    def _graph(
        self, rows: dict[int, Tensor], bias: Tensor, logit_bias: Tensor, logit_values: Tensor
    ) -> AttributionGraph:
        local, model = self.local, self.model
        n_layers, n_pos, n_logits = model.cfg.n_layers, local.n_pos, len(self.ids)
        layers = [local.stream.place(hook).layer for hook in local.transcoders.layers_out]
        writers = [local.stream.place(hook).layer for hook in local.writers]
        nan = float("nan")
        n_errors = len(writers) * n_pos
        features = {
            "layer": torch.cat(
                [torch.full((len(one),), layer) for layer, one in zip(layers, local.features, strict=True)]
            ),
            "pos": torch.cat([one.pos for one in local.features]),
            "index": torch.cat([one.index for one in local.features]),
            "activation": torch.cat([one.activation for one in local.features]),
            "value": torch.cat([one.pre_activation for one in local.features]),
        }
        errors = {
            "layer": torch.as_tensor(writers).repeat_interleave(n_pos),
            "pos": torch.arange(n_pos).repeat(len(writers)),
        }
        kinds = [FEATURE] * self.n_features + [ERROR] * n_errors + [TOKEN] * n_pos + [LOGIT] * n_logits

        def of_all(*parts: Tensor | float, dtype: torch.dtype) -> Tensor:
            sizes = (self.n_features, n_errors, n_pos, n_logits)
            return torch.cat(
                [torch.as_tensor(part).cpu().to(dtype).expand(n) for part, n in zip(parts, sizes, strict=True)]
            )

        real, whole = torch.promote_types(model.dtype, torch.float32), torch.long
        source, target, weight = _edges(rows)
        traced = torch.zeros(len(kinds), dtype=torch.bool)
        traced[[*rows]] = True
        words = (lambda id: model.to_single_str_token(id)) if model.tokenizer is not None else str
        graph = AttributionGraph(
            kind=torch.tensor(kinds),
            layer=of_all(features["layer"], errors["layer"], -1, n_layers, dtype=whole),
            pos=of_all(features["pos"], errors["pos"], torch.arange(n_pos), n_pos - 1, dtype=whole),
            index=of_all(features["index"], -1, local.tokens[0], self.ids, dtype=whole),
            value=of_all(features["value"], nan, nan, logit_values, dtype=real),
            activation=of_all(features["activation"], nan, nan, self.probabilities, dtype=real),
            bias=of_all(bias, nan, nan, logit_bias, dtype=real).masked_fill(~traced, nan),
            untraced=torch.zeros(len(kinds), dtype=real).masked_fill(~traced, nan),
            source=source,
            target=target,
            weight=weight.to(real),
            tokens=local.tokens[0].cpu(),
            texts=[words(id) for id in local.tokens[0].tolist()],
            logit_texts=[words(id) for id in self.ids.tolist()],
            model_name=model.cfg.model_name,
            first_as_error=local.first_as_error,
        )
        return graph.induced(traced | (graph.kind == ERROR) | (graph.kind == TOKEN))


def _edges(rows: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of some rows: sources, targets and weights, those of weight 0 left out."""
    listed = [(number, row.nonzero()[:, 0], row) for number, row in sorted(rows.items())]
    source = torch.cat([places for _, places, _ in listed]).cpu()
    target = torch.cat([torch.full_like(places, number) for number, places, _ in listed]).cpu()
    weight = torch.cat([row[places] for _, places, row in listed]).cpu()
    return source, target, weight


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
