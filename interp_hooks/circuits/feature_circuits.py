"""Sparse feature circuits: which features of dictionaries, through which others, make a metric what it is.

    effect(n)     = (n in the corrupt run - n in the clean run) * dm/dn               of a feature, or of an error
    edge(u -> d)  = (u corrupt - u clean) * dd/du * dm/dd                             what of u's effect passes d next
    y = sum over features of f W_dec + b_dec + error                                  at the hook of each dictionary

(Marks, Rager, Michaud, Belinkov, Bau and Mueller 2024, arxiv.org/abs/2403.19647.) dm/dn is the gradient in the clean
run, or its mean along the straight line from the clean to the corrupt activation of that hook; then the effects of a
hook sum to what the metric changes if the whole activation is patched. dd/du leaves out what passes a third
dictionary's hook in between, so that with gradients of the clean run a node's effect is the sum of all edges out of it.

Nothing is spliced in: a hook's activation is linear in its features and error. The pass whose parts are cut at these
hooks is one of its own, since the engine has no activations that are leaves of a graph while later ones depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.single import SAE
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.differentiable import Objective, differentiable, finite
from interp_hooks.experiments.patching import paired_runs
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.record import Record, on_data
from interp_hooks.hooks.modes import no_gradients, study, with_constant_weights, with_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import MetricLike, metric_name
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, Mean, PromptsLike, Run, as_run
from interp_hooks.interventions.sites import at
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

ERROR = -1  # in place of a feature's number
EVERY = -1  # in place of a position, of nodes that stand for all


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureCircuit(Kept):
    """Features and errors that matter to a metric, and the edges between them.

    By node: `site`, the place of its dictionary in `names` and `hooks`; `pos` (-1: all positions together); `feature`,
    its number (-1: the error); and `effect`, how the metric changes if it alone becomes what it is in the corrupt run,
    as the mean over prompts. Edges go from node `source` to node `target`, of which one more than there are nodes, the
    last, is the metric itself.

    Of each hook, `explained` is the sum of the effects of all features and the error, kept or not, and `changes` what
    the metric changes if the whole activation is patched: both agree as far as gradients are exact. `clean` and
    `corrupt` are the metric's means over prompts.
    """

    metric: str
    names: Sequence[str]
    hooks: Sequence[str]
    site: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    feature: Int[Tensor, " node"]
    effect: Float[Tensor, " node"]
    source: Int[Tensor, " edge"]
    target: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    explained: Float[Tensor, " site"]
    changes: Float[Tensor, " site"]
    clean: float
    corrupt: float
    record: Record | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.site)

    @property
    def by_position(self) -> bool:
        """Whether nodes are those of single positions."""
        return bool((self.pos != EVERY).any())

    def name(self, node: int) -> str:
        """What a node is called: "mlp f17", "mlp error pos 3", or the metric's name."""
        if node == len(self):
            return self.metric
        feature, pos = int(self.feature[node]), int(self.pos[node])
        what = "error" if feature == ERROR else f"f{feature}"
        return f"{self.names[int(self.site[node])]} {what}" + ("" if pos == EVERY else f" pos {pos}")

    def table(self) -> pd.DataFrame:
        """A row for each node, by the size of its effect."""
        order = self.effect.abs().argsort(descending=True).tolist()
        columns = {"node": [self.name(node) for node in order]}
        numbers = {name: getattr(self, name)[order].tolist() for name in ("pos", "feature", "effect")}
        return pd.DataFrame(columns | {"hook": [self.hooks[int(self.site[node])] for node in order]} | numbers)

    def edges(self) -> pd.DataFrame:
        """A row for each edge, by the size of its weight."""
        order = self.weight.abs().argsort(descending=True).tolist()
        ends = {end: [self.name(node) for node in getattr(self, end)[order].tolist()] for end in ("source", "target")}
        return pd.DataFrame(ends | {"weight": self.weight[order].tolist()})

    def rerun(
        self, model: HookedTransformer, metric: MetricLike | None = None, *, any_model: bool = False, **options: Any
    ) -> FeatureCircuit:
        """The same circuit found once more; `metric` is another one, `any_model` allows another model.

        Raises:
            BadInput: another model, no record, or a metric of which only the name was kept.
        """
        if self.record is None:
            raise BadInput("there is no record of how this came about, so it cannot be computed again")
        return self.record.again(model, metric, options, any_model=any_model)


