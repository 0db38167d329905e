"""Hypotheses about what a model computes, for causal scrubbing: nodes, the parts of the model that they stand for, and
what they depend on.

    Hypothesis(nodes={
        "output": Node(children=["answer"]),
        "answer": Node(sites=[at("z", 1, head=0)], feature="last word"),
    })

`check_parts` refuses a hypothesis that does not fit a model: one with parts that do not exist, that overlap, or that
cannot reach the node above.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Positive, check_arguments, checked, told
from interp_hooks.hooks.points import POSITIONS
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, Run, SourceLike
from interp_hooks.interventions.sites import Recording, Site, at
from interp_hooks.model.transformer import HookedTransformer

EXACT, ANYTHING, TOGETHER = "exact", "anything", "anything together"
ORTHOGONAL = 1e-5  # the cosine of an angle below which directions count as orthogonal


@dataclass(frozen=True, kw_only=True)
class Node:
    """One claim of a hypothesis: these parts of the model depend on this feature of the prompt, and on these nodes.

        >>> names = Node(sites=[at("z", 2, head=0)], feature="name")
        >>> answer = Node(children=["names"])

    * `sites` are the parts: hooks, heads, positions, inputs of heads ("q_input", ...). With `along`, only their
      component along these directions counts.
    * `feature` names what their value depends on, as far as the node above is concerned: a feature that is passed to
      `scrub`, "exact" (the very prompt), "anything" (nothing), or "anything together" (nothing, but all nodes that say
      so take their values from the same prompt).
    * `children` are the nodes whose values matter to this one.
    * `into` are the readers that see this node's value; by default all that come after it.
    * `excluding` are parts that keep their values on the other prompt, although the children come before them, so that
      no path leads through them.
    * `pool` limits how many different prompts are drawn for nodes of this feature and pool that need prompts with the
      same features. They then share what is drawn, and agree more than the hypothesis says. None draws anew for each.

    Raises:
        BadInput: a field of another kind, a child that is named twice, a pool below 1, or `excluding` without children.
    """

    sites: Sequence[Site] = ()
    feature: str = ANYTHING
    children: Sequence[str] = ()
    into: Sequence[Site] = ()
    excluding: Sequence[Site] = ()
    along: Tensor | None = None
    pool: Positive | None = None

    def __post_init__(self) -> None:
        for name in ("sites", "into", "excluding"):
            if isinstance(site := getattr(self, name), Site):
                object.__setattr__(self, name, [site])
        check_arguments(Node.__init__, vars(self))
        if isinstance(self.children, str) or len({*self.children}) < len(self.children):
            raise BadInput(f"children must be a list of different names of nodes, got {told(self.children)}")
        if self.excluding and not self.children:
            raise BadInput("excluding= keeps what children change from parts of the model; this node has no children")


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim about what a model computes: nodes by name, and `root`, the name of the node that is the model's output.

        >>> names = Node(sites=[at("z", 2, head=0)], feature="name")
        >>> hypothesis = Hypothesis(nodes={"output": Node(children=["names"]), "names": names})

    The root has no sites, and is exact. A node may be the child of several others.

    Raises:
        BadInput: a child that is no node, a cycle, a node without sites, or one that nothing leads to.
    """

    nodes: Mapping[str, Node]
    root: str = "output"

    def __post_init__(self) -> None:
        check_arguments(Hypothesis.__init__, vars(self))
        if self.root not in self.nodes:
            raise BadInput(f"there is no node {self.root!r} to be the root; there are {', '.join(self.nodes)}")
        for name, node in self.nodes.items():
            for child in node.children:
                if child not in self.nodes:
                    raise BadInput(f"{name!r} has the child {child!r}, which is no node.{nearest(child, self.nodes)}")
            if not node.sites and name != self.root:
                raise BadInput(f"node {name!r} has no sites: say which parts of the model it stands for")
        root = self.nodes[self.root]
        if root.sites or root.into or root.along is not None or root.pool or root.feature not in (ANYTHING, EXACT):
            raise BadInput(f"the root {self.root!r} is the model's output: it has children and excluding=, no more")
        reached = set(self._walk(self.root, ()))
        if lost := [name for name in self.nodes if name not in reached]:
            raise BadInput(f"no path leads from the root {self.root!r} to node {lost[0]!r}")

    def _walk(self, name: str, above: tuple[str, ...]) -> Iterator[str]:
        if name in above:
            raise BadInput(f"the hypothesis has a cycle: {' -> '.join((*above[above.index(name) :], name))}")
        yield name
        for child in self.nodes[name].children:
            yield from self._walk(child, (*above, name))

    def put(self, name: str, source: Callable[[str], SourceLike]) -> Iterator[tuple[str, Intervention]]:
        """For each site of each child of a node: the child, and the intervention that puts its value there.

        `source` gives, for a child, where its value comes from.
        """
        for child in self.nodes[name].children:
            below, value = self.nodes[child], source(child)
            for site, into in itertools.product(below.sites, below.into or (None,)):
                yield child, Intervention(site, value, along=below.along, into=into)

    def only(self, name: str) -> Hypothesis:
        """The hypothesis with only this node's claim: all other nodes are exact."""
        nodes = {one: node if one == name else replace(node, feature=EXACT) for one, node in self.nodes.items()}
        return replace(self, nodes=nodes)

    def to_json(self) -> str:
        """The hypothesis as JSON; `from_json` reads it."""

        def plain(value: Site | Node | Tensor) -> Any:
            return vars(value) if isinstance(value, Site | Node) else value.tolist()

        return json.dumps({"root": self.root, "nodes": dict(self.nodes)}, default=plain)

    @classmethod
    @checked
    def from_json(cls, text: str) -> Hypothesis:
        """The hypothesis that `to_json` wrote down; fields of nodes that are not there have their defaults.

        Raises:
            BadInput: text that is not such a hypothesis.
        """

        def node(fields: Mapping[str, Any]) -> Node:
            read: dict[str, Any] = dict(fields)
            for key in {"sites", "into", "excluding"} & read.keys():
                read[key] = [Site(**one) for one in read[key]]
            if read.get("along") is not None:
                read["along"] = torch.tensor(read["along"], dtype=torch.float64)
            return Node(**read)

        try:
            document = json.loads(text)
            nodes = {name: node(fields) for name, fields in document.pop("nodes").items()}
            return cls(nodes=nodes, **document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected a hypothesis as to_json writes it: {error}") from error


def check_parts(model: HookedTransformer, hypothesis: Hypothesis, prompt: Run) -> None:
    """Refuse parts of nodes that do not exist, overlap with each other, or cannot reach the node above.

    Whether a part can reach the node above is tried out: nan, put at the part, spreads wherever there is a way.
    """
    sites = [site for node in hypothesis.nodes.values() for site in (*node.sites, *node.into, *node.excluding)]
    if moving := [site for site in sites if any(isinstance(index, Tensor) for index in site.select.values())]:
        raise BadInput(
            f"{moving[0].hook} is selected by an index of each prompt's own, which exchanged rows do not share"
        )
    if not sites:
        return
    seen = record(model, prompt, {model.points(site.hook)[0].name for site in sites})
    for site in sites:
        _marked(model, site, seen)
    for name, node in hypothesis.nodes.items():
        parts = list(hypothesis.put(name, lambda child: float("nan")))
        for (child, one), (other, two) in itertools.combinations(parts, 2):
            if _overlap(model, one, two, seen):
                raise BadInput(
                    f"children of {name!r} overlap: {one.site.hook} of {child!r} and of {other!r}; only one value can "
                    "be put there"
                )
        excluded = [(f"excluding= of {name!r}", [Intervention(site, float("nan"))]) for site in node.excluding]
        blocks = [Intervention(site, 0.0) for site in node.excluding]
        for part, made in excluded + [(f"node {child!r}", [*blocks, one]) for child, one in parts]:
            sent = Run(prompt.tokens, made, prompt.attention_mask)
            if name != hypothesis.root and not _reaches(model, sent, node.sites):
                hooks = made[-1].site.hook + (f" into {made[-1].into.hook}" if made[-1].into else "")
                raise BadInput(
                    f"{part}: nothing that is put at {hooks} can reach node {name!r}, whose input it is to be"
                )


def _marked(model: HookedTransformer, site: Site, seen: Recording) -> Bool[Tensor, "..."]:
    """The entries of an activation that a site selects."""
    point = model.points(site.hook)[0]
    marked = torch.zeros_like(seen[point.name], dtype=torch.bool)
    marked[site.index(point, marked)] = True
    return marked


def _overlap(model: HookedTransformer, one: Intervention, two: Intervention, seen: Recording) -> bool:
    """Whether two interventions of a run put values at the same place for the same reader."""

    def common(first: Site, second: Site) -> bool:
        if model.points(first.hook) != model.points(second.hook):
            return False
        return bool((_marked(model, first, seen) & _marked(model, second, seen)).any())

    if one.into is not None and two.into is not None:
        return common(one.site, two.site) and common(one.into, two.into)
    if one.into is not None or two.into is not None or not common(one.site, two.site):
        return False
    if one.basis is None or two.basis is None or one.basis.shape[1] != two.basis.shape[1]:
        return True
    return float((one.basis @ two.basis.T).abs().max()) > ORTHOGONAL


def _reaches(model: HookedTransformer, run: Run, sites: Sequence[Site]) -> bool:
    """Whether the nan that the last intervention of a run puts somewhere gets to one of these sites.

    Attention patterns are put there as they are, since a fused kernel, which goes by no pattern, may drop nan. Where a
    pattern is 0, nan passes all the same (0 * nan is nan), so earlier positions do not count in a causal model.
    """
    made, length = run.interventions[-1], run.tokens.shape[1]
    causal = model.cfg.attention_dir == "causal"
    first = made.site.first_position(model.points(made.site.hook)[0], length) if causal else 0
    patterns = [name for name in model.hook_dict if name.endswith("attn.hook_pattern")]
    kept = [Intervention(at(name), as_it_is) for name in patterns]
    explicit = Run(run.tokens, [*kept, *run.interventions], run.attention_mask)
    got = record(model, explicit, {model.points(site.hook)[0].name for site in sites})
    for site in sites:
        point = model.points(site.hook)[0]
        reached = got[point.name].isnan() & _marked(model, site, got)
        for dim in [dim for dim, axis in enumerate(point.axes) if axis in POSITIONS]:
            reached = reached.narrow(dim, first, reached.shape[dim] - first)
        if bool(reached.any()):
            return True
    return False


def as_it_is(value: Tensor) -> Tensor:
    """The value itself, as a source: what a fused kernel would pass by is made then, and gone on with."""
    return value
