"""Would the same circuit be found again? Four questions about a circuit, asked with the search that found it.

    other prompts         how often each edge is found on prompts drawn anew (bootstrap), and how much the circuits of
                          two halves of the prompts have in common
    another ablation      the circuits that zero and mean ablation find, beside that of corrupt prompts
    the truth of scores   what single edges were predicted to do, beside what ablating each of them does
    a null                the same search, each prompt scored by the answer of another one: what it still finds is not
                          the task's circuit

What two circuits have in common is the Jaccard index of their edges, |A & B| / |A | B|: 1 for the same circuit, and
about n / (2N - n) for two random ones of n of N edges. Attributions differ a lot from sample to sample
(arxiv.org/abs/2510.00845), and faithfulness with the ablation (Miller, Chughtai and Saunders 2024,
arxiv.org/abs/2407.08734).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.circuit import Circuit, ComputationGraph
from interp_hooks.circuits.discovery import Rule, fractions_of
from interp_hooks.circuits.graph import EdgeMask, EdgeMatrix
from interp_hooks.circuits.layout import ARROW
from interp_hooks.circuits.searches import Finder, Method, Search, samples_of
from interp_hooks.circuits.setting import Ablation, Positions, setting
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, refuse_outside, told
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.record import Record, experiment, on_data
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, MetricLike, better
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, SourceLike, as_run
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer

FEWEST = 4  # prompts, of which halves can be made


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stability(Kept):
    """How stable a circuit is, by the four questions above. Prints as a summary, and a table of its edges.

    `circuit` is what the search finds on all prompts. `inclusion` [writer, reader] is the share of `samples` bootstrap
    samples of the prompts in which each edge is found, and `halves` [split] what the circuits of two random halves have
    in common. `found` are the circuits by ablation, as matrices, and `faithfulness` is that of `circuit` under each
    (nan where the metric does not change). `tried` are edges, `predicted` their scores, and `intervened` how much worse
    the metric gets, as a mean over prompts, when one alone is ablated. `null` is how many edges each search with
    exchanged answers finds: of scored edges, those at least as strong as the weakest of the circuit; `null_strength`
    what it finds as a part of the circuit's: of the summed sizes of as many edges, or of their number. Both are nan if
    all prompts have one answer, so that there is nothing to exchange.
    """

    method: str
    circuit: Circuit
    prompts: int
    samples: int
    inclusion: EdgeMatrix
    halves: Float[Tensor, " split"]
    ablation: str
    found: Mapping[str, EdgeMask]
    faithfulness: Mapping[str, float]
    tried: Sequence[str]
    predicted: Float[Tensor, " edge"]
    intervened: Float[Tensor, " edge"]
    null: Float[Tensor, " null"]
    null_strength: Float[Tensor, " null"]
    record: Record | None = field(default=None, repr=False)

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"circuit": Circuit.from_json(fields["circuit"])}

    @property
    def chance(self) -> float:
        """What two random circuits of as many edges have in common."""
        n, total = len(self.circuit), len(self.circuit.graph)
        return n / (2 * total - n)

    @property
    def overlap(self) -> dict[str, float]:
        """What the circuit of each ablation has in common with `circuit`."""
        return {ablation: jaccard(kept, self.circuit.kept) for ablation, kept in self.found.items()}

    @property
    def correlation(self) -> float:
        """That of predicted and intervened effects; nan where one of them does not vary."""
        both = torch.stack((self.predicted, self.intervened)).double()
        varies = both.shape[1] > 1 and bool((both.std(1) > 0).all())
        return float(both.corrcoef()[0, 1]) if varies else float("nan")

    @property
    def by_inclusion(self) -> Circuit:
        """All edges that were found in some sample, with the share of samples as their scores, to be drawn, say."""
        return Circuit(graph=self.circuit.graph, kept=self.inclusion > 0, scores=self.inclusion)

    def summary(self) -> pd.DataFrame:
        """A row for each number: the question, what was measured, its value, and what a random circuit would give."""
        of_circuit = self.inclusion[self.circuit.kept]
        rows: list[tuple[str, str, float, float]] = [
            ("other prompts", "inclusion of its edges, mean", float(of_circuit.mean()), self._share),
            ("other prompts", "its edges in 95% of samples", float((of_circuit >= 0.95).double().mean()), 0.0),
            ("other prompts", "Jaccard of halves, mean", float(self.halves.mean()), self.chance),
            ("other prompts", "Jaccard of halves, least", float(self.halves.min()), self.chance),
        ]
        for ablation, shared in self.overlap.items():
            rows.append(("another ablation", f"Jaccard with that of {ablation}", shared, self.chance))
            rows.append(
                ("another ablation", f"faithfulness under {ablation}", self.faithfulness[ablation], float("nan"))
            )
        rows += [
            ("the truth of scores", f"correlation over {len(self.tried)} edges", self.correlation, 0.0),
            ("a null", "edges found with exchanged answers, mean", float(self.null.mean()), float("nan")),
            ("a null", "strength of what is found, mean", float(self.null_strength.mean()), float("nan")),
        ]
        return pd.DataFrame(rows, columns=["question", "measure", "value", "by chance"])

    @property
    def _share(self) -> float:
        return len(self.circuit) / len(self.circuit.graph)

    def table(self) -> pd.DataFrame:
        """A row for each edge that was found in some sample, most often found first.

        Columns are its ends, whether the `circuit` has it, its score there, its `inclusion`, whether each ablation
        finds it ("in zero"), and, of edges that were tried, what was `predicted` and `intervened`.
        """
        graph = self.circuit.graph
        places = ((self.inclusion > 0) | self.circuit.kept).T.nonzero().flip(1).tolist()
        scores = torch.full(self.inclusion.shape, torch.nan, dtype=torch.float64)
        if self.circuit.scores is not None:
            scores = torch.where(self.circuit.kept, self.circuit.scores.matrix, torch.nan)
        tried = {edge: place for place, edge in enumerate(self.tried)}
        rows = []
        for writer, reader in places:
            name = ARROW.join((graph.writers[writer], graph.readers[reader]))
            numbers = [
                one[tried[name]].item() if name in tried else float("nan") for one in (self.predicted, self.intervened)
            ]
            rows.append(
                dict(
                    writer=graph.writers[writer],
                    reader=graph.readers[reader],
                    circuit=bool(self.circuit.kept[writer, reader]),
                    score=float(scores[writer, reader]),
                    inclusion=float(self.inclusion[writer, reader]),
                )
                | {f"in {ablation}": bool(kept[writer, reader]) for ablation, kept in self.found.items()}
                | dict(predicted=numbers[0], intervened=numbers[1])
            )
        columns = ["writer", "reader", "circuit", "score", "inclusion", *(f"in {one}" for one in self.found)]
        table = pd.DataFrame(rows, columns=[*columns, "predicted", "intervened"])
        return table.sort_values(["inclusion", "circuit"], ascending=False, kind="stable").reset_index(drop=True)

    def rerun(self, model: HookedTransformer, *, any_model: bool = False, **options: Any) -> Stability:
        """The same searches once more, with the same draws; `any_model` allows another model.

        Raises:
            BadInput: another model, no record, or a search of one's own, of which only the name was kept.
        """
        if self.record is None:
            raise BadInput("there is no record of how this came about, so it cannot be computed again")
        return self.record.again(model, None, options, any_model=any_model)

    def _words(self) -> list[str]:
        return [f"{self.method}, {len(self.circuit)} of {len(self.circuit.graph)} edges, {self.prompts} prompts"]

    def __repr__(self) -> str:
        tables = self.summary().to_string(index=False), self.table().to_string(index=False, max_rows=20)
        return "\n".join([*self._words(), *tables])


def exchanged(n: int, generator: torch.Generator | None) -> Int[Tensor, " prompt"]:
    """For each of n prompts another one, at random, so that nobody has the own answer."""
    order = torch.randperm(n, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def jaccard(one: EdgeMask, other: EdgeMask) -> float:
    """The share of the edges of either that both have; 1 for two empty circuits."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


