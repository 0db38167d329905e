"""Tasks that two models are both asked to do, prompt by prompt; and texts that both go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, MetricError, NoTokenizer, TokenError
from interp_hooks.errors.arguments import Count, Seed, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.experiments.task import Task
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import LogitMargin
from interp_hooks.interventions.runs import as_run
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.losses import MODELS, standardized
from interp_hooks.studies.comparisons.pairs import same_tokenizer
from interp_hooks.tasks.ioi_text import ioi
from interp_hooks.tasks.symbols import induction
from interp_hooks.tasks.templates import (
    acronyms,
    capitals,
    docstring,
    gendered_pronoun,
    greater_than,
    in_context,
    repeated_words,
    subject_verb_agreement,
)

MakesTask = Callable[[HookedTransformer, int, int], Task]
"""A function of a model, a number of prompts and a seed."""
BATTERY_MEASURES = (
    *("accuracy_model", "accuracy_other", "score_model", "score_other", "difference", "standard_error", "effect"),
    "prompts",
)
LENGTH = 10  # different tokens of the induction task in token ids
MAD = 1.4826  # median absolute deviations to a standard deviation, of a normal distribution


def _in_words(make: Callable[..., Task]) -> MakesTask:
    return lambda model, n, seed: make(model, n, seed=seed)


def _induction(model: HookedTransformer, n: int, seed: int) -> Task:
    if model.tokenizer is not None:
        raise TokenError("this model reads text, and gets the same task in words")
    length = min(LENGTH, (model.cfg.n_ctx - 1) // 2)
    task = induction(n, min(model.cfg.d_vocab, model.cfg.d_vocab_out), length=length, seed=seed)
    told = torch.as_tensor(task.clean)[:, 1 : 1 + length]
    rest = told[told != task.answer[:, None]].reshape(n, length - 1)
    return replace(task, wrong=rest, metric=LogitMargin(task.answer, rest))  # what is merely in the prompt is wrong


TASKS: Mapping[str, MakesTask] = {
    "induction": _induction,
    "repeated words": _in_words(repeated_words),
    "indirect object": _in_words(ioi),
    "greater than": _in_words(greater_than),
    "acronyms": _in_words(acronyms),
    "gendered pronoun": _in_words(gendered_pronoun),
    "capitals": _in_words(capitals),
    "docstring": _in_words(docstring),
    "antonyms in context": _in_words(in_context),
    "subject-verb agreement": _in_words(subject_verb_agreement),
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TaskComparison(Kept):
    """How two models do some tasks. Prints as a row for each.

    `scores[task]` are [model, prompt]: the task's metric, positive where the right answer is preferred; `prompts[task]`
    their texts, `metrics[task]` what was measured, and `left_out` why a task was not done.
    """

    scores: Mapping[str, Float[Tensor, "model prompt"]]
    prompts: Mapping[str, Sequence[str]]
    metrics: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def result(self) -> Result:
        """Axes "task" and "measure".

        The share of prompts with the right answer and the mean score, of both models; the mean `difference` of scores
        (other less model) and its standard error over prompts; the `effect`, that difference in standard deviations of
        the two models' scores (Cohen's d); and the number of `prompts`.
        """
        rows = [_measures(one.double()) for one in self.scores.values()]
        return Result(
            metric="value",
            axes={"task": list(self.scores), "measure": list(BATTERY_MEASURES)},
            values=torch.stack(rows)[..., None],
        )

    def scores_of(self, task: str) -> Result:
        """The scores of both models on a task's prompts: the axis is "model".

        Raises:
            BadInput: no such task was done.
        """
        if task not in self.scores:
            raise BadInput(f"there is no task {task!r}; done were {', '.join(self.scores)}")
        return Result(metric=self.metrics[task], axes={"model": list(MODELS)}, values=self.scores[task])

    def table(self) -> pd.DataFrame:
        """A row for each task, with the measures of `result`, the largest effect first."""
        rows = self.result().mean
        order = rows[:, BATTERY_MEASURES.index("effect")].abs().argsort(descending=True, stable=True).tolist()
        table = pd.DataFrame(rows[order].tolist(), columns=list(BATTERY_MEASURES))
        table["prompts"] = table["prompts"].astype(int)
        table.insert(0, "task", [[*self.scores][place] for place in order])
        return table

    @checked
    def outliers(self, k: Count = 10) -> pd.DataFrame:
        """The `k` prompts on which the models differ least like they do on the rest of the task.

        `deviations` is how far a prompt's difference of scores lies from the task's median, in median absolute
        deviations times 1.4826 (of tasks in which these are 0, in standard deviations).
        """
        rows = []
        for task, scores in self.scores.items():
            change = scores[1].double() - scores[0].double()
            away = change - change.median()
            spread = MAD * away.abs().median()
            deviations = standardized(away, spread if spread > 0 else change.std(unbiased=False))
            listed = zip(self.prompts[task], *scores.tolist(), change.tolist(), deviations.tolist(), strict=True)
            rows += [(task, *one) for one in listed]
        table = pd.DataFrame(rows, columns=["task", "prompt", *MODELS, "difference", "deviations"])
        order = table["deviations"].abs().sort_values(ascending=False, kind="stable").index[:k]
        return table.loc[order].reset_index(drop=True)


@checked
def compare_on_tasks(
    model: HookedTransformer,
    other: HookedTransformer,
    tasks: Mapping[str, Callable[..., Task]] | None = None,
    *,
    n: Count = 32,
    seed: Seed = 0,
) -> TaskComparison:
    """Ask two models to do the same tasks, and compare them prompt by prompt.

    `tasks` are functions of (model, number of prompts, seed), by name; by default all that the models' tokenizers allow
    of those in `interp_hooks.tasks` (of models without tokenizer: induction). Models with other tokenizers each get the
    task as their own makes it, and are compared on the prompts that both got.

    Raises:
        BadInput: no task can be done by both; the message says why.

    >>> from interp_hooks.studies import compare_on_tasks
    >>> compare_on_tasks(model, model, n=4).table()[["task", "effect"]].head(2).values.tolist()
    [['repeated words', 0.0], ['indirect object', 0.0]]
    """
    chosen: Mapping[str, Any] = TASKS if tasks is None else tasks
    if n < 2 or not chosen:
        raise BadInput(f"expected at least one task and two prompts, got {len(chosen)} and {n}")
    scores, prompts, metrics, left_out = dict[str, Tensor](), dict[str, list[str]](), dict[str, str](), dict[str, str]()
    for name, make in chosen.items():
        try:
            given = [make(model, n, seed)]
            given.append(given[0] if same_tokenizer(model, other) else make(other, n, seed))
            found = [_scores(one, task) for one, task in zip((model, other), given, strict=True)]
        except (BadInput, TokenError, NoTokenizer, MetricError) as reason:
            left_out[name] = str(reason)
            continue
        common = [text for text in found[0] if text in found[1]]
        if len(common) < 2:
            left_out[name] = f"{len(common)} of the prompts fit both tokenizers"
            continue
        scores[name] = torch.tensor([[one[text] for text in common] for one in found], dtype=torch.float64)
        prompts[name], metrics[name] = common, given[0].metric.name
    if not scores:
        raise BadInput("no task can be done by both models: " + "; ".join(f"{k}: {v}" for k, v in left_out.items()))
    return TaskComparison(scores=scores, prompts=prompts, metrics=metrics, left_out=left_out)


def _scores(model: HookedTransformer, task: Task) -> dict[str, float]:
    """The metric of every prompt, by its text."""
    run, word = as_run(model, task.clean), names_of(model)
    rows = run.tokens.tolist() if isinstance(task.clean, Tensor) else None
    texts = list(map(str, task.clean)) if rows is None else [" ".join(map(word, row)) for row in rows]
    scores = evaluate(model, [run], task.metric)[0].tolist()
    return dict(zip(texts, scores, strict=True))


def _measures(scores: Float[Tensor, "model prompt"]) -> Float[Tensor, " measure"]:
    n, change = scores.shape[1], scores[1] - scores[0]
    deviation = scores.var(1, unbiased=False).mean().sqrt()
    return torch.stack(
        (
            *(scores > 0).double().mean(1),
            *scores.mean(1),
            change.mean(),
            change.std() / n**0.5,
            standardized(change.mean(), deviation),
            torch.tensor(float(n), dtype=scores.dtype),
        )
    )


@checked
def side_by_side(
    model: HookedTransformer,
    other: HookedTransformer,
    prompts: Sequence[str],
    *,
    max_new_tokens: Count = 30,
    do_sample: bool = False,
    seed: Seed = 0,
    **options: Any,
) -> pd.DataFrame:
    """How each of two models goes on with some prompts: a row for each, with columns `prompt`, `model` and `other`.

    The likeliest tokens, or with `do_sample` drawn ones, from the same seed in both. Other keyword arguments are those
    of `model.generate`.

    Raises:
        BadInput: no prompts, or what `generate` raises.

    >>> from interp_hooks.studies import side_by_side
    >>> prompts = ["When Mary and John went to the store, John gave a ring to"]
    >>> side_by_side(model, model, prompts, max_new_tokens=1)["other"].tolist()
    [' Mary']
    """
    if not prompts or isinstance(prompts, str):
        raise BadInput(f"expected a list of prompts, got {prompts!r}")

    def written(one: HookedTransformer, prompt: str) -> str:
        drawn = torch.Generator(one.device).manual_seed(seed) if do_sample else None
        options["do_sample"] = do_sample
        text = one.generate(prompt, max_new_tokens, generator=drawn, verbose=False, return_type="str", **options)
        return str(text).removeprefix(prompt)

    rows = [(prompt, *(written(one, prompt) for one in (model, other))) for prompt in prompts]
    return pd.DataFrame(rows, columns=["prompt", *MODELS])
