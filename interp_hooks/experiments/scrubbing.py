"""Causal scrubbing: a claim about what a model computes, tested by exchanging everything that the claim says is of no
consequence (Chan et al. 2022, "Causal Scrubbing").

A hypothesis is a tree of nodes. Each stands for parts of the model, and says through which feature of the input alone
their value matters to the node above; what else a node reads is taken from another datum altogether:

    scrub(node, rows)      the value that, as is claimed, is as good as the node's on these rows
        leaf               its value on those rows themselves
        else               its value on `other` rows, with those of each child c put in: scrub(c, rows with c's feature)

The scrubbed model is one `Run`: children that are leaves are a `Resample` of one pass over the data, inner ones are
Runs that serve as sources. So each inner node costs one pass, however many paths lead through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.experiment import experiment, on_data
from interp_hooks.interpreter import evaluate
from interp_hooks.interventions import Intervention, Prompts, Resample, Run, as_run
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import MetricLike, metric_name
from interp_hooks.results import Result
from interp_hooks.sites import Site

EXACT, ANYTHING, TOGETHER = "exact", "anything", "anything together"
SAMPLERS = (EXACT, ANYTHING, TOGETHER)
Feature = Callable[[Tensor], Tensor] | Tensor
ALONE = 0.5  # the share of rows with a feature of their own beyond which sampling by it says little


@dataclass(frozen=True, kw_only=True)
class Node:
    """What some parts of the model stand for.

    `sites` are these parts: hooks, heads, positions, inputs of heads ("q_input", ...); with `along` their component
    along these directions alone. `feature` names what of the input their value depends on, as far as the node above is
    concerned: "exact" the row itself, "anything" nothing, "anything together" nothing, with one drawn row for all nodes
    that say so, or a feature that is passed to `scrub`. `children` are the nodes whose values matter here. `into` are
    the readers that see the node's value (by default all that come after it); `excluding` are parts that keep the value
    of the other datum, though children come before them, so that no path leads through them. `pool` bounds how many
    different draws are made for nodes of this feature and pool where they ask for the same: rows with these features.
    Then they share draws, and agree with each other more than the hypothesis says; None draws anew for each.
    """

    sites: Sequence[Site] = ()
    feature: str = ANYTHING
    children: Sequence[str] = ()
    into: Sequence[Site] = ()
    excluding: Sequence[Site] = ()
    along: Tensor | None = None
    pool: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Nodes by name; `root` is the model's output and has no sites. A node may be the child of several others.

    Raises:
        BadInput: a child that is no node, a cycle, a node without sites, one that nothing leads to, or a pool below 1.
    """

    nodes: Mapping[str, Node]
    root: str = "output"

    def __post_init__(self) -> None:
        if self.root not in self.nodes:
            raise BadInput(f"there is no node {self.root!r} to be the root; there are {', '.join(self.nodes)}")
        for name, node in self.nodes.items():
            for child in node.children:
                if child not in self.nodes:
                    raise BadInput(f"{name!r} has the child {child!r}, which is no node.{nearest(child, self.nodes)}")
            if bool(node.sites) == (name == self.root):
                raise BadInput(
                    f"the root {name!r} is the model's output, which has no sites"
                    if node.sites
                    else f"node {name!r} has no sites: say which parts of the model it stands for"
                )
            if node.pool is not None and node.pool < 1:
                raise BadInput(f"node {name!r}: a pool holds at least 1 draw, got {node.pool}; None is no pool")
        reached = set(self._walk(self.root, ()))
        if lost := [name for name in self.nodes if name not in reached]:
            raise BadInput(f"no path leads from the root {self.root!r} to node {lost[0]!r}")

    def _walk(self, name: str, above: tuple[str, ...]) -> Iterator[str]:
        if name in above:
            raise BadInput(f"the hypothesis has a cycle: {' -> '.join((*above[above.index(name) :], name))}")
        yield name
        for child in self.nodes[name].children:
            yield from self._walk(child, (*above, name))

    def only(self, name: str) -> Hypothesis:
        """Only that node's claim: all others are exact."""
        nodes = {one: node if one == name else replace(node, feature=EXACT) for one, node in self.nodes.items()}
        return Hypothesis(nodes=nodes, root=self.root)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it."""

        def plain(value: Any) -> Any:
            if isinstance(value, Site):
                return {"hook": value.hook, "select": {axis: plain(index) for axis, index in value.select.items()}}
            if isinstance(value, Tensor):
                return value.tolist()
            return [plain(one) for one in value] if isinstance(value, list | tuple) else value

        nodes = {name: {key: plain(one) for key, one in vars(node).items()} for name, node in self.nodes.items()}
        return {"root": self.root, "nodes": nodes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hypothesis:
        """What `to_json` gave."""

        def node(fields: Mapping[str, Any]) -> Node:
            sites: dict[str, Any] = {
                key: [Site(**one) for one in fields[key]] for key in ("sites", "into", "excluding")
            }
            along = fields["along"] if fields["along"] is None else torch.tensor(fields["along"], dtype=torch.float64)
            return Node(**{**fields, **sites, "along": along})

        return cls(root=data["root"], nodes={name: node(fields) for name, fields in data["nodes"].items()})


@dataclass(frozen=True, kw_only=True)
class Scrubbed(Result):
    """A `Result` with a row for the whole hypothesis and, if asked for, one for each node's claim alone.

    Baselines are "model" and "random" (the model's answers to other rows than those that are asked about); between them
    lies `recovered_fraction`. `classes` has the sizes of the classes of rows that each feature makes.
    """

    classes: Mapping[str, Int[Tensor, " class"]] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What may make the result meaningless, or ''."""
        notes = [super().note] if super().note else []
        for feature, sizes in self.classes.items():
            alone = float((sizes == 1).sum() / sizes.sum())
            if alone > ALONE:
                notes.append(
                    f"{alone:.0%} of the rows have a {feature!r} of their own, so sampling by it changes little"
                )
        return "; ".join(notes)


@experiment
def scrub(
    model: HookedTransformer,
    hypothesis: Hypothesis,
    dataset: Prompts,
    metric: MetricLike,
    features: Mapping[str, Feature] | None = None,
    *,
    source: Prompts | None = None,
    each: bool = False,
    generator: torch.Generator | None = None,
    max_memory: int | None = None,
) -> Scrubbed:
    """How much of what the model does is left if all is exchanged that the hypothesis says is of no consequence.

    `dataset` are prompts of equal length; the metric's answers, one for each of them, stay theirs. `features` gives for
    each name a tensor [prompt] or [prompt, n], or a function from tokens [prompt, pos] to one: rows with equal features
    are exchanged for each other, drawn with replacement, themselves included. `source` are other prompts to draw from,
    as long as these; a feature that is a tensor then has rows for the dataset's and after them for the source's. With
    `each` every node's claim is also tested alone. Values are [hypothesis, prompt].

    Raises:
        BadInput: prompts of different lengths, an unknown feature or one that does not fit, a prompt that no prompt of
            the source shares a feature with, or parts of a node that come before those of its children.
    """
    plain = as_run(model, dataset)
    run, n = (plain, 0) if source is None else (_joined(plain, as_run(model, source)), len(plain.tokens))
    _refuse_padding(plain)
    known = {name: _classes(name, feature, run.tokens) for name, feature in (features or {}).items()}
    for name, node in hypothesis.nodes.items():
        if node.feature not in (*SAMPLERS, *known):
            raise BadInput(
                f"node {name!r} depends on {node.feature!r}, which is no feature that was passed, nor one of "
                f"{', '.join(SAMPLERS)}.{nearest(node.feature, (*SAMPLERS, *known))}"
            )
    _check_order(model, hypothesis, run)
    names = [name for name in hypothesis.nodes if name != hypothesis.root] if each else []
    used = {node.feature for node in hypothesis.nodes.values()} & set(known)
    for name in sorted(used):
        if len(alone := (~torch.isin(known[name][:n], known[name][n:])).nonzero()):
            raise BadInput(f"no prompt of the source has the {name!r} of prompt {int(alone[0])}; scrub without it")
    sampler = _Sampler(run, known, generator, n)
    whole = [sampler.scrubbed(hypothesis)]
    each_alone = [sampler.scrubbed(hypothesis.only(name), exact=set(hypothesis.nodes) - {name}) for name in names]
    other = Run(run.tokens[sampler.draw(ANYTHING).to(run.tokens.device)])
    found = scrubbed_runs(model, [*whole, *each_alone], ["all", *names], plain, other, metric, max_memory)
    return replace(found, classes={name: torch.bincount(known[name][n:]) for name in sorted(used)})


@on_data
def scrubbed_runs(
    model: HookedTransformer,
    runs: Sequence[Run],
    names: Sequence[str],
    plain: Run,
    other: Run,
    metric: MetricLike,
    max_memory: int | None = None,
) -> Scrubbed:
    """The metric of scrubbed runs, between the model's own and that of its answers to other rows."""
    scores = evaluate(model, [*runs, plain, other], metric, max_memory=max_memory)
    return Scrubbed(
        metric=metric_name(metric),
        axes={"hypothesis": list(names)},
        values=scores[:-2],
        baselines={"model": scores[-2], "random": scores[-1]},
        scale=("random", "model"),
    )


class _Sampler:
    """Draws rows, and builds the scrubbed run of a hypothesis from them.

    The first `n` rows are asked about, and the others are drawn from; if `n` is 0, all are both.
    """

    def __init__(self, run: Run, classes: Mapping[str, Tensor], generator: torch.Generator | None, n: int = 0) -> None:
        self.run, self.classes, self.generator = run, classes, generator
        self.asked, self.first = torch.arange(n or len(run.tokens)), n
        self.pools: dict[Any, list[Tensor]] = {}

    def scrubbed(self, hypothesis: Hypothesis, exact: set[str] | None = None) -> Run:
        """The model's output as claimed; nodes in `exact` read all else from the row itself."""
        self.pools = {}
        return self._run(hypothesis, hypothesis.root, self.asked, exact or set())

    def _run(self, hypothesis: Hypothesis, name: str, rows: Tensor, exact: set[str]) -> Run:
        node = hypothesis.nodes[name]
        other = self.draw(EXACT if name in exact else ANYTHING, rows)
        made = [Intervention(site, Resample(self.run, other)) for site in node.excluding]
        for child in node.children:
            below = hypothesis.nodes[child]
            drawn = self.draw(below.feature, rows, below.pool)
            source = self._run(hypothesis, child, drawn, exact) if below.children else Resample(self.run, drawn)
            for site in below.sites:
                made += [Intervention(site, source, along=below.along, into=into) for into in below.into or (None,)]
        return Run(self.run.tokens[other.to(self.run.tokens.device)], made)

    def draw(self, feature: str, rows: Tensor | None = None, pool: int | None = None) -> Int[Tensor, " prompt"]:
        """For each of some rows (default: those asked about) one that agrees with it in a feature, maybe of a pool."""
        rows = self.asked if rows is None else rows
        if feature == EXACT:
            return rows
        pool = 1 if feature == TOGETHER else pool
        wanted = self.classes[feature][rows] if feature in self.classes else torch.zeros_like(rows)
        if pool is None:
            return self._drawn(feature, wanted)
        draws = self.pools.setdefault((feature, pool, tuple(wanted.tolist())), [])
        if len(draws) < pool:
            draws.append(self._drawn(feature, wanted))
            return draws[-1]
        return draws[int(torch.randint(pool, (), generator=self.generator))]

    def _drawn(self, feature: str, wanted: Int[Tensor, " prompt"]) -> Int[Tensor, " prompt"]:
        """Rows of the wanted classes of a feature, each as likely as the others."""
        if feature not in self.classes:
            return torch.randint(self.first, len(self.run.tokens), (len(wanted),), generator=self.generator)
        classes = self.classes[feature][self.first :]
        order, sizes = classes.argsort(stable=True), torch.bincount(classes, minlength=int(wanted.max()) + 1)
        starts = sizes.cumsum(0) - sizes
        within = (torch.rand(len(wanted), generator=self.generator, dtype=torch.float64) * sizes[wanted]).long()
        return self.first + order[starts[wanted] + within]


def _refuse_padding(run: Run) -> None:
    if not bool(run.real.all()):
        raise BadInput("scrubbing exchanges activations position by position; expected prompts of equal length")


def _joined(plain: Run, source: Run) -> Run:
    """The prompts of both.

    Raises:
        BadInput: they are not of the same length.
    """
    _refuse_padding(source)
    if plain.tokens.shape[1] != source.tokens.shape[1]:
        lengths = plain.tokens.shape[1], source.tokens.shape[1]
        raise BadInput(f"expected a source of prompts as long as the dataset's {lengths[0]} tokens, got {lengths[1]}")
    return Run(torch.cat((plain.tokens, source.tokens.to(plain.tokens.device))))


def _classes(name: str, feature: Feature, tokens: Tensor) -> Int[Tensor, " prompt"]:
    """For each row the number of its class, of rows with equal features.

    Raises:
        BadInput: not a tensor [prompt] or [prompt, n], or a name that is taken.
    """
    if name in SAMPLERS:
        raise BadInput(f"{name!r} says how rows are drawn; call the feature something else")
    values = feature if isinstance(feature, Tensor) else feature(tokens)
    if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != len(tokens):
        came = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadInput(f"feature {name!r} must be a tensor [{len(tokens)}] or [{len(tokens)}, n], got {came}")
    return values.cpu().unique(dim=0, return_inverse=True)[1]


def _check_order(model: HookedTransformer, hypothesis: Hypothesis, run: Run) -> None:
    """Refuse nodes whose parts a pass comes by before those of a child, and sites that do not exist."""
    sites = [site for node in hypothesis.nodes.values() for site in (*node.sites, *node.into, *node.excluding)]
    if moving := [site for site in sites if any(isinstance(index, Tensor) for index in site.select.values())]:
        raise BadInput(
            f"{moving[0].hook} is selected by an index of each prompt's own, which exchanged rows do not share"
        )
    hooks = {model.points(site.hook)[0].name for site in sites}
    with torch.no_grad():
        seen = model.run_with_cache(run.tokens[:1], names_filter=lambda name: name in hooks, return_cache_object=False)
    order = {name: place for place, name in enumerate(seen[1])}
    for name, node in hypothesis.nodes.items():
        for child in node.children if node.sites else ():
            first = min(order[model.points(site.hook)[0].name] for site in hypothesis.nodes[child].sites)
            last = max(order[model.points(site.hook)[0].name] for site in node.sites)
            if first >= last:
                raise BadInput(f"node {child!r} comes after {name!r} in the model, so it cannot be one of its inputs")