class FeatureFaithfulness(NamedTuple):
    """The metric's means over prompts: of the whole model, of the circuit, and with all nodes ablated.

    `faithfulness` is (circuit - empty) / (full - empty).
    """

    full: float
    circuit: float
    empty: float
    faithfulness: float


@checked
@on_data
@no_gradients
def feature_circuit(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: MetricLike,
    dictionaries: Mapping[str, Dictionary],
    *,
    steps: Positive | None = 10,
    by_position: bool = False,
    node_threshold: float = 0.1,
    edge_threshold: float = 0.01,
    progress: bool = True,
) -> FeatureCircuit:
    """The features and errors of some SAEs that matter to a metric, and the edges between them.

    `dictionaries` are SAEs of whole activations, by a name for each, at different hooks: attention or MLP outputs, the
    stream. Effects are by gradients at `steps` points on the way from the clean to the corrupt activation of a hook
    (None: by the gradient of the clean run alone, one pass for all hooks); those of prompts are averaged, and those of
    positions summed unless `by_position`, where the same position means the same in all prompts. Nodes have an effect
    of at least `node_threshold` in size, edges a weight of at least `edge_threshold`, both in the metric's units.

    Every node takes a backward pass, and all prompts go through the model together. The record that is saved with the
    circuit holds the dictionaries, so that `rerun` needs nothing but the model.

    Raises:
        BadInput: prompts that do not correspond, or dictionaries that are no SAEs of whole activations, normalize
            tokens, or stand at the same hook.
        MetricError: the metric has no gradient.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.circuits import feature_circuit
    >>> saes = {"stream": dictionaries.load("ioi-tiny/sae")}
    >>> circuit = feature_circuit(model, clean, corrupt, metric, saes, steps=2, progress=False)
    >>> circuit.table().columns.tolist()
    ['node', 'hook', 'pos', 'feature', 'effect']
    """
    saes = _in_order(model, dictionaries)
    for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not threshold >= 0:
            raise BadInput(f"{name} must be 0 or more, got {threshold}")
    run, other = paired_runs(model, clean, corrupt, ("clean", "corrupt"))
    objective = Objective(model=model, metric=metric, run=run)
    hooks = [one.hook for one in saes.values()]
    here, there = (record(model, each, hooks) for each in (run, other))
    gradients = _gradients(objective, hooks, here, there, steps, progress)
    nodes = [
        _nodes(place, one, here[one.hook], there[one.hook], gradients[one.hook], by_position, node_threshold)
        for place, one in enumerate(saes.values())
    ]
    site, pos, feature, effect = (torch.cat(column) for column in zip(*(kept for kept, _ in nodes), strict=True))
    patched = [[], *([Intervention(at(hook), other)] for hook in hooks)]
    runs = [Run(run.tokens, made, run.attention_mask) for made in patched]
    scores = [_mean(one) for one in evaluate(model, [*runs, other], metric)]
    found = FeatureCircuit(
        metric=metric_name(metric),
        names=list(saes),
        hooks=hooks,
        site=site,
        pos=pos,
        feature=feature,
        effect=effect,
        source=torch.zeros(0, dtype=torch.long),
        target=torch.zeros(0, dtype=torch.long),
        weight=torch.zeros(0),
        explained=torch.tensor([total for _, total in nodes], dtype=torch.float64),
        changes=torch.tensor([score - scores[0] for score in scores[1:-1]], dtype=torch.float64),
        clean=scores[0],
        corrupt=scores[-1],
    )
    return _with_edges(found, objective, list(saes.values()), here, there, gradients, edge_threshold, progress)


def _in_order(model: HookedTransformer, dictionaries: Mapping[str, Dictionary]) -> dict[str, SAE]:
    """The dictionaries in the order in which a pass comes by their hooks, on the model's device."""
    found: dict[str, SAE] = {}
    for name, one in dictionaries.items():
        if not isinstance(one, SAE) or one.head is not None or one.normalization != "none":
            raise BadInput(f"{name!r} must be an SAE of a whole activation that does not normalize tokens, got {one!r}")
        one.refuse_unfit(model)
        found[name] = one.to(model.device)
    hooks = [one.hook for one in found.values()]
    if not hooks or len(set(hooks)) < len(hooks):
        raise BadInput(f"dictionaries must stand at different hooks, one at least, got {hooks}")
    order, stream = list(model.hook_dict), Stream(model)
    return dict(sorted(found.items(), key=lambda one: (*stream.place(one[1].hook)[1:3], order.index(one[1].hook))))


