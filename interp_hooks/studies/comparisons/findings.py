"""All comparisons of two models in one call, and what they find, ranked.

What the models do differently is ranked by effect: a mean difference in standard deviations (Cohen's d). For groups of
spans it is the smaller of their own and of how far they stand out from other spans; for tokens that one model favours
the smaller of Cohen's h, of shares of positions, and of sqrt(2 KL), the distance in standard deviations of two normal
distributions with that divergence. Where it comes from, which takes two models of one architecture, is listed after it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_hooks.corpus.reading import Corpus, documents
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import Count, Seed, checked
from interp_hooks.experiments.results.folders import PARTS, replacing
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.runs import Run
from interp_hooks.model.tensor_files import write_text
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.activations import activation_changes, pattern_changes
from interp_hooks.studies.comparisons.batteries import TaskComparison, compare_on_tasks
from interp_hooks.studies.comparisons.between import cross_model_patch, weight_changes
from interp_hooks.studies.comparisons.losses import (
    GROUP_MEASURES,
    MODELS,
    Group,
    LossComparison,
    compare_losses,
    standardized,
)
from interp_hooks.studies.comparisons.pairs import refuse_other_vocabulary
from interp_hooks.studies.comparisons.predictions import PredictionChanges, prediction_changes
from interp_hooks.studies.wikis.making import generated_corpus

GROUPS: tuple[Group, ...] = ("repetition", "kind", "position", "span", "bigram")
SHOWN = 5  # tokens that a claim names
PATCHED, PATCHED_TOKENS = 8, 64  # documents that are patched across, and tokens of each
DIFF, MADE_OF = "diff", ("losses", "tasks", "predictions", "weights", "activations", "patterns")
SMALL = 0.01  # effects below it are no findings


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """One way in which two models differ: what, how large, what shows it, and the call that gives that.

    `effect` is in standard deviations; positive if `other` is the better one, or has more of it; None for places in the
    model, which are told by other measures.
    """

    claim: str
    effect: float | None
    evidence: pd.DataFrame = field(repr=False)
    call: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelDiff:
    """What two models do differently, `behaviour`, the largest effect first; and `places`, where that comes from.

    `losses`, `tasks`, `predictions`, `weights`, `activations`, `patterns` and `patching` are what it is made of; those
    that the models do not allow are None, and `left_out` says why. Prints as its table.
    """

    names: tuple[str, str]
    corpus: str
    behaviour: Sequence[Difference]
    places: Sequence[Difference]
    losses: LossComparison | None
    tasks: TaskComparison | None
    predictions: PredictionChanges | None
    weights: Result | None
    activations: Result | None
    patterns: Result | None
    patching: Mapping[str, Result]
    left_out: Mapping[str, str]

    def table(self) -> pd.DataFrame:
        """A row for each finding: `what` ("behaviour" or "place"), `claim`, `effect` (nan of places) and `call`."""
        listed = [("behaviour", one) for one in self.behaviour] + [("place", one) for one in self.places]
        rows = [(what, one.claim, math.nan if one.effect is None else one.effect, one.call) for what, one in listed]
        return pd.DataFrame(rows, columns=["what", "claim", "effect", "call"])

    @checked
    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the list of findings, `diff.json`, and in `parts` what they are made of, as each part's `save` does.

        With `overwrite` a diff that is there is replaced; it stays until the new one is whole.

        Raises:
            BadInput: the folder holds something else, or a diff and `overwrite` is off.
        """
        with replacing(folder, DIFF, overwrite) as beside:
            kept: dict[str, Any] = {name: getattr(self, name) for name in MADE_OF}
            kept |= {f"patching {direction}": result for direction, result in self.patching.items()}
            for name, part in kept.items():
                if part is not None:
                    part.save(beside / PARTS / name)
            about = {"names": list(self.names), "corpus": self.corpus, "left_out": dict(self.left_out)}
            findings = json.loads(str(self.table().to_json(orient="records")))
            write_text(beside / f"{DIFF}.json", json.dumps({**about, "findings": findings}, indent=2) + "\n")

    def __repr__(self) -> str:
        lines = [f"{self.names[1]} beside {self.names[0]}, on {self.corpus}"]
        lines += [f"{one.effect:+8.2f}  {one.claim}" for one in self.behaviour if one.effect is not None]
        lines += [f"{'':8}  {one.claim}" for one in self.places]
        return "\n".join(lines)


