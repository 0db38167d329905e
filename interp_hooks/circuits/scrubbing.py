"""Causal scrubbing: a claim about what a model computes is tested by exchanging everything that, by this claim, does
not matter (Chan et al. 2022, "Causal Scrubbing").

A hypothesis is a tree of nodes. A node stands for parts of the model, and says which feature of a prompt their value
depends on, as far as the node above is concerned. Whatever else a node reads comes from a different prompt:

    scrub(node, rows)      a value that, by the claim, is as good as the node's own on these rows (prompts)
        a leaf             its value on these rows
        another node       its value on `other` rows, where each child c has its scrub(c, rows with c's feature) put in

The scrubbed model is one `Run`: children that are leaves are a `Resample` of one pass over the data, and other children
are Runs that serve as sources. So each path to an inner node costs one pass, and leaves cost nothing. Before that, each
part below an inner node costs a pass over one prompt, to find out whether what is put there gets to the node at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.circuits.hypotheses import ANYTHING, EXACT, TOGETHER, Hypothesis, check_parts
from interp_hooks.errors import BadInput, nearest
from interp_hooks.experiments.patching import sweep_runs
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.readout import MetricLike
from interp_hooks.interventions.runs import OF_TASK, Intervention, PromptsLike, Resample, Run, as_run
from interp_hooks.model.transformer import HookedTransformer

SAMPLERS = (EXACT, ANYTHING, TOGETHER)
Feature = Callable[[Tensor], Tensor] | Tensor
ITSELF = 0.25  # the chance that a row is drawn for itself above which sampling by a feature says little


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scrubbed(Result):
    """A `Result` with a row for the whole hypothesis and, if asked for, one for each node's claim alone.

    The baselines are "model" and "random" (the model's answers to prompts drawn at random);
    `recovered_fraction` is 1 at the former and 0 at the latter. `classes` has, for each feature, the sizes of the
    classes of prompts with equal features, among the prompts that are drawn from: the `source` if there was one
    (`from_source`), otherwise the dataset.
    """

    classes: Mapping[str, Int[Tensor, " class"]] = field(default_factory=dict)
    from_source: bool = False

    @property
    def note(self) -> str:
        """What may make the result meaningless, in words; '' if nothing does."""
        return "; ".join(one for one in (super().note, self.disguised) if one)

    @property
    def disguised(self) -> str:
        """The features whose classes are so small that a row is often exchanged for itself, in words; '' if none."""
        chances = {} if self.from_source else {name: len(one) / int(one.sum()) for name, one in self.classes.items()}
        return "; ".join(
            f"the classes of {feature!r} are so small that {chance:.0%} of the rows drawn by it are the row itself, so "
            "it is in part exact in disguise; pass more prompts, or others as a source"
            for feature, chance in chances.items()
            if chance > ITSELF
        )


@experiment
def scrub(
    model: HookedTransformer,
    hypothesis: Hypothesis,
    dataset: PromptsLike,
    metric: MetricLike = OF_TASK,
    features: Mapping[str, Feature] | None = None,
    *,
    source: PromptsLike | None = None,
    each: bool = False,
    generator: torch.Generator | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Scrubbed:
    """How much of what the model does is left when everything is exchanged that does not matter by a hypothesis.

        >>> nodes = {"output": Node(children=["movers"]), "movers": Node(sites=[at("z", 2)], feature="exact")}
        >>> result = scrub(model, Hypothesis(nodes=nodes), clean, metric)

    `dataset` are prompts of equal length, and the metric's answers are those to these prompts. `features` has, for each
    name, a tensor [prompt] or [prompt, n], or a function from tokens [prompt, pos] to such a tensor. Prompts with equal
    features are exchanged for each other: one of them is drawn, with replacement, and may be the prompt itself.
    `source` are other prompts to draw from, as long as these; a feature that is a tensor then has rows for the dataset
    and, after them, for the source. With `each`, every node's claim is also tested alone. Values are [hypothesis,
    prompt]. A warning tells of features with classes so small that prompts are often exchanged for themselves.

    Raises:
        BadInput: prompts of different lengths, an unknown feature or one that does not fit, a prompt that no prompt of
            the source shares a feature with, or a node whose children overlap or have parts that cannot reach it.
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
    check_parts(model, hypothesis, _rows(run, slice(1)))
    names = [name for name in hypothesis.nodes if name != hypothesis.root] if each else []
    used = {node.feature for node in hypothesis.nodes.values()} & set(known)
    for name in sorted(used):
        if len(alone := (~torch.isin(known[name][:n], known[name][n:])).nonzero()):
            raise BadInput(f"no prompt of the source has the {name!r} of prompt {int(alone[0])}; scrub without it")
    sampler = _Sampler(run, known, generator, n)
    whole = [sampler.scrubbed(hypothesis)]
    each_alone = [sampler.scrubbed(hypothesis.only(name), exact=set(hypothesis.nodes) - {name}) for name in names]
    other = _rows(run, sampler.draw(ANYTHING))
    found = sweep_runs(
        model,
        [*whole, *each_alone],
        metric,
        axes={"hypothesis": ["all", *names]},
        baselines={"model": plain, "random": other},
        scale=("random", "model"),
        max_memory=max_memory,
        progress=progress,
    )
    sizes = {name: torch.bincount(known[name][n:]) for name in sorted(used)}
    result = Scrubbed(**vars(found), classes=sizes, from_source=source is not None)
    if result.disguised:
        warnings.warn(result.disguised, stacklevel=3)
    return result