def _gradients(
    objective: Objective,
    hooks: Sequence[str],
    here: Mapping[str, Tensor],
    there: Mapping[str, Tensor],
    steps: int | None,
    progress: bool,
) -> dict[str, Tensor]:
    """dm/dy at each hook: in the clean run, or on average along the way to the corrupt activation."""
    if steps is None:
        return differentiable(objective, objective.run, hooks).gradients()
    found = {hook: torch.zeros_like(here[hook]) for hook in hooks}
    with progress_bar(total=steps * len(hooks), progress=progress, unit="step") as bar:
        for hook in hooks:
            for step in range(steps):
                on_the_way = here[hook] + (step + 0.5) / steps * (there[hook] - here[hook])
                put = [(hook, lambda value, hook, on_the_way=on_the_way: on_the_way.clone())]
                found[hook] += differentiable(objective, objective.run, [hook], put).gradients()[hook] / steps
                bar.update()
    return found


def _parts(one: SAE, y: Tensor) -> tuple[Float[Tensor, "batch pos feature"], Float[Tensor, "batch pos d"]]:
    """The features of an activation and what they leave out of it."""
    flat = y.flatten(2)
    features = one.encode(flat)
    return features, flat.to(features) - one.decode(features, flat)


def _nodes(
    place: int, one: SAE, here: Tensor, there: Tensor, gradient: Tensor, by_position: bool, threshold: float
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], float]:
    """The nodes of a dictionary that matter, as columns, and the sum of the effects of all."""
    (f, e), (f_there, e_there) = _parts(one, here), _parts(one, there)
    g = gradient.flatten(2).to(f)
    of_features = (f_there - f) * (g @ one.W_dec.T)
    of_error = ((e_there - e) * g).sum(-1, keepdim=True)
    effects = torch.cat((of_features, of_error), dim=2).sum(0) / len(g)
    effects = finite(effects if by_position else effects.sum(0, keepdim=True), one.hook)
    pos, feature = (effects.abs() >= max(threshold, torch.finfo(effects.dtype).tiny)).nonzero(as_tuple=True)
    effect = effects[pos, feature]
    feature = torch.where(feature == one.n_features, ERROR, feature)
    pos = pos if by_position else torch.full_like(pos, EVERY)
    columns = (torch.full_like(pos, place), pos, feature, effect)
    return tuple(column.cpu() for column in columns), float(effects.sum())  # pyright: ignore[reportReturnType]


def _mean(scores: Tensor) -> float:
    return float(scores.double().mean())


@with_gradients
def _with_edges(
    found: FeatureCircuit,
    objective: Objective,
    saes: Sequence[SAE],
    here: Mapping[str, Tensor],
    there: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    threshold: float,
    progress: bool,
) -> FeatureCircuit:
    """The circuit with its edges: for each node, and for the metric, a backward pass to all hooks before it."""
    parts = [[_parts(one, each[one.hook]) for each in (here, there)] for one in saes]
    changes = [(after[0] - before[0], after[1] - before[1]) for before, after in parts]
    read, given, leaves = _cut(objective, [one.hook for one in saes])
    listed: list[tuple[int, int, float]] = []

    def into(target: int, value: Tensor, sites: range) -> None:
        sources = [node for node in range(len(found)) if int(found.site[node]) in sites]
        if not sources or not value.requires_grad:
            return
        back = torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True)
        for node in sources:
            place, pos, feature = (int(column[node]) for column in (found.site, found.pos, found.feature))
            v = back[place].flatten(2)
            delta, one = changes[place], saes[place]
            error = feature == ERROR
            each = (delta[1] * v).sum(-1) if error else delta[0][..., feature] * (v @ one.W_dec[feature].to(v))
            weight = float((each if pos == EVERY else each[:, pos]).sum() / len(v))
            if abs(weight) >= threshold and weight:
                listed.append((node, target, weight))

    with progress_bar(total=len(found) + 1, progress=progress, unit="node") as bar:
        for place, one in enumerate(saes):
            values = _contributions(one, given[place], gradients[one.hook])
            for node in (found.site == place).nonzero()[:, 0].tolist():
                pos, value = int(found.pos[node]), values[..., int(found.feature[node])]  # the error's, -1, is the last
                into(node, (value if pos == EVERY else value[:, pos]).sum(), range(place))
                bar.update()
        into(len(found), objective.scores(read).sum(), range(len(saes)))
    source, target, weight = zip(*listed, strict=True) if listed else ((), (), ())
    ends = {"source": torch.tensor(source, dtype=torch.long), "target": torch.tensor(target, dtype=torch.long)}
    return replace(found, **ends, weight=torch.tensor(weight, dtype=torch.float64))