@checked
def diff_models(
    model: HookedTransformer,
    other: HookedTransformer,
    corpus: Corpus | None = None,
    *,
    n: Count = 32,
    limit: Count | None = 256,
    length: Count | None = None,
    seed: Seed = 0,
    names: tuple[str, str] | None = None,
    progress: bool = False,
) -> ModelDiff:
    """What is different in `other`? Losses, tasks and predictions; weights, activations and patching where they fit.

    `corpus` are texts, as for `compare_losses` (default: generated sentences about giving; for models without tokenizer
    random tokens that come twice), of which `limit` documents are read (None: all). `n` prompts are drawn of every
    task; `names` are what to call the two models. What they do not allow (other vocabularies, other sizes) is left out,
    and said in `left_out`.

    Raises:
        BadInput: models of which one reads texts and the other token ids alone, or nothing that can be compared.

    >>> from interp_hooks.studies import diff_models, interpolated
    >>> found = diff_models(model, model, clean, n=4)
    >>> found.behaviour, [float(found.weights.mean.max()), float(found.predictions.mean[0])]
    ([], [0.0, 0.0])
    """
    if (model.tokenizer is None) != (other.tokenizer is None):
        raise BadInput("one of these models reads texts and the other token ids: there is nothing that both can read")
    given, name = (corpus, "texts that were given") if corpus is not None else generated_corpus(model, seed)
    texts = list(itertools.islice(documents(model, given), limit))
    left_out = dict[str, str]()

    def tried(what: str, compared: Callable[[], Any]) -> Any:
        try:
            return compared()
        except (BadInput, TokenError) as reason:
            left_out[what] = str(reason)
            return None

    options = dict[str, Any](length=length, progress=progress)
    both = (model, other)
    losses = tried("losses", lambda: compare_losses(*both, texts, length=length))
    tasks = tried("tasks", lambda: compare_on_tasks(*both, n=n, seed=seed))
    predictions = tried("predictions", lambda: prediction_changes(*both, texts, **options))
    if losses is None and tasks is None:
        raise BadInput("nothing can be compared: " + "; ".join(f"{what}: {why}" for what, why in left_out.items()))
    weights = tried("weights", lambda: weight_changes(*both))
    alike = weights is not None and tried("activations", lambda: refuse_other_vocabulary(*both) or True)
    activations = tried("activations", lambda: activation_changes(*both, texts, **options)) if alike else None
    patterns = tried("attention", lambda: pattern_changes(*both, texts, **options)) if alike else None
    patching = dict[str, Result]()
    if alike and losses is not None:
        run = _better_texts(model, texts, losses)
        for direction, (into, source) in {"other into model": both, "model into other": (other, model)}.items():
            patched = tried("patching", lambda into=into, source=source: _patched(into, source, run))
            patching |= {} if patched is None else {direction: patched}
    behaviour = [
        *([] if losses is None else _of_losses(losses)),
        *([] if tasks is None else _of_tasks(tasks)),
        *([] if predictions is None else _of_predictions(predictions)),
    ]
    behaviour = [one for one in behaviour if one.effect is not None and abs(one.effect) >= SMALL]
    return ModelDiff(
        names=_names(model, other) if names is None else names,
        corpus=name,
        behaviour=sorted(behaviour, key=lambda one: -abs(one.effect or 0.0)),
        places=list(_places(weights, activations, patterns, patching)),
        losses=losses,
        tasks=tasks,
        predictions=predictions,
        weights=weights,
        activations=activations,
        patterns=patterns,
        patching=patching,
        left_out=left_out,
    )


def _names(model: HookedTransformer, other: HookedTransformer) -> tuple[str, str]:
    one, two = model.cfg.model_name or "model", other.cfg.model_name or "other"
    return (one, two) if one != two else (f"{one} (model)", f"{two} (other)")


# ----------------------------------------------------------------------------------------------------------- behaviour


def _better(effect: float) -> str:
    return "other" if effect > 0 else "model"