class _Sampler:
    """Draws rows, and builds the scrubbed run of a hypothesis from them.

    The first `n` rows are the dataset, and rows are drawn from the others; if `n` is 0, all rows are both.
    """

    def __init__(self, run: Run, classes: Mapping[str, Tensor], generator: torch.Generator | None, n: int = 0) -> None:
        self.run, self.classes, self.generator = run, classes, generator
        self.asked, self.first = torch.arange(n or len(run.tokens)), n
        self.pools: dict[Any, list[Tensor]] = {}

    def scrubbed(self, hypothesis: Hypothesis, exact: set[str] | None = None) -> Run:
        """The run whose output is the model's by the claim; nodes in `exact` read all else from the row itself."""
        self.pools = {}
        return self._run(hypothesis, hypothesis.root, self.asked, exact or set())

    def _run(self, hypothesis: Hypothesis, name: str, rows: Tensor, exact: set[str]) -> Run:
        node = hypothesis.nodes[name]
        other = self.draw(EXACT if name in exact else ANYTHING, rows)
        made = [Intervention(site, Resample(self.run, other)) for site in node.excluding]

        def source(child: str) -> Run | Resample:
            below = hypothesis.nodes[child]
            drawn = self.draw(below.feature, rows, below.pool)
            return self._run(hypothesis, child, drawn, exact) if below.children else Resample(self.run, drawn)

        made += [one for _, one in hypothesis.put(name, source)]
        return _rows(self.run, other, made)

    def draw(self, feature: str, rows: Tensor | None = None, pool: int | None = None) -> Int[Tensor, " prompt"]:
        """For each of some rows, by default those of the dataset, a row with an equal feature, maybe from a pool."""
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
        """A row of each of the wanted classes of a feature; all rows of a class are equally likely."""
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


def _rows(run: Run, rows: slice | Tensor, made: Sequence[Intervention] = ()) -> Run:
    """Some prompts of a run of which all tokens are real."""
    tokens = run.tokens[rows if isinstance(rows, slice) else rows.to(run.tokens.device)]
    return Run(tokens, made, torch.ones_like(tokens))


def _joined(plain: Run, source: Run) -> Run:
    """The prompts of the dataset, and after them those of the source.

    Raises:
        BadInput: the prompts are not all of the same length.
    """
    _refuse_padding(source)
    if plain.tokens.shape[1] != source.tokens.shape[1]:
        lengths = plain.tokens.shape[1], source.tokens.shape[1]
        raise BadInput(f"expected a source of prompts as long as the dataset's {lengths[0]} tokens, got {lengths[1]}")
    tokens = torch.cat((plain.tokens, source.tokens.to(plain.tokens.device)))
    return Run(tokens, (), torch.ones_like(tokens))


def _classes(name: str, feature: Feature, tokens: Tensor) -> Int[Tensor, " prompt"]:
    """The number of each row's class; rows of a class have equal features.

    Raises:
        BadInput: a feature that is not a tensor [prompt] or [prompt, n] of finite numbers, or a name that is taken.
    """
    if name in SAMPLERS:
        raise BadInput(f"{name!r} says how rows are drawn; call the feature something else")
    values = feature if isinstance(feature, Tensor) else feature(tokens)
    if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != len(tokens):
        came = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadInput(f"feature {name!r} must be a tensor [{len(tokens)}] or [{len(tokens)}, n], got {came}")
    if not bool(values.isfinite().all()):
        raise BadInput(f"feature {name!r} must be finite: nan is equal to nothing, so it makes no classes")
    return values.cpu().unique(dim=0, return_inverse=True)[1]
