"""A task: prompts in pairs, the answers that tell whether a model can do it, and the metric that asks.

Experiments take `task.clean`, `task.corrupt` and `task.metric`; `interp_hooks.tasks` has tasks that are ready made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import LogitDiff, LogitMargin
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import Prompts, as_run
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Pairs of prompts that differ where it matters, their answers, and a metric that compares the answers.

    Prompts and answers are in the forms that experiments and metrics take: text, or token ids.

        clean, corrupt   prompts of equal length, pair by pair: texts, or token ids [prompt, pos]
        answer           the token that is right after each clean prompt: texts, or ids [prompt]
        wrong            what the answer is compared with: one token for each prompt, as `answer`, or several, as ids
                         [prompt, n]; (the first) one is right after the corrupt prompt, where that has an answer
        metric           is positive where the model prefers the answer
        positions        token positions by label, each [prompt], in `model.to_tokens(clean)`; "end" is the last token
        labels           a name for each token position, for figures: the token itself where all clean prompts have the
                         same, else that of the first prompt in angle brackets; empty if prompts differ in length
        template         which sentence pattern each prompt has, [prompt]; 0 by default
        left_out         how many prompts were drawn and not used, by reason

    A task that asks at several positions has `answer` and `wrong` as ids [prompt, pos], equal where nothing is asked.

    >>> task = Task(name="ioi", clean=clean, corrupt=corrupt, answer=pairs.answer, wrong=pairs.wrong, metric=metric)
    >>> task.check(model).mean[0].item()  # the share of prompts in which the model prefers the answer
    1.0
    """

    name: str
    clean: Prompts
    corrupt: Prompts
    answer: Any
    wrong: Any
    metric: Metric
    positions: Mapping[str, Int[Tensor, " prompt"]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    template: Int[Tensor, " prompt"] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template is None:
            object.__setattr__(self, "template", torch.zeros(len(self), dtype=torch.long))
        if not self.labels and isinstance(self.clean, Tensor):
            rows = self.clean.tolist()
            object.__setattr__(self, "labels", position_labels(rows, rows[0]))

    def __len__(self) -> int:
        return len(self.answer)

    def __repr__(self) -> str:
        lines = [f"{self.name}: {len(self)} pairs of prompts, metric {self.metric.name}; the first pair:"]
        for name, given in {"clean": self.clean, "corrupt": self.corrupt, "answer": self.answer}.items():
            rows = [given] if isinstance(given, str) else given
            first = rows[0].tolist() if isinstance(rows, Tensor) else rows[0]
            lines.append(f"    {name:<9}{first}")
        return "\n".join([*lines, f"positions: {', '.join(self.positions) or 'none has a name'}"])

    @checked
    def check(self, model: HookedTransformer) -> Result:
        """How well the model does the task, [2, prompt]: "accuracy", 1 where the metric is positive, and the metric.

        `check(model).table()` shows means, `.interval()` how sure they are.
        """
        scores = evaluate(model, [as_run(model, self.clean)], self.metric)[0]
        values = torch.stack(((scores > 0).to(scores), scores))
        return Result(metric=self.metric.name, axes={"measure": ["accuracy", self.metric.name]}, values=values)


def comparison(answer: Int[Tensor, " prompt"], wrong: Int[Tensor, "prompt n"]) -> Metric:
    """The answer's logit minus the wrong one's, or minus the largest where there are several wrong ones."""
    return LogitDiff(answer, wrong[:, 0]) if wrong.shape[1] == 1 else LogitMargin(answer, wrong)


def position_labels(rows: Sequence[Sequence[int]], first: Sequence[Any]) -> list[str]:
    """Name each position of some prompts after the token that the first prompt has there.

    Angle brackets mark the positions where prompts differ. Prompts of several lengths have no names.
    """
    if len(set(map(len, rows))) != 1:
        return []
    varies = [len(set(column)) > 1 for column in zip(*rows, strict=True)]
    return [f"<{token}>" if differ else f"{token}" for token, differ in zip(first, varies, strict=True)]