def _of_losses(losses: LossComparison) -> Iterator[Difference]:
    bits, unit = losses.result(), losses.unit
    a, b = bits.values
    effect = float(-standardized((b - a).mean(), torch.stack((a, b)).var(1, unbiased=False).mean().sqrt()))
    total = losses.table()[f"bits_per_{unit}"].tolist()
    yield Difference(
        claim=f"{_better(effect)} predicts the texts better: {total[0]:.3f} bits per {unit} in model, "
        f"{total[1]:.3f} in other",
        effect=effect,
        evidence=losses.largest(10, better="other" if effect > 0 else "model"),
        call="compare_losses(model, other, texts).largest()",
    )
    told = set[tuple[float, ...]]()
    for group in GROUPS:
        try:
            found = losses.by(group)
        except BadInput:  # no group of enough spans
            continue
        effects = [_own_effect(row) for row in found.mean.tolist()]
        for better in (1, -1):  # of those that each model predicts better, the one that stands out most
            place = next((place for place, effect in enumerate(effects) if effect * better > 0), None)
            if place is None or tuple(found.mean[place].tolist()) in told:  # " box" and " a box" may be the same spans
                continue
            told.add(tuple(found.mean[place].tolist()))
            values = dict(zip(GROUP_MEASURES, found.mean[place].tolist(), strict=True))
            label = found.axes[group][place]
            yield Difference(
                claim=f"{_better(better)} predicts {_in_words(group, label)} better: {values['model']:.2f} bits in "
                f"model, {values['other']:.2f} in other ({int(values['spans'])} spans)",
                effect=effects[place],
                evidence=_of_group(found, group, place),
                call=f"compare_losses(model, other, texts).by({group!r})",
            )


def _own_effect(row: Sequence[float]) -> float:
    """The effect of a group that is no more than what it stands out by, positive where the other model is better."""
    values = dict(zip(GROUP_MEASURES, row, strict=True))
    return math.copysign(min(abs(values["effect"]), abs(values["contrast"])), -values["difference"])


def _of_group(found: Result, group: str, place: int) -> pd.DataFrame:
    """The groups that stand out most, and the one at this place."""
    shown = sorted({*range(min(10, len(found.mean))), place})
    table = pd.DataFrame(found.mean[shown].tolist(), columns=list(GROUP_MEASURES))
    table["spans"] = table["spans"].astype(int)
    table.insert(0, group, [str(found.axes[group][one]) for one in shown])
    return table


def _in_words(group: str, label: str) -> str:
    if label == "continues a repetition":
        return "what continues a repetition (induction)"
    forms = {"repetition": "what is {}", "kind": "spans of the kind {!r}", "position": "spans no. {} of a text"}
    return forms.get(group, "{!r}").format(label)


def _of_tasks(tasks: TaskComparison) -> Iterator[Difference]:
    table = tasks.table()
    for number, task in enumerate(table["task"].tolist()):
        row = table.drop(columns="task").iloc[number].to_dict()
        right, scores = ([row[f"{what}_{one}"] for one in MODELS] for what in ("accuracy", "score"))
        yield Difference(
            claim=f"{_better(row['effect'])} does {task!r} better: right in {right[0]:.0%} of {int(row['prompts'])} "
            f"prompts in model, in {right[1]:.0%} in other; {tasks.metrics[task]} {scores[0]:.2f} and {scores[1]:.2f}",
            effect=row["effect"],
            evidence=table.iloc[[number]],
            call="compare_on_tasks(model, other).table()",
        )


def _of_predictions(predictions: PredictionChanges) -> Iterator[Difference]:
    table = predictions.mining(10)
    if not len(table):
        return
    share, chance = float(table["share"].iloc[0]), predictions.by_chance
    enriched = 2 * math.asin(math.sqrt(share)) - 2 * math.asin(math.sqrt(chance))
    effect = min(enriched, math.sqrt(2 * float(predictions.mean[0])))
    tokens = table["token"].tolist()
    yield Difference(
        claim=f"other favours {', '.join(map(repr, tokens[:SHOWN]))}: {tokens[0]!r} at {share:.0%} of positions, by "
        f"chance at {chance:.0%}",
        effect=effect,
        evidence=table,
        call="prediction_changes(model, other, texts).mining()",
    )


# -------------------------------------------------------------------------------------------------------------- places