def _contributions(one: SAE, y: Tensor, gradient: Tensor) -> Float[Tensor, "batch pos node"]:
    """Each feature, and last the error, times what the metric changes with it, which is held constant."""
    features, error = _parts(one, y)
    g = gradient.flatten(2).to(features)
    return torch.cat((features * (g @ one.W_dec.T), (error * g).sum(-1, keepdim=True)), dim=2)


def _cut(objective: Objective, hooks: Sequence[str]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """What is read of a clean pass that is cut at some hooks; what came to each of them, and what went on from it."""
    given: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def cut(value: Tensor, hook: HookPoint) -> Tensor:
        given[hook.name] = value
        leaves[hook.name] = value.detach().clone().requires_grad_()
        return leaves[hook.name]

    read = with_constant_weights(objective.read)(objective.run, objective.whole, [(hook, cut) for hook in hooks])
    return read, [given[hook] for hook in hooks], [leaves[hook] for hook in hooks]


# -------------------------------------------------------------------------------------------------------- faithfulness


@study
def feature_faithfulness(
    model: HookedTransformer,
    circuit: FeatureCircuit,
    dictionaries: Mapping[str, Dictionary],
    prompts: PromptsLike,
    metric: MetricLike,
    *,
    means: PromptsLike,
    ablate_errors: bool = True,
) -> FeatureFaithfulness:
    """How much of a metric a feature circuit makes, with all features and errors outside of it at their means.

    The dictionaries, those of the circuit, are spliced in with their error terms. `means` are the prompts over which
    means are taken: position by position if the circuit's nodes are those of positions, else over these too. With
    `ablate_errors=False` all errors stay.

    Raises:
        BadInput: other dictionaries than those of the circuit, or a metric that is the same without any node.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.circuits import feature_circuit, feature_faithfulness
    >>> saes = {"stream": dictionaries.load("ioi-tiny/sae")}
    >>> circuit = feature_circuit(model, clean, corrupt, metric, saes, steps=2, progress=False)
    >>> feature_faithfulness(model, circuit, saes, clean, metric, means=corrupt)._fields
    ('full', 'circuit', 'empty', 'faithfulness')
    """
    saes = _in_order(model, dictionaries)
    if list(saes) != list(circuit.names) or [one.hook for one in saes.values()] != list(circuit.hooks):
        raise BadInput(f"this circuit is one of {dict(zip(circuit.names, circuit.hooks, strict=True))}, got {saes}")
    run, source = as_run(model, prompts), Mean(as_run(model, means), per_position=circuit.by_position)
    with ExitStack() as stack:
        for name, one in saes.items():
            stack.enter_context(one.splice_into(model, name=name, error_term=True))
        made = [
            list(_ablations(circuit, place, name, one, run, source, ablate_errors, kept))
            for kept in (True, False)
            for place, (name, one) in enumerate(saes.items())
        ]
        n = len(saes)
        groups = [[], [one for each in made[:n] for one in each], [one for each in made[n:] for one in each]]
        runs = [Run(run.tokens, group, run.attention_mask) for group in groups]
        full, kept, empty = (_mean(scores) for scores in evaluate(model, runs, metric))
    if full == empty:
        raise BadInput("the metric is the same with all nodes ablated, so that no circuit makes a share of it")
    return FeatureFaithfulness(full, kept, empty, (kept - empty) / (full - empty))


def _ablations(
    circuit: FeatureCircuit, place: int, name: str, one: SAE, run: Run, source: Mean, errors: bool, keep: bool
) -> Iterator[Intervention]:
    """What ablates the features of a dictionary, and its error, but for the nodes of the circuit if these are kept."""
    length = run.tokens.shape[1] if circuit.by_position else 1
    mask = torch.ones(length, one.n_features + 1, dtype=one.dtype, device=one.device)
    if keep:
        mine = circuit.site == place
        pos = circuit.pos[mine].clamp(min=0)
        if len(pos) and int(pos.max()) >= length:
            raise BadInput(f"this circuit has nodes at position {int(pos.max())}; these prompts have {length} tokens")
        mask[pos, circuit.feature[mine]] = 0.0  # the last column is the error's, whose number is -1
    yield Intervention(at(f"{one.hook}.{name}.hook_features"), source, mask=mask[:, :-1])
    if errors:
        yield Intervention(at(f"{one.hook}.{name}.hook_error"), source, mask=mask[:, -1:])