# ------------------------------------------------------------------------------------------------------------ stability


@experiment
def circuit_stability(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None = OF_TASK,
    metric: MetricLike = OF_TASK,
    *,
    method: Method | Finder = "eap_ig",
    n_edges: Count | None = None,
    threshold: float = 0.1,
    absolute: bool = True,
    steps: Positive = 5,
    rule: Rule = "midpoint",
    ablation: Ablation | SourceLike = "corrupt",
    ablations: Sequence[Ablation] = ("zero", "mean"),
    positions: Positions | None = None,
    samples: Positive | None = None,
    splits: Positive | None = None,
    tried: Positive = 20,
    nulls: Positive = 5,
    generator: torch.Generator | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Stability:
    """Look for a circuit again and again: on other prompts, with other ablations, and with exchanged answers.

        >>> from interp_hooks.circuits import circuit_stability
        >>> stable = circuit_stability(model, pairs, method="eap", n_edges=30, nulls=2, progress=False)
        >>> stable.summary()["question"].unique().tolist()
        ['other prompts', 'another ablation', 'the truth of scores', 'a null']

    `method` is a score by gradients, of which the strongest `n_edges` are the circuit (default: a twentieth of all; by
    size if `absolute`; `steps` and `rule` are those of `eap_ig`), "acdc" with its `threshold`, or a function of
    (model, clean, corrupt, metric) that returns a circuit, for which ablations are not varied. Of the prompts `samples`
    are drawn with replacement (default: 200, or 10 for searches), and `splits` halves (20, or 5). `tried` edges are
    ablated alone, half of them the strongest of the circuit, half of them drawn from the others; `nulls` searches have
    answers exchanged. Draws come from `generator`.

    Raises:
        BadInput: fewer than 4 prompts; a metric that is a plain function, of which the answers cannot be exchanged; an
            unknown method, or what the search refuses.
        MetricError: as the search.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    return stability_of(
        model, clean, corrupt, metric, method=method, n_edges=n_edges, threshold=threshold, absolute=absolute,
        fractions=fractions_of(steps, rule), ablation=ablation, ablations=ablations, positions=positions,
        samples=samples, splits=splits, tried=tried, nulls=nulls, seed=seed, max_memory=max_memory, progress=progress,
    )  # fmt: skip


@on_data
def stability_of(
    model: HookedTransformer,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: MetricLike,
    *,
    method: Method | Finder,
    n_edges: int | None,
    threshold: float,
    absolute: bool,
    fractions: Sequence[float],
    ablation: Ablation | SourceLike,
    ablations: Sequence[Ablation],
    positions: Positions | None,
    samples: int | None,
    splits: int | None,
    tried: int,
    nulls: int,
    seed: int,
    max_memory: int | None = None,
    progress: bool = True,
) -> Stability:
    """`circuit_stability` with the seed that all draws come from."""
    generator = torch.Generator().manual_seed(seed)
    run, other = as_run(model, clean), None if corrupt is None else as_run(model, corrupt)
    total, n = len(ComputationGraph(model, positions or ())), len(run.tokens)
    n_edges = max(1, round(total / 20)) if n_edges is None else n_edges
    _check(method, metric, n, n_edges, total)
    assert isinstance(metric, Metric)
    given = setting(model, run, other, metric, ablation if not callable(method) else "zero", positions)
    search = Search(
        model=model, clean=run, corrupt=other, metric=metric.on(model), method=method, n_edges=n_edges,
        threshold=threshold, absolute=absolute, fractions=fractions, positions=given.positions,
        max_memory=max_memory,
    )  # fmt: skip
    named = _named(ablation)
    others: list[Ablation] = [one for one in ablations if one != named and (one == "zero" or other is not None)]
    others = [] if callable(method) else others
    samples = (200 if search.by_gradients else 10) if samples is None else samples
    splits = (20 if search.by_gradients else 5) if splits is None else splits
    with progress_bar(total=3 + len(others) + nulls, progress=progress, unit="search") as bar:
        scores = search.scores(ablation) if search.by_gradients else None
        (circuit,) = samples_of(search, ablation, scores, [search.every])
        bar.update()
        inclusion, halves = _on_other_prompts(search, ablation, scores, samples, splits, generator)
        bar.update()
        found, faithful = {}, {named: search.faithfulness(circuit, ablation)} if not callable(method) else {}
        for one in others:
            by_prompt = search.scores(one) if search.by_gradients else None
            (with_it,) = samples_of(search, one, by_prompt, [search.every])
            found[one], faithful[one] = with_it.kept, search.faithfulness(circuit, one)
            bar.update()
        names, predicted, intervened = _tried(search, circuit, ablation, scores, tried, generator)
        bar.update()
        null = [_null(search, circuit, ablation, generator, bar.update) for _ in range(nulls)]
    counts, strengths = torch.tensor(null, dtype=torch.float64).T
    return Stability(
        method=method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__),
        circuit=replace(circuit, record=None), prompts=n, samples=samples, inclusion=inclusion, halves=halves,
        ablation=named, found=found, faithfulness=faithful, tried=names, predicted=predicted, intervened=intervened,
        null=counts, null_strength=strengths,
    )  # fmt: skip


def _named(ablation: Ablation | SourceLike) -> str:
    return ablation if isinstance(ablation, str) else "as given"


def _check(method: Any, metric: Any, prompts: int, n_edges: int, total: int) -> None:
    if not isinstance(metric, Metric):
        raise BadInput(
            "stability needs a Metric, such as LogitDiff, which scores each prompt by an answer of its own, got "
            f"{told(metric)}, of which answers cannot be exchanged"
        )
    if prompts < FEWEST:
        raise BadInput(f"stability over prompts needs at least {FEWEST} of them, got {prompts}")
    refuse_outside("n_edges", n_edges, 1, total, "the number of edges")


def _on_other_prompts(
    search: Search,
    ablation: Ablation | SourceLike,
    scores: Tensor | None,
    samples: int,
    splits: int,
    generator: torch.Generator,
) -> tuple[EdgeMatrix, Float[Tensor, " split"]]:
    """How often each edge is found on prompts drawn anew, and what the circuits of halves have in common."""
    n = len(search.every)
    drawn = [torch.randint(n, (n,), generator=generator) for _ in range(samples)]
    inclusion = torch.zeros(search.graph.exists.shape, dtype=torch.float64)
    for circuit in samples_of(search, ablation, scores, drawn):
        inclusion += circuit.kept / samples
    shared = []
    for _ in range(splits):
        order = torch.randperm(n, generator=generator)
        one, other = samples_of(search, ablation, scores, [order[: n // 2], order[n // 2 : 2 * (n // 2)]])
        shared.append(jaccard(one.kept, other.kept))
    return inclusion.clamp(max=1.0), torch.tensor(shared, dtype=torch.float64)


def _tried(
    search: Search,
    circuit: Circuit,
    ablation: Ablation | SourceLike,
    scores: Tensor | None,
    n: int,
    generator: torch.Generator,
) -> tuple[list[str], Float[Tensor, " edge"], Float[Tensor, " edge"]]:
    """Some edges, what their scores say, and how much worse the metric gets without each of them."""
    graph, sizes = circuit.graph, torch.zeros(circuit.kept.shape, dtype=torch.float64)
    if circuit.scores is not None:
        sizes = circuit.scores.matrix
    predicted = sizes if scores is None else scores.mean(0)
    outside = (graph.exists & ~circuit.kept).nonzero()
    inside = circuit.kept.nonzero()
    inside = inside[sizes[tuple(inside.T)].abs().argsort(descending=True, stable=True)]
    inside = inside[: max(n - n // 2, n - len(outside))]
    outside = outside[torch.randperm(len(outside), generator=generator)[: n - len(inside)]]
    places = torch.cat((inside, outside))
    without = graph.exists.repeat(len(places), 1, 1)
    without[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    source = "zero" if callable(search.method) and search.corrupt is None else ablation
    values = search.edges(source).of_kept(torch.cat((graph.exists[None], without))).double().mean(1).cpu()
    names = [ARROW.join((graph.writers[writer], graph.readers[reader])) for writer, reader in places.tolist()]
    unknown = scores is None and circuit.scores is None
    told_of = predicted[tuple(places.T)] * (torch.nan if unknown else 1.0)
    return names, told_of, better(search.metric) * (values[0] - values[1:])


def _null(
    search: Search,
    circuit: Circuit,
    ablation: Ablation | SourceLike,
    generator: torch.Generator,
    done: Callable[[], object],
) -> tuple[float, float]:
    """How many edges are found with exchanged answers, and how strong they are beside those of the circuit."""
    answers = exchanged(len(search.every), generator)
    own, by_others = (
        evaluate(search.model, [search.clean], search.scored_by(search.every, one))[0]
        for one in (search.every, answers)
    )
    done()
    if torch.equal(own, by_others):
        return float("nan"), float("nan")
    if not search.by_gradients:
        found = search.found(ablation, search.every, answers)
        return float(len(found)), len(found) / max(1, len(circuit))
    assert circuit.scores is not None
    scores = search.scores(ablation, answers).mean(0)
    real, null = circuit.scores.listed, search.chosen(scores).scores
    assert null is not None
    ours, theirs = (one.abs() if search.absolute else one for one in (real, null.listed))
    weakest = ours.min().clamp(min=torch.finfo(torch.float32).eps * ours.max())
    return float((theirs >= weakest).sum()), float(theirs.abs().sum() / ours.abs().sum())