def _places(
    weights: Result | None, activations: Result | None, patterns: Result | None, patching: Mapping[str, Result]
) -> Iterator[Difference]:
    if weights is not None and bool((weights.mean[:, 0] > 0).any()):
        table = _by_part(weights)
        part, size = weights.axes["part"][int(weights.mean[:, 0].argmax())], float(weights.mean[:, 0].max())
        unchanged = int((weights.mean[:, 0] == 0).sum())
        yield Difference(
            claim=f"weights changed most, relative to their size, in {part} (by {size:.2g}); {unchanged} of "
            f"{len(weights.mean)} parts did not change",
            effect=None,
            evidence=table.head(10),
            call="weight_changes(model, other)",
        )
    for direction, result in patching.items():
        if result.nothing_to_recover:
            continue
        fractions = result.recovered_fraction
        steps = torch.diff(fractions, prepend=fractions.new_zeros(1))
        layer = int(steps.argmax())
        into, source = ("model", "other") if direction == "other into model" else ("other", "model")
        yield Difference(
            claim=f"put into {into}, the stream after layer {layer} of {source} brings {float(fractions[layer]):.0%} "
            f"of the difference in loss, the one before that layer {float(fractions[layer] - steps[layer]):.0%}",
            effect=None,
            evidence=result.table(),
            call=f"cross_model_patch({into}, {source}, texts)",
        )
    if activations is not None and bool((activations.mean[..., 0] > 0).any()):
        first = [float(one) for one in activations.mean[:, -1, 0]]
        layer = next(place for place, size in enumerate(first) if size > 0)
        yield Difference(
            claim=f"activations differ from layer {layer} on, where {activations.axes['hook'][-1]} does by "
            f"{first[layer]:.2g} of its size; in the last layer by {first[-1]:.2g}",
            effect=None,
            evidence=_by_measure(activations),
            call="activation_changes(model, other, texts)",
        )
    if patterns is not None and bool((patterns.mean > 0).any()):
        table = patterns.top(10)
        place, head = divmod(int(patterns.mean.argmax()), patterns.mean.shape[1])
        yield Difference(
            claim=f"attention changed most in L{patterns.axes['layer'][place]}H{head}: "
            f"{float(patterns.mean.max()):.0%} of it goes elsewhere",
            effect=None,
            evidence=table.drop(columns="standard_error"),
            call="pattern_changes(model, other, texts)",
        )


def _by_part(weights: Result) -> pd.DataFrame:
    table = pd.DataFrame(weights.mean.tolist(), columns=list(weights.axes["measure"]))
    table["rank"] = pd.Series(["" if math.isnan(one) else int(one) for one in table["rank"]], dtype=object)
    table.insert(0, "part", list(weights.axes["part"]))
    return table.sort_values("relative_change", ascending=False, kind="stable").reset_index(drop=True)


def _by_measure(activations: Result) -> pd.DataFrame:
    rows = itertools.product(activations.axes["layer"], activations.axes["hook"])
    numbers = activations.mean.flatten(0, 1).tolist()
    columns = ["layer", "hook", *activations.axes["measure"]]
    return pd.DataFrame([(*row, *values) for row, values in zip(rows, numbers, strict=True)], columns=columns)


def _better_texts(model: HookedTransformer, texts: Sequence[str | Tensor], losses: LossComparison) -> Run:
    """The documents whose losses differ most, cut alike, as a run."""
    found = losses.result()
    change = (found.values[1] - found.values[0]).abs()
    best = losses.document.unique()[change.argsort(descending=True, stable=True)[:PATCHED]].tolist()
    rows = [model.to_tokens(one, truncate=True)[0] if isinstance(one, str) else one for one in (texts[n] for n in best)]
    size = min(PATCHED_TOKENS, model.cfg.n_ctx, max(map(len, rows)))
    tokens = torch.zeros(len(rows), size, dtype=torch.long)
    mask = torch.zeros(len(rows), size, dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row[:size])], mask[place, : len(row[:size])] = row[:size].cpu(), 1
    return Run(tokens.to(model.device), (), mask.to(model.device))


def _patched(into: HookedTransformer, source: HookedTransformer, run: Run) -> Result:
    mask = None if run.attention_mask is None else run.attention_mask.to(into.device)
    return cross_model_patch(into, source, Run(run.tokens.to(into.device), (), mask), Loss(), progress=False)
