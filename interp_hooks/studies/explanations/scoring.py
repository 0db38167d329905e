"""Whether an explanation tells where a unit fires, on texts that it was not made from.

    detection   here are texts, and an explanation: in which of them does the unit fire?
    fuzzing     here are texts with marked tokens: are these the tokens at which it fires?
    intruders   of some texts, which is the one in which the unit does not fire? (needs no explanation)

Half of the texts are `UnitExamples.test`, half `silent`, in pairs, so that the mean over pairs is the balanced
accuracy, and chance is 0.5. In fuzzing, the marks of a silent text lie as those of a text in which the unit fires, each
of which is taken once: neither their number nor their places tell anything. An answer that cannot be read counts as
wrong, and is counted. (Paulo et al. 2024, arxiv.org/abs/2410.13928.)

Beside the explanation stand controls that it has to beat: that of another unit, the rule "it fires at the token at
which it fires most often among the train examples", and the constant answer "yes".
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, Seed, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.explanations.answers import Request
from interp_hooks.studies.explanations.endpoint import Endpoint
from interp_hooks.studies.explanations.explaining import Explanations
from interp_hooks.studies.explanations.sources import UnitExamples
from interp_hooks.studies.explanations.trials import (
    INTRUDER,
    SPARE,
    UNREAD,
    Outcome,
    Scorer,
    Trial,
    like,
    listed,
    numbered,
    roc_auc,
)

OWN, OTHER, RULE, CONSTANT = "explanation", "another unit's", "most frequent token", "always yes"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ExplanationScores(Kept):
    """How well explanations, and the controls beside them, tell where units fire.

    `correct` says it of each pair of texts, first of the one in which the unit fires; `answered`, whether the answer
    could be read. `auc` is the area under the ROC curve of the probability of "1", nan where the server gives none.
    `texts` are the explanations, `asked` the endpoint; `limited_by` is the unit with so few texts that others of theirs
    were left out, if there is one.

    >>> from interp_hooks.studies import ExplanationScores
    >>> right = torch.tensor([[[[[True, False], [True, True]]]]])
    >>> scores = ExplanationScores(scorers=["detection"], explanations=["explanation"], units=["L1N17"], correct=right)
    >>> scores.result.mean.item()
    0.75
    """

    scorers: Sequence[str]
    explanations: Sequence[str]
    units: Sequence[str]
    correct: Bool[Tensor, "scorer explanation unit pair 2"]
    answered: Bool[Tensor, "scorer explanation unit pair 2"] | None = None
    auc: Float[Tensor, "scorer explanation unit"] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    limited_by: str = ""

    @property
    def result(self) -> Result:
        """The balanced accuracy [scorer, explanation, unit], a value for each pair; its baseline is chance."""
        values = self.correct.double().mean(-1)
        axes = {"scorer": list(self.scorers), "explanation": list(self.explanations), "unit": list(self.units)}
        chance = torch.full((values.shape[-1],), 0.5, dtype=values.dtype)
        return Result(metric="balanced_accuracy", axes=axes, values=values, baselines={"chance": chance})

    @checked
    def table(self, level: float = 0.95) -> pd.DataFrame:
        """A row for each scorer, explanation and unit.

        Columns are the balanced accuracy and the ends of its Wilson interval, the area under the ROC curve, how many
        texts were asked of, and for how many the answer could not be read.

        Raises:
            BadInput: a level outside 0..1.
        """
        right = self.correct.flatten(-2)
        accuracy, n = right.double().mean(-1), right.shape[-1]
        lower, upper = wilson(accuracy, n, level)
        auc = torch.full_like(accuracy, torch.nan) if self.auc is None else self.auc
        unread = torch.zeros_like(right) if self.answered is None else ~self.answered.flatten(-2)
        columns = {"balanced_accuracy": accuracy, "lower": lower, "upper": upper, "auc": auc}
        columns |= {"n_texts": torch.full_like(auc, n).long(), "unread": unread.sum(-1)}
        cells = itertools.product(self.scorers, self.explanations, self.units)
        table = pd.DataFrame(cells, columns=["scorer", "explanation", "unit"])
        return table.assign(**{name: one.flatten().tolist() for name, one in columns.items()})

    @property
    def note(self) -> str:
        """What may be misread, or ''."""
        notes = []
        if self.limited_by:
            n = self.correct.shape[-2]
            notes.append(f"{n} pairs of texts of each unit were asked of, as many as {self.limited_by} has")
        if self.answered is not None and (unread := int((~self.answered).sum())):
            notes.append(f"answers about {unread} texts could not be read, and count as wrong")
        if self.asked.get("log_probs") and (self.auc is None or bool(self.auc.isnan().all())):
            notes.append("the server gave no probabilities although it was asked for them, so there is no auc")
        return "; ".join(notes)

    def _words(self) -> list[str]:
        return [f"note: {self.note}"] if self.note else []


def wilson(share: Float[Tensor, "*grid"], n: int, level: float) -> tuple[Tensor, Tensor]:
    """The ends of the interval of a share of n (Wilson 1927, Journal of the American Statistical Association 22).

    Raises:
        BadInput: a level outside 0..1.
    """
    if not 0 < level < 1:
        raise BadInput(f"level must lie between 0 and 1, got {level}")
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)).sqrt()
    return middle - half, middle + half


@checked
def score_explanations(
    endpoint: Endpoint,
    examples: Mapping[str, UnitExamples],
    explanations: Explanations | Mapping[str, str],
    *,
    scorers: Sequence[Scorer] = ("detection", "fuzzing"),
    per_request: Positive = 5,
    seed: Seed = 0,
) -> ExplanationScores:
    """Ask a language model where units fire by their explanations, and compare with where they do.

    All units are asked about with the same number of pairs of texts, that of the unit with fewest, `per_request` texts
    at once. The control "another unit's" takes the explanation of the next unit, so that it needs two, and asks as many
    questions as the explanations themselves; the other controls ask none. With `Endpoint(log_probs=True)` there is an
    area under the ROC curve, too.

    Raises:
        EndpointError: as `Endpoint.ask`.
        BadInput: a unit without explanation, or an unknown scorer.

    >>> from interp_hooks.corpus import Bands, neurons, scan
    >>> from interp_hooks.studies import Endpoint, score_explanations, unit_examples
    >>> found = scan(model, [*clean, *corrupt], {"bands": Bands(neurons())}, progress=False)
    >>> examples = unit_examples(model, found, [(1, 17)], active=0.5, width=8)
    >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="any", cache=None, prices=(0.1, 0.4))
    >>> endpoint.dry_run(score_explanations, examples, {"L1N17": "names"}).price < 0.01
    True
    """
    texts = dict(explanations.texts if isinstance(explanations, Explanations) else explanations)
    if missing := [name for name in examples if not texts.get(name)]:
        raise BadInput(f"there is no explanation of {', '.join(missing)}; leave these units out of the examples")
    if not examples or not scorers:
        raise BadInput(f"scoring needs units and scorers, got {len(examples)} and {len(scorers)}")
    units = list(examples)
    sizes = {unit: min(len(one.test), len(one.silent)) for unit, one in examples.items()}
    n = min(sizes.values())
    trials = [
        Trial.of(scorer, examples[unit], n, per_request, random.Random(f"{seed} {scorer} {unit}"))
        for scorer in scorers
        for unit in units
    ]
    given = {OWN: {unit: texts[unit] for unit in units}}
    if len(units) > 1:
        given[OTHER] = {unit: texts[other] for unit, other in zip(units, [*units[1:], units[0]], strict=True)}
    questions = [[trial.requests(of_units[trial.unit]) for trial in trials] for of_units in given.values()]
    answers = iter(endpoint.ask([one for of_kind in questions for of_trial in of_kind for one in of_trial]))
    outcomes = {
        kind: [trial.read([next(answers) for _ in of_trial]) for trial, of_trial in zip(trials, of_kind, strict=True)]
        for kind, of_kind in zip(given, questions, strict=True)
    }
    outcomes |= {RULE: [trial.by_rule() for trial in trials], CONSTANT: [trial.always() for trial in trials]}

    def cells(values: Sequence[Sequence[Tensor]]) -> Tensor:
        """[explanation, trial, ...] as [scorer, explanation, unit, ...]."""
        return torch.stack([torch.stack(list(row)) for row in values]).unflatten(1, (len(scorers), -1)).transpose(0, 1)

    def of_outcomes(value: Any) -> Tensor:
        return cells([[value(trial, one) for trial, one in zip(trials, row, strict=True)] for row in outcomes.values()])

    def auc(trial: Trial, one: Outcome) -> Tensor:
        return torch.tensor(roc_auc(one.probability, trial.labels), dtype=torch.float64)

    return ExplanationScores(
        scorers=list(scorers),
        explanations=list(outcomes),
        units=units,
        correct=of_outcomes(lambda trial, one: (one.said == trial.labels).reshape(-1, 2)),
        answered=of_outcomes(lambda trial, one: (one.said != UNREAD).reshape(-1, 2)),
        auc=of_outcomes(auc),
        texts={unit: texts[unit] for unit in units},
        asked=endpoint.told,
        limited_by=min(sizes, key=sizes.__getitem__) if max(sizes.values()) > n else "",
    )


@checked
def find_intruders(
    endpoint: Endpoint, examples: Mapping[str, UnitExamples], *, among: Count = 5, seed: Seed = 0
) -> Result:
    """Ask a language model for the text, `among` some, in which a unit does not fire: can one tell without words?

    Each silent text is the intruder once; the others are drawn from the test examples, and marks lie in the intruder as
    in one of them. The result has the shares [measure, unit] of questions in which it was "found", and in which the
    answer was "unread" (and not found); chance is 1 / `among`.

    Raises:
        EndpointError: as `Endpoint.ask`.
        BadInput: fewer than `among` - 1 test examples of a unit.

    >>> from interp_hooks.corpus import Bands, neurons, scan
    >>> from interp_hooks.studies import Endpoint, find_intruders, unit_examples
    >>> found = scan(model, [*clean, *corrupt], {"bands": Bands(neurons())}, progress=False)
    >>> examples = unit_examples(model, found, [(1, 17)], active=0.5, width=8)
    >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="any", cache=None)
    >>> endpoint.dry_run(find_intruders, examples, among=2).n_requests == len(examples["L1N17"].silent)
    True
    """
    if among < 2 or not examples:
        raise BadInput(
            f"an intruder is looked for among at least 2 texts of some units, got {among} and {len(examples)}"
        )
    if few := [name for name, one in examples.items() if len(one.test) < among - 1]:
        raise BadInput(f"{few[0]} has {len(examples[few[0]].test)} test examples, of which {among - 1} are needed")
    n = min(len(one.silent) for one in examples.values())
    asked = [
        one for unit in examples.values() for one in _intruders(unit, n, among, random.Random(f"{seed} {unit.name}"))
    ]
    answers = endpoint.ask([request for request, _ in asked])
    said = [listed(answer.text, 1, range(1, among + 1)) for answer in answers]
    found = [one == [right] for one, (_, right) in zip(said, asked, strict=True)]
    values = torch.tensor([found, [one is None for one in said]], dtype=torch.float64)
    axes = {"measure": ["found", "unread"], "unit": list(examples)}
    return Result(metric="share", axes=axes, values=values.unflatten(1, (len(examples), n)))


def _intruders(unit: UnitExamples, n: int, among: int, rng: random.Random) -> list[tuple[Request, int]]:
    """The questions of a unit, each with the number of the intruder."""
    found = []
    for silent in rng.sample(unit.silent, n):
        others = rng.sample(unit.test, among - 1)
        marks = [one.firing(unit.threshold) for one in others]
        texts = [one.marked(places) for one, places in zip(others, marks, strict=True)]
        place = rng.randrange(among)
        texts.insert(place, silent.marked(like([rng.choice(marks)], [silent], rng)[0]))
        request = Request(system=INTRUDER, user="\n".join(numbered(texts)), max_tokens=SPARE)
        found.append((request, place + 1))
    return found
